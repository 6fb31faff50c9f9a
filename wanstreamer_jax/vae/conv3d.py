"""Convolutions of the video VAE on [B, T, h, w, C]: causal in time, and changing the picture size and frame rate.

A layer with memory carries the last frames of its input; one without carries `()`. `first` is the portrait, the one
frame before the stream; only the layers that change the frame rate treat it in their own way.
"""

import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

Grid = tuple[int, int]  # rows and columns
Frames = Float[Array, "B _ _ _ _"]  # [B, T, h, w, C]

TAPS = 3  # of every kernel, in time and in space
_init_kernel = nnx.initializers.lecun_normal()


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
        self.tail_shape = (TAPS - 1, *grid, channels_in)

    def init_state(self, batch: int) -> Frames:
        """Return the two frames of zeros before the portrait."""
        return jnp.zeros((batch, *self.tail_shape))

    def step(self, x: Frames, state: Frames) -> tuple[Frames, Frames]:
        """Convolve frames; remember the last two."""
        x = jnp.concatenate([state, x], axis=1)
        return _convolve_frames(x, self.kernel[...]) + self.bias[...], x[:, -(TAPS - 1) :]


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
        self.tail_shape = (TAPS - 1, *grid, channels)

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
        self.tail_shape = (1, grid[0] // 2, grid[1] // 2, channels)

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


def _convolve_frames(x: Float[Array, "B S h w C"], kernel: Float[Array, "3 3 3 C D"]) -> Float[Array, "B T h w D"]:
    """Convolve in space and time; S = T + 2 frames in, T out.

    On CPU XLA's 3-D convolution is 2 to 14 times slower than its 2-D one. So there the three frames that an output
    frame sees become channels of one picture: 3 times the input to copy, and the sum over time stays inside one
    convolution. XLA runs a 2-D convolution on one core and independent ones at once, hence one for each core where
    the frames divide. Elsewhere the 3-D convolution is the fast and the small one.
    """
    if jax.default_backend() != "cpu":
        padding = ((0, 0), (1, 1), (1, 1))
        return lax.conv_general_dilated(x, kernel, (1, 1, 1), padding, dimension_numbers=("NDHWC", "HWDIO", "NDHWC"))
    n_frames = x.shape[1] - (TAPS - 1)
    step = n_frames // math.gcd(n_frames, os.cpu_count() or 1)
    parts = [_convolve_windows(x[:, i : i + step + TAPS - 1], kernel) for i in range(0, n_frames, step)]
    return jnp.concatenate(parts, axis=1)


def _convolve_windows(x: Float[Array, "B S h w C"], kernel: Float[Array, "3 3 3 C D"]) -> Float[Array, "B T h w D"]:
    windows = _windows(x)
    b, t, h, w, c = windows.shape
    y = _convolve_pictures(windows.reshape(b * t, h, w, c), kernel.reshape(TAPS, TAPS, c, -1), ((1, 1), (1, 1)))
    return y.reshape(b, t, h, w, -1)


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
    x: Float[Array, "P h w C"], kernel: Float[Array, "k k C D"], padding: tuple[Grid, Grid], stride: int = 1
) -> Float[Array, "P i j D"]:
    """Convolve in space; `padding` is (above, below), (left, right)."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
