"""Convolutions with three taps along an axis, in tiles, with fewer multiplications (Winograd's; arXiv 1509.09308).

A tile of m outputs sees m + 2 inputs. Outputs and inputs, read as polynomials, are taken to m + 2 points, where the
convolution is one product a point instead of three an output:

    m = 2    4 products instead of 6      m = 4    6 products instead of 12

Each product is a convolution over whatever axes remain. The way to the points and back are sums of whole pieces of
an array, which cost memory traffic and little arithmetic.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

TAPS = 3
# All but the point at infinity. Those of 4 lose half a digit less of float32 than the usual 1 and 2: an error of
# 1e-6 for one axis, 2e-6 for two, where a plain sum has 5e-7.
POINTS = {2: (0, 1, -1), 4: (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)}

Convolve = Callable[[jax.Array, jax.Array], jax.Array]


class Tile(NamedTuple):
    """The way of m + 2 inputs, of 3 taps and of m outputs to or from m + 2 points."""

    inputs: Float[np.ndarray, "P P"]
    taps: Float[np.ndarray, "P 3"]
    outputs: Float[np.ndarray, "M P"]


@functools.cache
def tile(n_outputs: int) -> Tile:
    """The matrices of a tile of 2 or 4 outputs, by Toom and Cook's construction."""
    points = np.array(POINTS[n_outputs])
    others = [np.delete(points, i) for i in range(len(points))]
    scale = [np.prod(p - rest) for p, rest in zip(points, others, strict=True)]
    inputs = [np.append(np.poly(rest)[::-1], 0) for rest in others]
    taps = [p ** np.arange(TAPS) / s for p, s in zip(points, scale, strict=True)]
    powers = points ** np.arange(n_outputs)[:, None]
    at_infinity = np.eye(n_outputs)[:, -1:]
    return Tile(
        np.array([*inputs, np.poly(points)[::-1]]),
        np.array([*taps, np.eye(TAPS)[-1]]),
        np.concatenate([powers, at_infinity], axis=1),
    )


def convolve_tiles(
    x: Float[Array, "..."], taps: Sequence[jax.Array], n_outputs: int, axis: int, convolve: Convolve
) -> Float[Array, "..."]:
    """Convolve along `axis` of `x` in tiles of `n_outputs`, which must divide the outputs, two fewer than the inputs.

    `taps` are three kernels, first in time or space first; `convolve(piece, kernel)` does the remaining axes, and
    keeps the length of this one.
    """
    matrices = tile(n_outputs)
    n_tiles = (x.shape[axis] - (TAPS - 1)) // n_outputs
    last = (n_tiles - 1) * n_outputs
    seen = [lax.slice_in_dim(x, i, i + last + 1, n_outputs, axis) for i in range(n_outputs + TAPS - 1)]
    pieces, kernels = _combine(matrices.inputs, seen), lax.optimization_barrier(_combine(matrices.taps, taps))
    products = [convolve(piece, kernel) for piece, kernel in zip(pieces, kernels, strict=True)]
    outputs = jnp.stack(_combine(matrices.outputs, products), axis + 1)
    return lax.collapse(outputs, axis, axis + 2)


def _combine(matrix: np.ndarray, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Sums of `arrays`, a row of `matrix` each."""
    return [
        functools.reduce(jnp.add, [float(m) * a for m, a in zip(row, arrays, strict=True) if m != 0]) for row in matrix
    ]
