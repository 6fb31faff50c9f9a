"""Causal convolutions over time, and their chains.

B sessions, T steps of time, s stride, C channels in, D channels out.

Every convolution of Mimi (arXiv 2410.00037, section 3.3) has either stride 1 or a kernel that is a multiple of its
stride. In blocks of one stride, each of them is a convolution of stride 1, which looks at the last few blocks:

    strided       [B, T s, C] -> blocks [B, T, s C] -> kernel over 2 blocks -> [B, T, D]
    transposed    [B, T, C] -> kernel over 2 steps -> [B, T, s D] -> [B, T s, D]

What remains between pieces is the last blocks of the input: zeros before a session begins, so that a fresh state is
the causal padding. A last partial block is completed on the right, as Mimi does.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from wanstreamer_jax.layers import Linear


class Conv1d(nnx.Module):
    """Causal convolution; the kernel is so many `taps` of one stride each."""

    def __init__(self, inputs: int, outputs: int, taps: int, *, stride: int = 1, dilation: int = 1, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_draw(rngs, (taps * stride, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.taps, self.stride, self.dilation = taps, stride, dilation

    def init_state(self, batch: int) -> Float[Array, "B S C"]:
        """Silence: the input blocks that the first outputs look back on."""
        channels = self.stride * self.kernel.shape[1]
        return jnp.zeros((batch, (self.taps - 1) * self.dilation, channels))

    def step(self, x: Float[Array, "B T C"], tail: Float[Array, "B S E"]) -> tuple[Array, Array]:
        """[B, T s, C] -> [B, T, D]."""
        blocks = jnp.concatenate([tail, _in_blocks(x, self.stride, "constant")], axis=1)
        kernel = rearrange(self.kernel[...], "(K s) C D -> K (s C) D", s=self.stride)
        return _convolve(blocks, kernel, self.dilation) + self.bias[...], _last(blocks, tail.shape[1])


class ConvTranspose1d(nnx.Module):
    """Causal transposed convolution with a kernel of two strides: what overlaps the future waits for it."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs):
        # First the half of the kernel that sounds at once, then the half that overlaps the next step.
        self.kernel = nnx.Param(_draw(rngs, (2, inputs, stride * outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.stride = stride

    def init_state(self, batch: int) -> Float[Array, "B 1 C"]:
        """Silence: the step before the first."""
        return jnp.zeros((batch, 1, self.kernel.shape[1]))

    def step(self, x: Float[Array, "B T C"], tail: Float[Array, "B 1 C"]) -> tuple[Array, Array]:
        """[B, T, C] -> [B, T s, D]."""
        steps = jnp.concatenate([tail, x], axis=1)
        windows = rearrange([x, steps[:, :-1]], "K B T C -> (B T) (K C)")
        y = windows @ rearrange(self.kernel[...], "K C D -> (K C) D")
        return rearrange(y, "(B T) (s D) -> B (T s) D", B=len(x), s=self.stride) + self.bias[...], _last(steps, 1)


class Residual(nnx.Module):
    """SEANet's residual unit (arXiv 2009.02095): a dilated convolution to half the channels, and back."""

    def __init__(self, channels: int, dilation: int, *, rngs: nnx.Rngs):
        self.squeeze = Conv1d(channels, channels // 2, 3, dilation=dilation, rngs=rngs)
        self.expand = Linear(channels // 2, channels, bias=True, rngs=rngs)

    def init_state(self, batch: int) -> Float[Array, "B S C"]:
        """Silence, for the dilated convolution."""
        return self.squeeze.init_state(batch)

    def step(self, x: Float[Array, "B T C"], tail: Float[Array, "B S C"]) -> tuple[Array, Array]:
        """[B, T, C] -> [B, T, C]."""
        hidden, tail = self.squeeze.step(jax.nn.elu(x), tail)
        return x + self.expand(jax.nn.elu(hidden)), tail


class DownsampleState(NamedTuple):
    """What a downsampling remembers; `begun` is False before the first piece of a session."""

    tail: Float[Array, "B 1 E"]
    begun: Bool[Array, " B"]


class Downsample(nnx.Module):
    """Causal convolution of two strides without bias, padded with the sequence's own ends (Mimi's 25 to 12.5 Hz)."""

    def __init__(self, channels: int, stride: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_draw(rngs, (2 * stride, channels, channels)))
        self.stride = stride

    def init_state(self, batch: int) -> DownsampleState:
        """Nothing yet: the tail of a session that has not begun is never read."""
        tail = jnp.zeros((batch, 1, self.stride * self.kernel.shape[1]))
        return DownsampleState(tail, begun=jnp.zeros(batch, bool))

    def step(self, x: Float[Array, "B T C"], state: DownsampleState) -> tuple[Float[Array, "B S C"], DownsampleState]:
        """[B, T s, C] -> [B, T, C]."""
        padding = jnp.tile(x[:, :1], (1, 1, self.stride))  # [B, 1, s C]
        tail = jnp.where(state.begun[:, None, None], state.tail, padding)
        blocks = jnp.concatenate([tail, _in_blocks(x, self.stride, "edge")], axis=1)
        kernel = rearrange(self.kernel[...], "(K s) C D -> K (s C) D", s=self.stride)
        return _convolve(blocks, kernel), DownsampleState(_last(blocks, 1), jnp.ones_like(state.begun))


class Upsample(nnx.Module):
    """Causal transposed convolution of two strides without bias, each channel by itself (Mimi's 12.5 to 25 Hz)."""

    def __init__(self, channels: int, stride: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_draw(rngs, (2, stride, channels)))  # halves as in ConvTranspose1d

    def init_state(self, batch: int) -> Float[Array, "B 1 C"]:
        """Silence: the step before the first."""
        return jnp.zeros((batch, 1, self.kernel.shape[-1]))

    def step(self, x: Float[Array, "B T C"], tail: Float[Array, "B 1 C"]) -> tuple[Array, Array]:
        """[B, T, C] -> [B, T s, C]."""
        steps = jnp.concatenate([tail, x], axis=1)
        y = x[:, :, None] * self.kernel[0] + steps[:, :-1, None] * self.kernel[1]  # [B, T, s, C]
        return rearrange(y, "B T s C -> B (T s) C"), _last(steps, 1)


class Elu(nnx.Module):
    """Exponential linear unit, a layer of its own as in the public checkpoints' numbering; it remembers nothing."""

    def init_state(self, batch: int) -> tuple[()]:  # noqa: ARG002
        """Nothing."""
        return ()

    def step(self, x: Float[Array, "B T C"], tail: tuple[()]) -> tuple[Array, tuple[()]]:
        """[B, T, C] -> [B, T, C]."""
        return jax.nn.elu(x), tail


Layer = Conv1d | ConvTranspose1d | Residual | Elu


class ChainState(NamedTuple):
    """What each layer of a chain remembers."""

    tails: tuple[Any, ...]


class Chain(nnx.Module):
    """Causal layers, one after the other."""

    def __init__(self, layers: list[Layer]):
        self.layers = nnx.List(layers)

    def init_state(self, batch: int) -> ChainState:
        """Silence."""
        return ChainState(tuple(layer.init_state(batch) for layer in self.layers))

    def step(self, x: Float[Array, "B T C"], state: ChainState) -> tuple[Float[Array, "B S D"], ChainState]:
        """Run every layer on the next piece."""
        tails = []
        for layer, tail in zip(self.layers, state.tails, strict=True):
            x, new_tail = layer.step(x, tail)
            tails.append(new_tail)
        return x, ChainState(tuple(tails))


def _draw(rngs: nnx.Rngs, shape: tuple[int, int, int]) -> Array:
    """A kernel that keeps the variance of what it is convolved with."""
    return nnx.initializers.lecun_normal()(rngs.params(), shape)


def _in_blocks(x: Array, stride: int, mode: str) -> Array:
    """[B, T s, C] -> [B, T, s C]; a last partial block is completed by `jnp.pad`'s `mode`."""
    missing = -x.shape[1] % stride
    whole = jnp.pad(x, ((0, 0), (0, missing), (0, 0)), mode=mode)
    return rearrange(whole, "B (T s) C -> B T (s C)", s=stride)


def _convolve(x: Float[Array, "B S C"], kernel: Float[Array, "K C D"], dilation: int = 1) -> Float[Array, "B T D"]:
    """Convolve without padding; the first tap looks furthest back.

    As a product of copied windows it would be as fast in streaming, but three times slower to train on CPU.
    """
    dtype = jnp.result_type(x, kernel)
    return lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (1,),
        "VALID",
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


def _last(x: Array, n_steps: int) -> Array:
    return x[:, x.shape[1] - n_steps :]
