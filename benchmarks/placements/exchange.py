"""The performer over ranks against other ways to share its work: bytes, arithmetic, memory, time, agreement."""

import dataclasses
import math
import statistics
import time
from typing import Any

import jax
import numpy as np
from jax.stages import Compiled

from placements.collectives import exchange
from placements.performers import PERFORMERS, Inputs, Performer, full_inputs
from placements.streams import random_params
from wanstreamer_jax.attention import CHUNK
from wanstreamer_jax.config import Config, FlowConfig
from wanstreamer_jax.model import init_params
from wanstreamer_jax.parallel.mesh import choose_devices
from wanstreamer_jax.stream.steps import perform

RANKS = (2, 4, 8)
N_TURNS = 9
N_LAYERS = 2  # of published sizes: all layers are alike, and many take long to compile
SIZES = ("collectives", "MB sent", "GFLOP", "MB held", "MB working")


def print_exchange(config: Config) -> None:
    """All performers of as many ranks take turns; a row each."""
    inputs = full_inputs(config, random_params(config))
    expected = jax.jit(lambda *inputs: perform(config, *inputs)[0])(*inputs)
    print_heading(config, inputs, "ms", "difference")
    for ranks in RANKS:
        mesh = choose_devices(ranks, config.transformer.kv_heads).performer_mesh()
        performers = {name: make(config, mesh) for name, make in PERFORMERS.items()}
        runs = {name: Run(performer, inputs) for name, performer in performers.items()}
        for _ in range(N_TURNS):
            for run in runs.values():
                run.take_turn()
        for name, run in runs.items():
            sizes = sizes_of_rank(run.program, performers[name], inputs, ranks)
            print(f"| {ranks} | {name} | {sizes} | {run.ms:.0f} | {run.difference(expected):.0e} |", flush=True)
    print(f"\nms: medians of {N_TURNS} turns, all ranks on this machine; difference: the largest, from one device")


def print_published(config: Config) -> None:
    """The sizes of a rank from compiled programs that are not run."""
    transformer = dataclasses.replace(config.transformer, layers=N_LAYERS, dtype="float32")  # as CPUs compute anyway
    config = dataclasses.replace(config, transformer=transformer, flow=FlowConfig(solver_steps=1))
    inputs = jax.eval_shape(lambda: full_inputs(config, init_params(config, 0)))
    print_heading(config, inputs)
    for ranks in RANKS:
        mesh = choose_devices(ranks, config.transformer.kv_heads).performer_mesh()
        for name, make in PERFORMERS.items():
            performer = make(config, mesh)
            sizes = sizes_of_rank(performer.run.lower(*inputs).compile(), performer, inputs, ranks)
            print(f"| {ranks} | {name} | {sizes} |", flush=True)


def print_heading(config: Config, inputs: Inputs, *more: str) -> None:
    """What the rows are about."""
    t, slots = config.transformer, inputs.history.k[0].shape[2]
    print(f"{config.name}: one `perform`, {t.layers} layers, {config.flow.solver_steps} solver steps, {slots:,} slots")
    print(f"of history, {t.dtype}. Each rank: MB that it sends, GFLOP outside the loop over the history, MB of the")
    print("history that it holds, MB of memory besides inputs and outputs\n")
    names = ("ranks", "performer", *SIZES, *more)
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")


def sizes_of_rank(program: Compiled, performer: Performer, inputs: Inputs, ranks: int) -> str:
    """The columns SIZES of one row."""
    k = inputs.history.k
    slots = k[0].shape[2]
    moved = exchange(program.as_text(), ranks, loop_turns=-(-slots // min(CHUNK, slots)))
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(moved.counts.items()))
    cost: Any = program.cost_analysis()
    memory: Any = program.memory_analysis()
    held = 2 * len(k) * math.prod(performer.layout.history.k.shard_shape(k[0].shape)) * k[0].dtype.itemsize
    # The compiler counts a loop's body once.
    work = f"{cost['flops'] / 1e9:.2f} | {held / 1e6:.1f} | {memory.temp_size_in_bytes / 1e6:.1f}"
    return f"{kinds} | {moved.sent_bytes / 1e6:.2f} | {work}"


class Run:
    """A performer with inputs of its own in place, and what it took."""

    def __init__(self, performer: Performer, inputs: Inputs):
        here = [jax.device_put(x, place, may_alias=False) for x, place in zip(inputs, performer.layout, strict=True)]
        self.params, self.history, *self.rest = here
        self.program = performer.run.lower(*here).compile()
        self.times: list[float] = []
        self.first = self.take_turn()
        self.times.clear()

    def take_turn(self) -> Any:
        """The latents of a unit."""
        start = time.perf_counter()
        latents, self.history = jax.block_until_ready(self.program(self.params, self.history, *self.rest))
        self.times.append(1000 * (time.perf_counter() - start))
        return latents

    @property
    def ms(self) -> float:
        """The median time of a turn."""
        return statistics.median(self.times)

    def difference(self, expected: Any) -> float:
        """The largest between the first unit's latents and other latents."""
        pairs = zip(jax.tree.leaves(self.first), jax.tree.leaves(expected), strict=True)
        return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
