"""Split against unified, both streaming: how much of a unit's work is done at once, and what the host adds to it."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from placements.streams import random_params, streaming
from wanstreamer_jax.config import Config
from wanstreamer_jax.parallel.mesh import choose_devices
from wanstreamer_jax.stream.placement import Reply
from wanstreamer_jax.stream.split import Split
from wanstreamer_jax.stream.unified import Unified
from wanstreamer_jax.stream.worker import Event

N_TURNS, N_COUNTED = 15, 12  # units of a turn
STEPS = ("observe", "think", "commit", "perform", "render")


class Turn(NamedTuple):
    """Milliseconds a unit, of some consecutive units."""

    wall: float
    steps: dict[str, float]
    host: float  # no device works

    @property
    def parts(self) -> float:
        """The sum of the steps."""
        return sum(self.steps.values())


def print_overlap(config: Config) -> None:
    """Split and unified take turns; a row of medians each."""
    params, devices = random_params(config), choose_devices(1, config.transformer.kv_heads)
    events: dict[str, list[Event]] = {"unified": [], "split": []}
    replies = {
        "unified": streaming(Unified(config, params, events["unified"])),
        "split": streaming(Split(config, params, devices, events["split"])),
    }
    n_fill = 1 + config.history.n_tokens // (config.layout.n_agent_media + config.layout.n_user_media)
    turns: dict[str, list[Turn]] = {name: [] for name in replies}
    for _ in range(n_fill):
        for each in replies.values():
            next(each)
    for _ in range(N_TURNS):
        for name, each in replies.items():
            turns[name].append(take_turn(each, events[name]))
    print(f"{config.name}, window full; medians of {N_TURNS} turns of {N_COUNTED} units, ms a unit\n")
    print(f"| placement | {' | '.join(STEPS)} | sum | wall | sum / wall | host |\n|{'---|' * 10}")
    for name, measured in turns.items():
        print_row(name, measured)
    alone = step_medians(turns["unified"])
    print_summary(alone, {name: median(measured, lambda t: t.wall) for name, measured in turns.items()})


def print_summary(alone: dict[str, float], wall: dict[str, float]) -> None:
    """Split against steps that were run alone, and against what the order of steps allows."""
    parts = sum(alone.values())
    shortest = alone["think"] + max(alone["perform"], alone["commit"] + alone["render"] + alone["observe"])
    print(f"\nsum of unified / wall of split: {parts / wall['split']:.2f}")
    print(f"at most, on devices that share nothing: {parts / shortest:.2f} (think waits for the last unit's perform)")
    print(f"wall of unified / wall of split: {wall['unified'] / wall['split']:.2f}")


def print_row(name: str, turns: list[Turn]) -> None:
    """A placement's medians."""
    steps = " | ".join(f"{ms:.1f}" for ms in step_medians(turns).values())
    parts, wall, host = (median(turns, of) for of in (lambda t: t.parts, lambda t: t.wall, lambda t: t.host))
    overlap = median(turns, lambda t: t.parts / t.wall)
    print(f"| {name} | {steps} | {parts:.1f} | {wall:.1f} | {overlap:.2f} | {host:.2f} |")


def step_medians(turns: list[Turn]) -> dict[str, float]:
    """The median of each step."""
    return {step: statistics.median(t.steps[step] for t in turns) for step in STEPS}


def median(turns: list[Turn], of: Callable[[Turn], float]) -> float:
    """The median of something about turns."""
    return statistics.median(map(of, turns))


def take_turn(replies: Iterator[Reply], events: list[Event]) -> Turn:
    """Live through a few units and one before them, in which a stream that stood still comes to its pace."""
    next(replies)
    start = time.perf_counter()
    for _ in range(N_COUNTED):
        next(replies)
    end = time.perf_counter()
    spans = [(e.step, max(e.start_s, start), min(e.start_s + e.seconds, end)) for e in list(events)]
    spans = [(step, a, b) for step, a, b in spans if a < b]
    steps = dict.fromkeys(STEPS, 0.0)
    for step, a, b in spans:
        steps[step] += b - a
    ms_a_unit = 1000 / N_COUNTED
    idle = end - start - covered_s([(a, b) for _, a, b in spans])
    return Turn((end - start) * ms_a_unit, {step: s * ms_a_unit for step, s in steps.items()}, idle * ms_a_unit)


def covered_s(spans: list[tuple[float, float]]) -> float:
    """Seconds that at least one span covers."""
    covered, reached = 0.0, float("-inf")
    for a, b in sorted(spans):
        covered += max(0.0, b - max(a, reached))
        reached = max(reached, b)
    return covered
