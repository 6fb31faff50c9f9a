"""A long session with a window, at sizes so small that what grows would show: bytes, and the time of a unit."""

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from placements.streams import random_params, streaming
from wanstreamer_jax.config import Config, HistoryConfig, TextConfig, WorldConfig
from wanstreamer_jax.model import Params
from wanstreamer_jax.parallel.mesh import choose_devices
from wanstreamer_jax.presets import load_preset
from wanstreamer_jax.stream.placement import Reply
from wanstreamer_jax.stream.split import Split
from wanstreamer_jax.timeline import Picture

COUNTED = 1000  # first and last units that are compared
N_WARM = 100  # units before the first counted: the window is full, everything is compiled
N_TURNS, N_TURN = 40, 25  # turns of each session, units of a turn


def print_flat(n_units: int) -> None:
    """Bytes and time of every thousand units, and the last thousand against the first."""
    config = small_config()
    params = random_params(config)
    replies = warm_stream(config, params)
    wall, work = np.zeros(n_units), np.zeros(n_units)  # ms
    print(f"{config.name}, split, {config.history.n_tokens} tokens of window; medians of {COUNTED} units\n")
    print("| units | array bytes | MB of process | wall ms | processor ms |\n|---|---|---|---|---|")
    print(f"| 0 | {array_bytes():,} | {process_mb():.1f} | | |")
    for unit in range(n_units):
        start, worked = time.perf_counter(), time.process_time()
        next(replies)
        wall[unit], work[unit] = 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - worked)
        if (unit + 1) % COUNTED == 0:
            last = slice(unit + 1 - COUNTED, unit + 1)
            taken = f"{np.median(wall[last]):.2f} | {np.median(work[last]):.2f}"
            print(f"| {unit + 1} | {array_bytes():,} | {process_mb():.1f} | {taken} |", flush=True)
    print(f"\nlast {COUNTED} units against the first: wall {growth(wall):+.1%}, processor time {growth(work):+.1%}")
    print(
        f"beside a session that begins now, taking turns: wall {ratio(replies, warm_stream(config, params)) - 1:+.1%}"
    )


def warm_stream(config: Config, params: Params) -> Iterator[Reply]:
    """A session whose window is full."""
    replies = streaming(Split(config, params, choose_devices(1, config.transformer.kv_heads)))
    for _ in range(N_WARM):
        next(replies)
    return replies


def ratio(old: Iterator[Reply], young: Iterator[Reply]) -> float:
    """The time of a unit of one session over that of another; whatever else the machine does slows both."""
    ms: dict[str, list[float]] = {"old": [], "young": []}
    for _ in range(N_TURNS):
        for name, replies in (("old", old), ("young", young)):
            next(replies)  # in which a stream that stood still comes to its pace
            start = time.perf_counter()
            for _ in range(N_TURN):
                next(replies)
            ms[name].append(1000 * (time.perf_counter() - start) / N_TURN)
    return float(np.median(ms["old"]) / np.median(ms["young"]))


def growth(ms: np.ndarray) -> float:
    """How much longer the last units took than the first."""
    return float(np.median(ms[-COUNTED:]) / np.median(ms[:COUNTED])) - 1


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
