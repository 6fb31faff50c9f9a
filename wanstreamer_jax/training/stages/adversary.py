"""A discriminator of pictures: patches of single frames, hinge loss (arXiv 1611.07004, section 3.2.2)."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.training.stage import Metrics, Params

Pictures = Float[Array, "B T H W 3"]
_SLOPE = 0.2  # below zero


class Discriminator(nnx.Module):
    """Strided convolutions to a number for every patch of a frame: high where it looks real."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        sizes = (3, width, 2 * width, 4 * width)
        self.convs = nnx.List([nnx.Conv(a, b, (4, 4), strides=2, rngs=rngs) for a, b in itertools.pairwise(sizes)])
        self.out = nnx.Conv(sizes[-1], 1, (3, 3), rngs=rngs)

    def __call__(self, frames: Float[Array, "P H W 3"]) -> Float[Array, "P i j 1"]:
        """Look at frames in [-1, 1]."""
        for conv in self.convs:
            frames = jax.nn.leaky_relu(conv(frames), _SLOPE)
        return self.out(frames)


def realism(model: Discriminator, params: Params, clips: Pictures) -> Float[Array, "P i j 1"]:
    """What a discriminator with these parameters says of every frame of clips."""
    graph, state = nnx.split(model)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)(clips.reshape(-1, *clips.shape[2:]))


def hinge(model: Discriminator, params: Params, real: Pictures, made: Any) -> tuple[jax.Array, Metrics]:
    """The discriminator's own loss, and the shares of patches that it tells rightly."""
    on_real, on_made = (realism(model, params, clips) for clips in (real, jax.lax.stop_gradient(made)))
    loss = jnp.mean(jax.nn.relu(1 - on_real)) + jnp.mean(jax.nn.relu(1 + on_made))
    return loss, {"real": jnp.mean(on_real > 0), "made": jnp.mean(on_made < 0)}
