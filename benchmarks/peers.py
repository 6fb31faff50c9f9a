"""The parts that are public models, ours and theirs: the same random weights, one process, taking turns.

    python benchmarks/peers.py [--only wan|qwen3|mimi|siglip2] [--seconds 8]

Batch 1, float32, on CPU; theirs are the classes of diffusers and transformers with torch's default threads, in
inference mode. A row is one live unit, step or frame, with the state that a session has by then:

    wan       4 frames to one latent and back, 112x64, against AutoencoderKLWan with its feature cache
    qwen3     24 tokens, or 1, to the scores after the last, with 2,048 cached; against Qwen3ForCausalLM with that of
              its caches which is faster (both are tried first), set back after each turn. Ours is a full ring, into
              which a commit then writes the new tokens, as it is live. The 0.6B needs 10 GB of memory
    mimi      3,840 samples to the latents before quantisation and back, with full windows, against MimiModel without
              its quantiser. Its encoder streams; its decoder keeps keys and values but no ends of convolutions, and
              so does a little less than ours
    siglip2   a frame of 256x256 to patch features, against SiglipVisionModel

Columns: median milliseconds of each side, theirs / ours and the ratio that is aimed for, and how far the results of
the first turn differ (relative L2). For a fair table the machine must be idle otherwise.
"""

import argparse
import statistics
import time

import diffusers
import jax
import numpy as np
import torch
import transformers
from machine import machine
from peer_language import qwen3
from peer_match import Match
from peer_media import mimi, siglip2, wan

TURN = 4  # runs that count
FAMILIES = {"wan": wan, "qwen3": qwen3, "mimi": mimi, "siglip2": siglip2}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FAMILIES, help="one family (default: all)")
    parser.add_argument("--seconds", type=float, default=8.0, help="measuring time of each row, in seconds")
    args = parser.parse_args()
    versions = ", ".join(
        f"{package.__name__} {package.__version__}" for package in (jax, torch, diffusers, transformers)
    )
    print(f"{machine()}; {versions}, {torch.get_num_threads()} torch threads\n")
    print("| part | size | work | ours ms | theirs ms | ratio | aim | difference |\n|---|---|---|---|---|---|---|---|")
    for name in [args.only] if args.only else FAMILIES:
        for match in FAMILIES[name]():
            print(row(name, match, args.seconds), flush=True)


@torch.inference_mode()
def row(name: str, match: Match, seconds: float) -> str:
    """Measure a match and return its row."""
    ours, theirs = match.ours(), match.theirs()
    difference = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    mine, other = take_turns(match, seconds)
    numbers = f"{mine:.1f} | {other:.1f} | {other / mine:.2f} | {match.aim} | {difference:.0e}"
    return f"| {name} | {match.size} | {match.work} | {numbers} |"


def take_turns(match: Match, seconds: float) -> tuple[float, float]:
    """Median milliseconds of ours and of theirs, taking turns of several runs until the time is over.

    The first run of a turn does not count: the other side's threads spin for a moment after their last.
    """
    sides = match.ours, match.theirs
    for _ in range(match.n_warm_turns):
        for run in sides:
            run()
    times: tuple[list[float], list[float]] = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for run, measured in zip(sides, times, strict=True):
            run()
            for _ in range(TURN):
                start = time.perf_counter()
                run()
                measured.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main()
