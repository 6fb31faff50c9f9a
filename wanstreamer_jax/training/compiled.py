"""The compiled steps of a run: one program for each set of objectives that are due together."""

import functools
from typing import Any

import jax

from wanstreamer_jax.training.flops import count_flops, peak_flops
from wanstreamer_jax.training.sharding import replicated
from wanstreamer_jax.training.stage import Batch, Metrics, Trees
from wanstreamer_jax.training.state import TrainState
from wanstreamer_jax.training.step import Program


class Compiled:
    """Steps, compiled when first due; each donates its state to the next.

    Attributes:
        flops: arithmetic of all steps so far.
    """

    def __init__(self, program: Program, shardings: TrainState):
        self._program, self._shardings = program, shardings
        self._steps: dict[tuple[int, ...], tuple[Any, int]] = {}
        self.flops = 0

    def step(self, step: int, state: TrainState, frozen: Trees, batch: Batch) -> tuple[TrainState, Metrics]:
        """Take step `step`, counted from 0."""
        due = self._program.due(step)
        if due not in self._steps:
            self._steps[due] = self._compile(due, state, frozen, batch)
        run, flops = self._steps[due]
        self.flops += flops
        return run(state, frozen, batch)

    def _compile(self, due: tuple[int, ...], *args: Any) -> tuple[Any, int]:
        function = functools.partial(self._program.train_step, due=due)
        out = self._shardings, replicated(self._program.mesh)
        traced = jax.jit(function, donate_argnums=0, out_shardings=out).trace(*args)
        return traced.lower().compile(), count_flops(traced.jaxpr)

    @functools.cached_property
    def peak_flops(self) -> float:
        """FLOP/s of the whole mesh at best."""
        return peak_flops(self._program.training.compute) * self._program.mesh.size
