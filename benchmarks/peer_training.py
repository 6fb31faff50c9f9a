"""Steps of training of Transformers' Qwen3 in torch, in a process of their own.

    python benchmarks/peer_training.py TOKENS

Prints the seconds of each step: forward, backward and AdamW over windows of so many random tokens, float32, with
torch's fused attention and default threads, at the sizes and with the batch of the tiny preset.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

from wanstreamer_jax.config import TransformerConfig

WARM_UP, STEPS = 1, 3


def run_alone(n_tokens: int) -> list[float]:
    """Seconds of each step, in a process that has nothing else in it: threads of two libraries disturb each other."""
    command = [sys.executable, __file__, str(n_tokens)]
    return [float(line) for line in subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()]


def qwen3_step(cfg: TransformerConfig, batch: int, n_tokens: int) -> Callable[[], object]:
    """A step on random tokens."""
    import torch
    from peer_language import qwen3_model

    model = qwen3_model(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(cfg.vocab, (batch, n_tokens))

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Print the seconds."""
    from wanstreamer_jax.presets import load_preset, load_training

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=int, help="of a window")
    n_tokens = parser.parse_args().tokens
    step = qwen3_step(load_preset("tiny").transformer, load_training("tiny")["interact"].batch, n_tokens)
    for _ in range(WARM_UP):
        step()
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    from wanstreamer_jax.cpu import use_large_pages

    use_large_pages()
    main()
