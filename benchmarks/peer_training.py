"""A training step of Transformers' Qwen3 in torch."""

from collections.abc import Callable

import torch
from peer_language import qwen3_model

from wanstreamer_jax.config import TransformerConfig


def qwen3_step(cfg: TransformerConfig, batch: int, n_tokens: int) -> Callable[[], object]:
    """Forward, backward and AdamW on random tokens, float32, with torch's fused attention and default threads."""
    model = qwen3_model(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(cfg.vocab, (batch, n_tokens))

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()

    return step
