"""The streaming contract that every causal part of the agent obeys.

A causal part has three faces and nothing more:

    part(x)               a whole sequence, from silence
    part.init_state(B)    what it remembers before the first step: a NamedTuple of arrays
    part.step(x, state)   the next piece of the sequence -> (y, state)

The law: stepping equals calling, whatever the pieces; the future may be NaN without touching the past; and a
state's structure, shapes and dtypes never change, so that it can be donated, scanned and saved.
`tests/contract.py` proves it for each part. (After google/sequence-layers, arXiv 2507.23292.)
"""

from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

State = TypeVar("State")


class Gaussian(NamedTuple):
    """What an encoder says of a latent: independent normal distributions, channels last."""

    mean: Float[Array, "..."]
    log_variance: Float[Array, "..."]


class CausalPart(Protocol):
    """What can be called on a sequence or stepped through it."""

    def __call__(self, x: Any) -> Any:
        """Run on a whole sequence from silence; time is axis 1."""

    def init_state(self, batch: int) -> Any:
        """Return the state before the first step of `batch` sessions."""

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        """Run on the next piece of the sequence."""


def reset_sessions(state: State, fresh: State, ended: Bool[Array, " B"]) -> State:
    """Put `fresh` where a session has ended; sessions are axis 0 of every array."""

    def select(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(ended.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return jax.tree.map(select, state, fresh)
