"""Convolutions in tiles: the same sums as without, for every form that the video VAE's convolution takes on CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from tests.contract import assert_close
from wanstreamer_jax.vae import conv3d
from wanstreamer_jax.vae.conv3d import CausalConv, Grid
from wanstreamer_jax.vae.winograd import POINTS, TAPS, convolve_tiles, tile


@pytest.mark.parametrize("n_outputs", POINTS)
def test_a_tile_is_three_taps(n_outputs):
    matrices = tile(n_outputs)
    x, taps = np.random.default_rng(0).normal(size=n_outputs + TAPS - 1), np.array([0.5, -1.0, 2.0])
    tiled = matrices.outputs @ ((matrices.taps @ taps) * (matrices.inputs @ x))
    np.testing.assert_allclose(tiled, np.convolve(x, taps[::-1], mode="valid"), rtol=1e-12)


@pytest.mark.parametrize(("axis", "n_outputs"), [(0, 2), (1, 4), (2, 2)])
def test_tiles_along_any_axis(axis, n_outputs):
    x, taps = noise(0, 10, 10, 10), noise(1, TAPS)
    y = convolve_tiles(x, list(taps), n_outputs, axis, lambda piece, tap: piece * tap)
    expected = sum(taps[i] * lax.slice_in_dim(x, i, i + 8, axis=axis) for i in range(TAPS))
    assert_close(y, expected, 2e-6)


CASES = [
    (Grid(1, 6, 10), (16, 16)),
    (Grid(2, 6, 10), (16, 24)),
    (Grid(4, 6, 10), (24, 16)),
    (Grid(4, 6, 10), (8, 16)),
    (Grid(2, 33, 32), (64, 64)),
    (Grid(4, 34, 31), (64, 72)),
    (Grid(1, 32, 32), (64, 64)),
]


@pytest.mark.parametrize("n_frames", [1, 2, 8])
@pytest.mark.parametrize(("grid", "channels"), CASES)
def test_convolution_is_the_plain_one(grid, channels, n_frames):
    conv = CausalConv(*channels, grid, rngs=nnx.Rngs(0))
    state, x = noise(0, 2, *conv.tail_shape), noise(1, 2, n_frames, grid.rows, grid.columns, channels[0])
    y, tail = jax.jit(conv.step)(x, state)
    seen = jnp.concatenate([state, x], axis=1)
    assert_close(y, plain(seen, conv.kernel[...]), 5e-6)
    np.testing.assert_array_equal(tail, seen[:, -2:])


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_unit_does_not_feel_the_next_one(frames):
    grid = Grid(frames, 4, 4)
    conv = CausalConv(16, 16, grid, rngs=nnx.Rngs(0))
    x = noise(0, 1, 4 * frames, grid.rows, grid.columns, 16)
    y, _ = jax.jit(conv.step)(x.at[:, frames:].set(jnp.nan), conv.init_state(1))
    assert jnp.isfinite(y[:, :frames]).all()


def test_other_devices_convolve_without_tiles(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(conv3d, "convolve_tiles", None)
    conv = CausalConv(16, 24, Grid(4, 6, 10), rngs=nnx.Rngs(0))
    state, x = noise(0, 1, *conv.tail_shape), noise(1, 1, 4, 6, 10, 16)
    y, _ = jax.jit(conv.step)(x, state)
    assert_close(y, plain(jnp.concatenate([state, x], axis=1), conv.kernel[...]), 2e-6)


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The sum over all taps, one shifted picture at a time."""
    h, w, n_frames = x.shape[2], x.shape[3], x.shape[1] - 2
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, t : t + n_frames, i : i + h, j : j + w] @ kernel[i, j, t] for i, j, t in np.ndindex(TAPS, TAPS, TAPS)
    )


def noise(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)
