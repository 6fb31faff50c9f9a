"""A long session with a window, at sizes so small that what grows would show: bytes, and the time of a unit."""

import dataclasses
import os
import time
from pathlib import Path

import jax
import numpy as np

from placements.streams import random_params, streaming
from wanstreamer_jax.config import Config, HistoryConfig, TextConfig, WorldConfig
from wanstreamer_jax.parallel.mesh import choose_devices
from wanstreamer_jax.presets import load_preset
from wanstreamer_jax.stream.placement import Split
from wanstreamer_jax.timeline import Picture

COUNTED = 1000  # first and last units that are compared
N_WARM = 100  # units before the first counted: the window is full, everything is compiled


def print_flat(n_units: int) -> None:
    """Bytes and time of every thousand units, and the last thousand against the first."""
    config = small_config()
    replies = streaming(Split(config, random_params(config), choose_devices(1, config.transformer.kv_heads)))
    for _ in range(N_WARM):
        next(replies)
    ms = np.zeros(n_units)
    print(f"{config.name}, split, {config.history.n_tokens} tokens of window\n")
    print("| units | array bytes | MB of process | median ms | p95 ms |\n|---|---|---|---|---|")
    print(f"| 0 | {array_bytes():,} | {process_mb():.1f} | | |")
    for unit in range(n_units):
        start = time.perf_counter()
        next(replies)
        ms[unit] = 1000 * (time.perf_counter() - start)
        if (unit + 1) % COUNTED == 0:
            p50, p95 = np.percentile(ms[unit + 1 - COUNTED : unit + 1], [50, 95])
            print(f"| {unit + 1} | {array_bytes():,} | {process_mb():.1f} | {p50:.2f} | {p95:.2f} |", flush=True)
    first, last = np.median(ms[:COUNTED]), np.median(ms[-COUNTED:])
    print(f"\nlast {COUNTED} units against the first: {last / first - 1:+.1%}")


def small_config() -> Config:
    """The tiny preset with every part present and next to nothing in it."""
    tiny = load_preset("tiny")
    sound = dataclasses.replace(tiny.audio_vae, filters=2, width=16, layers=1, heads=2, mlp=16, latent_channels=6)
    return dataclasses.replace(
        tiny,
        name="small",
        picture=Picture(48, 32),
        video_vae=dataclasses.replace(tiny.video_vae, base=4, multipliers=(1, 1, 1, 1), latent_channels=4),
        audio_vae=sound,
        hearing=sound,
        vision=dataclasses.replace(tiny.vision, picture=Picture(32, 32), width=16, mlp=16, layers=1, heads=2),
        transformer=dataclasses.replace(tiny.transformer, width=32, layers=2, mlp=32, vocab=40),
        history=HistoryConfig(n_tokens=256),
        world=WorldConfig(max_text=16, max_voice=3),
        text=TextConfig(max_user=3, max_agent=4, unit_end=39),
    )


def array_bytes() -> int:
    """Bytes of all arrays on all devices."""
    return sum(x.nbytes for x in jax.live_arrays())


def process_mb() -> float:
    """Memory that the process takes of the machine's, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
