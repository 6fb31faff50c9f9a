"""Flow matching: the path, its loss, the solver and guidance (Wan-Streamer v0.1, equations 2 and 3).

tau is 0 at clean latents and 1 at noise; velocities point from clean to noise. B sessions.
"""

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wanstreamer_jax.config import FlowConfig
from wanstreamer_jax.transformer import FlowTime

Tree = TypeVar("Tree")


def noised(clean: Tree, noise: Tree, tau: Tree) -> Tree:
    """The point of the path at tau: (1 - tau) clean + tau noise. Trees of arrays; tau's leaves are [B, ..]."""
    return jax.tree.map(lambda z, e, t: (1 - _wide(t, z)) * z + _wide(t, z) * e, clean, noise, tau)


def velocity(clean: Tree, noise: Tree) -> Tree:
    """The derivative of the path by tau: noise - clean."""
    return jax.tree.map(jnp.subtract, noise, clean)


def flow_loss(predicted: Any, clean: Any, noise: Any) -> Any:
    """Mean squared error of velocities, one float32 number a leaf (one for sound, one for video)."""
    return jax.tree.map(lambda p, v: jnp.mean(jnp.square(p.astype(jnp.float32) - v)), predicted, velocity(clean, noise))


def shifted(tau: Any, shift: float) -> Any:
    """Time shift (Stable Diffusion 3, arXiv 2403.03206, equation 23): above 1, more of the path lies near noise."""
    return shift * tau / (1 + (shift - 1) * tau)


def solver_times(flow: FlowConfig) -> list[tuple[float, float]]:
    """Times (audio, video) that the solver visits, from noise to clean.

    Four steps with shifts 1 and 3:  audio 1 .75 .5 .25 0   video 1 .9 .75 .5 0
    """
    even = np.linspace(1.0, 0.0, flow.solver_steps + 1)
    return [(float(shifted(t, flow.audio_shift)), float(shifted(t, flow.video_shift))) for t in even]


def solve(velocity_at: Callable[[Any, FlowTime], Any], noise: Any, flow: FlowConfig) -> Any:
    """Clean latents from noise by Euler steps. `velocity_at(latents, tau)`; latents are (audio, video) trees."""
    z, batch = noise, jax.tree.leaves(noise)[0].shape[0]
    times = solver_times(flow)
    for now, then in itertools.pairwise(times):
        v = velocity_at(z, FlowTime(*(jnp.full(batch, t, jnp.float32) for t in now)))
        step = type(z)(*(b - a for a, b in zip(now, then, strict=True)))
        z = jax.tree.map(lambda z, v, dt: z + dt * v, z, v, step)
    return z


def guided(conditional: Tree, unconditional: Tree, guidance: float) -> Tree:
    """Classifier-free guidance (arXiv 2207.12598): away from what would happen without the condition."""
    return jax.tree.map(lambda c, u: u + guidance * (c - u), conditional, unconditional)


def _wide(tau: Float[Array, "*B"], like: jax.Array) -> jax.Array:
    return tau.reshape(*tau.shape, *[1] * (like.ndim - tau.ndim))
