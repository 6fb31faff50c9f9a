"""Layers of the video VAE on [B, T, h, w, C]: causal convolutions, norm, attention within a frame, resampling.

A layer with memory carries the last frames of its input; one without carries `()`. `first` is the portrait, the one
frame before the stream; only the layers that change the frame rate treat it in their own way.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

Grid = tuple[int, int]  # rows and columns
Frames = Float[Array, "B _ _ _ _"]  # [B, T, h, w, C]
Face = Callable[[Frames, Any], tuple[Frames, Any]]

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


class Chain(Layer):
    """Layers one after the other; its state is the tuple of theirs."""

    def __init__(self, layers: Sequence[Layer]):
        self.layers = nnx.List(layers)

    def init_state(self, batch: int) -> tuple[Any, ...]:
        """Return every layer's state."""
        return tuple(layer.init_state(batch) for layer in self.layers)

    def first(self, x: Frames, state: tuple[Any, ...]) -> tuple[Frames, tuple[Any, ...]]:
        """Run every layer on the portrait."""
        return _run([layer.first for layer in self.layers], x, state)

    def step(self, x: Frames, state: tuple[Any, ...]) -> tuple[Frames, tuple[Any, ...]]:
        """Run every layer on the next frames."""
        return _run([layer.step for layer in self.layers], x, state)


def _run(faces: Sequence[Face], x: Frames, states: tuple[Any, ...]) -> tuple[Frames, tuple[Any, ...]]:
    new_states = []
    for face, state in zip(faces, states, strict=True):
        x, new_state = face(x, state)
        new_states.append(new_state)
    return x, tuple(new_states)


class PointConv(nnx.Module):
    """The same affine map at every pixel."""

    def __init__(self, channels_in: int, channels_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_init_kernel(rngs.params(), (channels_in, channels_out)))
        self.bias = nnx.Param(jnp.zeros(channels_out))

    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... D"]:
        """Map channels."""
        return x @ self.kernel[...] + self.bias[...]


class RMSNorm(nnx.Module):
    """Channels of each pixel scaled to a root mean square of 1, then by a learned gain."""

    def __init__(self, channels: int):
        self.gain = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        """Normalise the last axis."""
        norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
        return x / jnp.maximum(norm, 1e-12) * (x.shape[-1] ** 0.5 * self.gain[...])


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


class ResidualBlock(Layer):
    """Twice norm, SiLU and causal convolution, around a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, grid: Grid, *, rngs: nnx.Rngs):
        self.norm1 = RMSNorm(channels_in)
        self.conv1 = CausalConv(channels_in, channels_out, grid, rngs=rngs)
        self.norm2 = RMSNorm(channels_out)
        self.conv2 = CausalConv(channels_out, channels_out, grid, rngs=rngs)
        self.shortcut = PointConv(channels_in, channels_out, rngs=rngs) if channels_in != channels_out else None

    def init_state(self, batch: int) -> tuple[Frames, Frames]:
        """Return the states of both convolutions."""
        return self.conv1.init_state(batch), self.conv2.init_state(batch)

    def step(self, x: Frames, state: tuple[Frames, Frames]) -> tuple[Frames, tuple[Frames, Frames]]:
        """Run both convolutions."""
        y, tail1 = self.conv1.step(jax.nn.silu(self.norm1(x)), state[0])
        y, tail2 = self.conv2.step(jax.nn.silu(self.norm2(y)), state[1])
        return y + (x if self.shortcut is None else self.shortcut(x)), (tail1, tail2)


class Head(Layer):
    """Norm, SiLU and a causal convolution: the end of an encoder or decoder."""

    def __init__(self, channels_in: int, channels_out: int, grid: Grid, *, rngs: nnx.Rngs):
        self.norm_out = RMSNorm(channels_in)
        self.conv_out = CausalConv(channels_in, channels_out, grid, rngs=rngs)

    def init_state(self, batch: int) -> Frames:
        """Return the state of the convolution."""
        return self.conv_out.init_state(batch)

    def step(self, x: Frames, state: Frames) -> tuple[Frames, Frames]:
        """Map frames to what leaves the network."""
        return self.conv_out.step(jax.nn.silu(self.norm_out(x)), state)


class FrameAttention(Layer):
    """Attention of one head among the pixels of each frame; frames do not see each other."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(channels)
        self.qkv = PointConv(channels, 3 * channels, rngs=rngs)
        self.out = PointConv(channels, channels, rngs=rngs)

    def step(self, x: Frames, state: tuple[()]) -> tuple[Frames, tuple[()]]:
        """Attend, frame by frame."""
        b, t, h, w, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b * t, h * w, 1, 3 * c)  # [B T, S, N, 3 H]
        y = jax.nn.dot_product_attention(*jnp.split(qkv, 3, axis=-1))
        return x + self.out(y.reshape(b, t, h, w, c)), state


class SpaceConv(nnx.Module):
    """A convolution over 3 x 3 pixels of each frame; outside the picture all is zero."""

    def __init__(self, channels_in: int, channels_out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_init_kernel(rngs.params(), (TAPS, TAPS, channels_in, channels_out)))
        self.bias = nnx.Param(jnp.zeros(channels_out))

    def __call__(self, x: Frames, padding: tuple[Grid, Grid], stride: int) -> Frames:
        """Convolve frame by frame; `padding` is (above, below), (left, right)."""
        b, t, h, w, c = x.shape
        y = _convolve_pictures(x.reshape(b * t, h, w, c), self.kernel[...], padding, stride) + self.bias[...]
        return y.reshape(b, t, *y.shape[1:])


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
        return self.space(x.repeat(2, axis=2).repeat(2, axis=3), padding=((1, 1), (1, 1)), stride=1), state


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
    """Half as many rows and columns: a convolution at every second pixel, with zeros below and to the right only."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.space = SpaceConv(channels, channels, rngs=rngs)

    def step(self, x: Frames, state: Any) -> tuple[Frames, Any]:
        """Shrink every frame."""
        return self.space(x, padding=((0, 1), (0, 1)), stride=2), state


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


def _convolve_pictures(
    x: Float[Array, "P h w C"], kernel: Float[Array, "3 3 C D"], padding: tuple[Grid, Grid], stride: int = 1
) -> Float[Array, "P i j D"]:
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _convolve_frames(x: Float[Array, "B S h w C"], kernel: Float[Array, "3 3 3 C D"]) -> Float[Array, "B T h w D"]:
    """Convolve in space and time; S = T + 2 frames in, T out.

    On CPU XLA's 3-D convolution is 2 to 10 times slower than its 2-D one. So there the three frames that an output
    frame sees become channels of one picture: 3 times the input to copy, and the sum over time stays inside one
    convolution. Elsewhere the 3-D convolution is the fast and the small one.
    """
    if jax.default_backend() != "cpu":
        padding = ((0, 0), (1, 1), (1, 1))
        return lax.conv_general_dilated(x, kernel, (1, 1, 1), padding, dimension_numbers=("NDHWC", "HWDIO", "NDHWC"))
    windows = _windows(x)
    b, t, h, w, c = windows.shape
    y = _convolve_pictures(windows.reshape(b * t, h, w, c), kernel.reshape(TAPS, TAPS, c, -1), ((1, 1), (1, 1)))
    return y.reshape(b, t, h, w, -1)
