"""Few steps for many: a student follows its teacher's solver, then matches its distribution.

    trajectory     the teacher's path from noise to clean in N small guided steps; the student takes each of its S
                   steps as the straight line between the points that it joins
    matching       DMD (arXiv 2311.18828, equations 7 and 8; DMD2, arXiv 2405.14867): what the student makes is moved
                   along the difference of two denoisers, the guided teacher's and that of a critic that is trained on
                   what the student makes

Points are trees of arrays [B, U, ..], times are trees like them of [B, U]; a field maps points at times to velocities
(`flow`: tau is 0 at clean, 1 at noise).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Tree = Any
Field = Callable[[Tree, Tree], Tree]
EPS = 1e-6


def solver_path(field: Field, noise: Tree, times: Tree) -> Tree:
    """Points [S + 1, B, U, ..] of Euler steps at `times`, a tree of [S + 1] numbers from 1 to 0; no gradient."""

    def step(z: Tree, now_then: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        now, then = now_then
        v = field(z, everywhere(now, z))
        moved = jax.tree.map(lambda z, v, a, b: z + (b - a) * v.astype(z.dtype), z, v, now, then)
        return moved, moved

    pairs = jax.tree.map(lambda t: t[:-1], times), jax.tree.map(lambda t: t[1:], times)
    _, points = jax.lax.scan(step, noise, pairs)
    path = jax.tree.map(lambda z, p: jnp.concatenate([z[None], p]), noise, points)
    return jax.lax.stop_gradient(path)


def everywhere(time: Tree, like: Tree) -> Tree:
    """A number a leaf as times [B, U]."""
    return jax.tree.map(lambda t, z: jnp.full(z.shape[:2], t), time, like)


def chords(path: Tree, times: Tree, n_steps: int, chosen: Int[Array, "B U"]) -> tuple[Tree, Tree, Tree]:
    """Where the student's chosen steps begin, at which times, and the velocities that join their ends on the path.

    `n_steps` divides the path's steps. Returns (points, times [B, U], velocities).
    """
    stride = (len(jax.tree.leaves(times)[0]) - 1) // n_steps
    first, last = chosen * stride, (chosen + 1) * stride
    starts, ends = at_step(path, first), at_step(path, last)
    now, then = (jax.tree.map(lambda t, i=i: t[i], times) for i in (first, last))
    velocities = jax.tree.map(lambda a, b, s, t: (a - b) / _wide(s - t, a), starts, ends, now, then)
    return starts, now, velocities


def at_step(path: Tree, step: Int[Array, "B U"]) -> Tree:
    """The point of each unit's own step."""

    def pick(points: jax.Array) -> jax.Array:
        index = step.reshape(1, *step.shape, *[1] * (points.ndim - 3))
        return jnp.take_along_axis(points, index, axis=0)[0]

    return jax.tree.map(pick, path)


def clean_at(points: Tree, times: Tree, velocities: Tree) -> Tree:
    """The clean point to which a velocity points: z - tau v."""
    return jax.tree.map(lambda z, t, v: z - _wide(t, z) * v.astype(z.dtype), points, times, velocities)


def matching_loss(made: Tree, real: Tree, fake: Tree) -> Tree:
    """One number a leaf and unit [B, U], whose gradient by `made` is the difference of two denoisers' clean points.

    It is divided by the mean distance of `made` from the real one (DMD's weight), so that all noise levels count alike.
    """

    def loss(x: jax.Array, real: jax.Array, fake: jax.Array) -> jax.Array:
        axes = tuple(range(2, x.ndim))
        distance = jnp.mean(jnp.abs(x - real), axis=axes, keepdims=True)
        target = jax.lax.stop_gradient(x - (fake - real) / (distance + EPS))
        return jnp.mean(jnp.square(x - target), axis=axes) / 2

    return jax.tree.map(loss, made, jax.lax.stop_gradient(real), jax.lax.stop_gradient(fake))


def _wide(x: Float[Array, "B U"], like: jax.Array) -> jax.Array:
    return x.reshape(*x.shape, *[1] * (like.ndim - x.ndim))
