"""Convolutions of the video VAE on [B, T, h, w, C]: causal in time, and changing the picture size and frame rate.

A layer with memory carries the last frames of its input; one without carries `()`. `first` is the portrait, the one
frame before the stream; only the layers that change the frame rate treat it in their own way.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from wanstreamer_jax.vae.winograd import POINTS, TAPS, convolve_tiles

Frames = Float[Array, "B _ _ _ _"]  # [B, T, h, w, C]
Padding = tuple[tuple[int, int], tuple[int, int]]  # (above, below), (left, right)

# What pays on CPU, measured: with fewer channels, sums cost more than the products they save; with fewer pixels, or in
# time to compile, tiles of rows do.
TILED_CHANNELS, TILED_ROW_CHANNELS = 16, 64  # at least so many, in and out
TILED_ROW_PIXELS = 1024
LARGE = 2**21  # numbers: beyond the caches
ROWS_PER_TILE = 4
_init_kernel = nnx.initializers.lecun_normal()


class Grid(NamedTuple):
    """What a layer works on: frames a unit, rows and columns."""

    frames: int
    rows: int
    columns: int

    def half(self, *, temporal: bool) -> "Grid":
        """Half as many rows and columns, and frames where `temporal`."""
        return Grid(self.frames // 2 if temporal else self.frames, self.rows // 2, self.columns // 2)

    def double(self, *, temporal: bool) -> "Grid":
        """Twice as many rows and columns, and frames where `temporal`."""
        return Grid(self.frames * 2 if temporal else self.frames, self.rows * 2, self.columns * 2)


class Layer(nnx.Module):
    """A causal part with a face for the portrait."""

    def init_state(self, batch: int) -> Any:
        """Return what is remembered before the portrait: nothing, or frames of zeros."""
        del batch
        return ()

    def first(self, x: Frames, state: Any) -> tuple[Frames, Any]:
        """Run on the portrait, one frame."""
        return self.step(x, state)

    def step(self, x: Frames, state: Any) -> tuple[Frames, Any]:
        """Run on the next frames."""
        raise NotImplementedError


class PointConv(nnx.Module):
    """The same affine map at every pixel."""

    def __init__(self, channels_in: int, channels_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_init_kernel(rngs.params(), (channels_in, channels_out)))
        self.bias = nnx.Param(jnp.zeros(channels_out))

    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... D"]:
        """Map channels."""
        return x @ self.kernel[...] + self.bias[...]


class CausalConv(Layer):
    """A convolution over 3 x 3 pixels of this frame and of the two before it; outside the picture all is zero."""

    def __init__(self, channels_in: int, channels_out: int, grid: Grid, *, rngs: nnx.Rngs):
        # Rows, columns, frames: frames stand next to channels, so that both can be one axis without a copy.
        self.kernel = nnx.Param(_init_kernel(rngs.params(), (TAPS, TAPS, TAPS, channels_in, channels_out)))
        self.bias = nnx.Param(jnp.zeros(channels_out))
        self.tail_shape = (TAPS - 1, grid.rows, grid.columns, channels_in)
        self.frames_per_unit = grid.frames

    def init_state(self, batch: int) -> Frames:
        """Return the two frames of zeros before the portrait."""
        return jnp.zeros((batch, *self.tail_shape))

    def step(self, x: Frames, state: Frames) -> tuple[Frames, Frames]:
        """Convolve frames; remember the last two."""
        x = jnp.concatenate([state, x], axis=1)
        return _convolve_frames(x, self.kernel[...], self.frames_per_unit) + self.bias[...], x[:, -(TAPS - 1) :]


class SpaceConv(nnx.Module):
    """A convolution over 3 x 3 pixels of each frame, which changes the picture size; outside it all is zero."""

    def __init__(self, channels_in: int, channels_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_init_kernel(rngs.params(), (TAPS, TAPS, channels_in, channels_out)))
        self.bias = nnx.Param(jnp.zeros(channels_out))

    def enlarge(self, x: Frames) -> Frames:
        """Convolve frames whose every pixel is first repeated 2 x 2."""
        b, t, h, w, c = x.shape
        y = _convolve_repeated(x.reshape(b * t, h, w, c), self.kernel[...]) + self.bias[...]
        return y.reshape(b, t, 2 * h, 2 * w, -1)

    def shrink(self, x: Frames) -> Frames:
        """Convolve at every second pixel; zeros stand below and to the right only."""
        b, t, h, w, c = x.shape
        y = _convolve_pictures(x.reshape(b * t, h, w, c), self.kernel[...], ((0, 1), (0, 1)), stride=2)
        return (y + self.bias[...]).reshape(b, t, h // 2, w // 2, -1)


class TimeConv(nnx.Module):
    """A convolution over three frames at each pixel; the frames before the first come with the input."""

    def __init__(self, channels_in: int, channels_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_init_kernel(rngs.params(), (TAPS, channels_in, channels_out)))
        self.bias = nnx.Param(jnp.zeros(channels_out))

    def __call__(self, x: Frames, stride: int) -> Frames:
        """Convolve at every `stride`-th frame."""
        return _windows(x, stride) @ self.kernel[...].reshape(TAPS * x.shape[-1], -1) + self.bias[...]


class Upsample(Layer):
    """Twice as many rows and columns, half the channels: every pixel repeated, then convolved."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.space = SpaceConv(channels, channels // 2, rngs=rngs)

    def step(self, x: Frames, state: Any) -> tuple[Frames, Any]:
        """Enlarge every frame."""
        return self.space.enlarge(x), state


