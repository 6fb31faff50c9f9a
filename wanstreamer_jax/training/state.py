"""What a run is at a step. Saved whole; nothing random is in it, since keys come from (seed, step, objective)."""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from wanstreamer_jax.training.stage import Params, Trees

Optimizers = dict[str, optax.GradientTransformation]


class Skips(NamedTuple):
    """Updates of a trainee that were left out, because a loss or a gradient was not finite."""

    total: Int[Array, ""]
    in_a_row: Int[Array, ""]


class TrainState(NamedTuple):
    """All that an update changes."""

    step: Int[Array, ""]  # steps taken
    trainees: Trees  # float32
    optimizer: dict[str, Any]
    ema: Trees  # running means of the trainees that go into an agent; empty where there is none
    skips: dict[str, Skips]


def init_state(trainees: Trees, optimizers: Optimizers, averaged: Collection[str]) -> TrainState:
    """The state before the first step, with running means of some trainees; run it under jit."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        trainees=trainees,
        optimizer={name: optimizers[name].init(params) for name, params in trainees.items()},
        ema={name: params for name, params in trainees.items() if name in averaged},
        skips={name: Skips(zero, zero) for name in trainees},
    )


def move_average(average: Params, params: Params, step: Int[Array, ""], keep: float) -> Params:
    """The running mean after a step; young ones keep less, so that the first parameters are soon forgotten."""
    share = jnp.minimum(keep, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: share * old + (1 - share) * new, average, params)
