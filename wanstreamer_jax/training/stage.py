"""The contract of a training stage: pure functions and the names of what they work on. The loop does the rest.

    trainees    what the stage changes: a part of an agent ("video_vae"), or a helper ("discriminator", "critic")
    frozen      parts of the agent that its losses read and nobody changes
    batch       arrays with samples on axis 0, as `source` makes them

Every pure function of a stage has the same arguments, and uses nothing else:

    f(config, weights, trainees, frozen, batch, key)

where `config` is the agent's, `weights` the stage's own dataclass from `wanstreamer_jax.training.config`, and the
trees are in the dtype of computation. The loop jits it, shards it, accumulates, and derives `key` from the seed, the
step and the objective, so that nothing random is ever stored.

A step updates every objective that is due. All of them see the trainees as they were before the step, and each is
differentiated by its own trainee only, so that adversaries (VAE and discriminator) and distillation (student and
critic, updated five times as often) are lists of objectives, not special cases.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.loader import Source
from wanstreamer_jax.training.config import Training

Params = dict[str, Any]  # a plain nested dict of arrays
Trees = dict[str, Params]  # by the name of a part or helper
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

# f(config, weights, trainees, frozen, batch, key) -> the mean loss over the batch, and numbers to be logged
Loss = Callable[[Config, Any, Trees, Trees, Batch, jax.Array], tuple[jax.Array, Metrics]]
# f(config, weights, trainees, frozen, batch, key) -> named arrays
Measure = Callable[[Config, Any, Trees, Trees, Batch, jax.Array], Metrics]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss that one trainee follows, and at which steps."""

    trainee: str
    loss: Loss
    every: int = 1  # steps from one update to the next
    start: int = 0  # the first step at which it is due
    stop: int | None = None  # the first at which it no longer is

    def due(self, step: int) -> bool:
        """Whether it is updated at `step`."""
        return step >= self.start and (self.stop is None or step < self.stop) and (step - self.start) % self.every == 0


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage, as the loop needs it.

    `measure` looks at held-out batches; what it returns is averaged over them, so that means are exact whatever their
    shape. Its scalars are the stage's measures, which `Training.gates` set thresholds for. Trainees are the averaged
    ones (EMA) where there are any.
    """

    name: str
    parts: tuple[str, ...]  # parts of the agent that it trains
    # (config, weights, the agent's params, of `parts` and `frozen`, key) -> trees of all trainees;
    # it runs under jit with output shardings.
    init: Callable[[Config, Any, Trees, jax.Array], Trees]
    frozen: tuple[str, ...]  # parts of the agent that the losses read
    # Objectives of a run; each trainee has at most one that is due at a step.
    objectives: Callable[[Training], tuple[Objective, ...]]
    # (config, training, heldout, the --data directory or none: the synthetic world) -> samples, before batching
    source: Callable[[Config, Training, bool, Path | None], Source]
    measure: Measure
    preview: Measure  # what `draw` shows of one held-out batch
    draw: Callable[[Mapping[str, np.ndarray], Path], None]  # writes PNG or MP4 into a folder, on one host
    # (config, trainees as numpy arrays, what `measure` gave) -> the agent's new config, and the parts put into it
    finish: Callable[[Config, Trees, Mapping[str, np.ndarray]], tuple[Config, Trees]]
    helpers: tuple[str, ...] = ()  # trainees that are no part of an agent
    batch_axes: tuple[str, ...] = ("data", "fsdp")  # mesh axes that share the samples of a batch
    gathered: bool = True  # whether parameters are whole while a loss runs; False: XLA gathers them layer by layer
    unit: str = "samples"  # what the progress bar counts a second
    units_per_sample: Callable[[Config, Training], float] = lambda _config, _training: 1.0
