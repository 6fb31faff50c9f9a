"""What a stage is worth on held-out data: measures, gates, pictures."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wanstreamer_jax.training.config import Gate
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.hosts import is_primary
from wanstreamer_jax.training.input import heldout_batches
from wanstreamer_jax.training.run_log import Numbers, finite
from wanstreamer_jax.training.sharding import batch_sharding, put_batch, replicated
from wanstreamer_jax.training.stage import Measure, Source, Trees
from wanstreamer_jax.training.state import TrainState
from wanstreamer_jax.training.step import HELDOUT, Program, best_trees, step_key

Measured = dict[str, np.ndarray]


class Evaluation:
    """The held-out batches of a run, kept, and what is asked of them.

    Attributes:
        left_out: why records were left out of them.
    """

    def __init__(self, program: Program, frozen: Trees, source: Source):
        sharding = batch_sharding(program.mesh, program.stage.batch_axes)
        self._program, self._frozen = program, frozen
        heldout = heldout_batches(source, program.training)
        self._batches = [put_batch(batch, sharding) for batch in heldout]
        self.left_out = list(heldout.left_out.values())
        if not self._batches:
            raise TrainingError("no held-out data: at least one whole batch is needed")

    def measure(self, state: TrainState) -> Measured:
        """The stage's measures, averaged over all batches."""
        all_of_them = [self._look(self._program.stage.measure, state, i) for i in range(len(self._batches))]
        return jax.tree.map(lambda *values: np.asarray(np.mean(values, axis=0)), *all_of_them)

    def draw(self, state: TrainState, folder: Path) -> None:
        """Pictures of the first batch."""
        shown = self._look(self._program.stage.preview, state, 0)
        if is_primary():
            folder.mkdir(parents=True, exist_ok=True)
            self._program.stage.draw(shown, folder)

    def _look(self, function: Measure, state: TrainState, index: int) -> Measured:
        key = step_key(self._program.training.seed, HELDOUT, index)
        found = self._compiled(function)(best_trees(state), self._frozen, self._batches[index], key)
        return jax.tree.map(np.asarray, found)

    @functools.cache  # noqa: B019 (one a run)
    def _compiled(self, function: Measure) -> Any:
        look = functools.partial(self._program.look, function)
        return jax.jit(look, out_shardings=replicated(self._program.mesh))


def scalars(measured: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """The measures that are numbers; none for those that the held-out data have nothing of."""
    return {name: finite(float(value)) for name, value in measured.items() if value.ndim == 0}


def judge(gates: Iterable[Gate], measures: Numbers) -> list[dict[str, Any]]:
    """Each gate with what was measured and whether that is enough; what has no value, or is not measured, never is."""
    verdicts = []
    for gate in gates:
        value = measures.get(gate.measure)
        limits = {"at_least": gate.at_least, "at_most": gate.at_most}
        limits = {name: limit for name, limit in limits.items() if limit is not None}
        passed = value is not None and gate.passes(value)
        verdicts.append({"measure": gate.measure, "value": value, **limits, "passed": passed})
    return verdicts
