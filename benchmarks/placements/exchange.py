"""The performer over ranks against two other ways to share its work: bytes exchanged, memory, time, and agreement."""

import statistics
import time
from typing import Any

import jax
import numpy as np

from placements.collectives import exchange
from placements.performers import PERFORMERS, Inputs, Performer, full_inputs
from placements.streams import random_params
from wanstreamer_jax.attention import CHUNK
from wanstreamer_jax.config import Config
from wanstreamer_jax.parallel.mesh import choose_devices
from wanstreamer_jax.stream.steps import perform

RANKS = (2, 4, 8)
N_TURNS = 9


def print_exchange(config: Config) -> None:
    """All performers of as many ranks take turns; a row each."""
    inputs = full_inputs(config, random_params(config))
    expected = jax.jit(lambda *inputs: perform(config, *inputs)[0])(*inputs)
    slots = inputs.history.k[0].shape[2]
    print(f"{config.name}, {slots:,} slots of history, one `perform` of {config.flow.solver_steps} solver steps;")
    print(f"MB that a rank sends and MB of history that it holds; medians of {N_TURNS} turns\n")
    print("| ranks | performer | collectives | MB sent | MB held | ms | difference |\n|---|---|---|---|---|---|---|")
    for ranks in RANKS:
        mesh = choose_devices(ranks, config.transformer.kv_heads).performer_mesh()
        runs = {name: Run(make(config, mesh), inputs) for name, make in PERFORMERS.items()}
        for _ in range(N_TURNS):
            for run in runs.values():
                run.take_turn()
        for name, run in runs.items():
            moved = exchange(run.hlo, ranks, loop_turns=-(-slots // min(CHUNK, slots)))
            kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(moved.counts.items()))
            numbers = f"{moved.sent_bytes / 1e6:.2f} | {run.held_bytes / 1e6:.1f} | {statistics.median(run.ms):.0f}"
            print(f"| {ranks} | {name} | {kinds} | {numbers} | {run.difference(expected):.0e} |", flush=True)


class Run:
    """A performer with inputs of its own in place, and what it took."""

    def __init__(self, performer: Performer, inputs: Inputs):
        here = [jax.device_put(x, place, may_alias=False) for x, place in zip(inputs, performer.layout, strict=True)]
        self.params, self.history, *self.rest = here
        self.compiled = performer.run.lower(*here).compile()
        self.hlo = self.compiled.as_text()
        self.held_bytes = sum(x.addressable_shards[0].data.nbytes for x in (*self.history.k, *self.history.v))
        self.ms: list[float] = []
        self.first = self.take_turn()
        self.ms.clear()

    def take_turn(self) -> Any:
        """The latents of a unit."""
        start = time.perf_counter()
        latents, self.history = jax.block_until_ready(self.compiled(self.params, self.history, *self.rest))
        self.ms.append(1000 * (time.perf_counter() - start))
        return latents

    def difference(self, expected: Any) -> float:
        """The largest between the first unit's latents and other latents."""
        pairs = zip(jax.tree.leaves(self.first), jax.tree.leaves(expected), strict=True)
        return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