class UpsampleTime(Upsample):
    """`Upsample` after a convolution in time that makes two frames of each; the portrait stays one frame."""

    def __init__(self, channels: int, grid: Grid, *, rngs: nnx.Rngs):
        super().__init__(channels, rngs=rngs)
        self.time = TimeConv(channels, 2 * channels, rngs=rngs)
        self.tail_shape = (TAPS - 1, grid.rows, grid.columns, channels)

    def init_state(self, batch: int) -> Frames:
        """Return two frames of zeros."""
        return jnp.zeros((batch, *self.tail_shape))

    def first(self, x: Frames, state: Frames) -> tuple[Frames, Frames]:
        """Enlarge the portrait and do not remember it: Wan's convolution in time starts after it."""
        return super().step(x, state)

    def step(self, x: Frames, state: Frames) -> tuple[Frames, Frames]:
        """Double and enlarge frames."""
        b, t, h, w, c = x.shape
        x = jnp.concatenate([state, x], axis=1)
        y = self.time(x, stride=1).reshape(b, t, h, w, 2, c)
        y = jnp.moveaxis(y, 4, 2).reshape(b, 2 * t, h, w, c)
        return super().step(y, x[:, -(TAPS - 1) :])


class Downsample(Layer):
    """Half as many rows and columns: a convolution at every second pixel."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.space = SpaceConv(channels, channels, rngs=rngs)

    def step(self, x: Frames, state: Any) -> tuple[Frames, Any]:
        """Shrink every frame."""
        return self.space.shrink(x), state


class DownsampleTime(Downsample):
    """`Downsample`, then a convolution in time at every second frame; the portrait stays one frame."""

    def __init__(self, channels: int, grid: Grid, *, rngs: nnx.Rngs):
        super().__init__(channels, rngs=rngs)
        self.time = TimeConv(channels, channels, rngs=rngs)
        self.tail_shape = (1, grid.rows // 2, grid.columns // 2, channels)

    def init_state(self, batch: int) -> Frames:
        """Return one frame of zeros; the portrait takes its place."""
        return jnp.zeros((batch, *self.tail_shape))

    def first(self, x: Frames, state: Frames) -> tuple[Frames, Frames]:
        """Shrink the portrait and remember it."""
        y, _ = super().step(x, state)
        return y, y

    def step(self, x: Frames, state: Frames) -> tuple[Frames, Frames]:
        """Shrink and halve frames."""
        y, _ = super().step(x, state)
        y = jnp.concatenate([state, y], axis=1)
        return self.time(y, stride=2), y[:, -1:]


def _windows(x: Frames, stride: int = 1) -> Float[Array, "B U h w D"]:
    """Put side by side, on the channel axis, the three frames that each output frame sees."""
    n_last = x.shape[1] - TAPS
    return jnp.concatenate([x[:, i : i + n_last + 1 : stride] for i in range(TAPS)], axis=-1)


def _convolve_frames(
    x: Float[Array, "B S h w C"], kernel: Float[Array, "3 3 3 C D"], frames_per_unit: int
) -> Float[Array, "B T h w D"]:
    """Convolve in space and time; S = T + 2 frames in, T out.

    On CPU XLA's 3-D convolution is 2 to 14 times slower than its 2-D one. So there the frames of a unit make a tile:
    4 frames cost 6 convolutions of pictures instead of 12. A tile never reaches into the next unit, whose frames may
    not touch this one's. Where there is one frame, or few channels, the three frames that an output frame sees become
    channels of one picture: 3 times the input to copy, and the sum over time stays inside one convolution.
    """
    if jax.default_backend() != "cpu":
        padding = ((1, 1), (1, 1), (0, 0))  # in the kernel's order
        return lax.conv_general_dilated(x, kernel, (1, 1, 1), padding, dimension_numbers=("NDHWC", "HWDIO", "NDHWC"))
    n_outputs = kernel.shape[-1]
    if n_outputs < TILED_CHANNELS and x.size >= LARGE:  # too few for XLA: with as many again it is 2 to 6 times faster
        kernel = jnp.pad(kernel, [(0, 0)] * 4 + [(0, TILED_CHANNELS - n_outputs)])
        return _convolve_frames(x, kernel, frames_per_unit)[..., :n_outputs]
    whole_units = (x.shape[1] - (TAPS - 1)) % frames_per_unit == 0
    if whole_units and frames_per_unit in POINTS and min(kernel.shape[-2:]) >= TILED_CHANNELS:
        taps = [kernel[:, :, i] for i in range(TAPS)]
        return convolve_tiles(x, taps, frames_per_unit, 1, _convolve_each)
    return _convolve_each(_windows(x), kernel.reshape(TAPS, TAPS, -1, kernel.shape[-1]))


def _convolve_each(x: Frames, kernel: Float[Array, "3 3 C D"]) -> Frames:
    """Convolve every frame in space; in tiles of rows where it pays."""
    b, t, h, w, c = x.shape
    pictures = x.reshape(b * t, h, w, c)
    if h * w >= TILED_ROW_PIXELS and min(kernel.shape[-2:]) >= TILED_ROW_CHANNELS:
        pictures = jnp.pad(pictures, ((0, 0), (1, 1 + -h % ROWS_PER_TILE), (0, 0), (0, 0)))
        y = convolve_tiles(pictures, list(kernel), ROWS_PER_TILE, 1, _convolve_rows)[:, :h]
    else:
        y = _convolve_pictures(pictures, kernel, ((1, 1), (1, 1)))
    return y.reshape(b, t, h, w, -1)


def _convolve_rows(x: Float[Array, "P h w C"], kernel: Float[Array, "3 C D"]) -> Float[Array, "P h w D"]:
    return _convolve_pictures(x, kernel[None], ((0, 0), (1, 1)))


def _convolve_repeated(x: Float[Array, "P h w C"], kernel: Float[Array, "3 3 C D"]) -> Float[Array, "P i j D"]:
    """Convolve pictures whose every pixel is repeated 2 x 2, without making them.

    Three taps on repeated pixels see two different ones, and taps on the same pixel add up: a 2 x 2 convolution for
    each of the four places within a pixel, with 4/9 of the multiplications.

        pixel         | above | this    | below |
        upper place   | k0    | k1 + k2 |       |
        lower place   |       | k0 + k1 | k2    |
    """
    p, h, w, _ = x.shape
    rows = []
    for i, half in enumerate(_merge_taps(kernel, axis=0)):
        quarters = enumerate(_merge_taps(half, axis=1))
        places = [_convolve_pictures(x, quarter, ((1 - i, i), (1 - j, j))) for j, quarter in quarters]
        rows.append(jnp.stack(places, axis=3))  # [P, h, w, 2, D]
    return jnp.stack(rows, axis=2).reshape(p, 2 * h, 2 * w, -1)


def _merge_taps(kernel: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Two taps of three, for the upper or left and for the lower or right place."""
    k0, k1, k2 = jnp.split(kernel, TAPS, axis)
    return jnp.concatenate([k0, k1 + k2], axis), jnp.concatenate([k0 + k1, k2], axis)


def _convolve_pictures(
    x: Float[Array, "P h w C"], kernel: Float[Array, "k l C D"], padding: Padding, stride: int = 1
) -> Float[Array, "P i j D"]:
    """Convolve in space."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
