"""The video VAE: Wan2.1-VAE (arXiv 2503.20314, section 4.1; diffusers' AutoencoderKLWan).

    frames    [B, 1 + 4 U, H, W, 3]       in [-1, 1]; the first is the portrait
    latents   [B, 1 + U, H / 8, W / 8, C]   normalised per channel; the first is the portrait's

A stream is `first` once, then `step` for ever, with any number of units at a time. The state is the last frames of
every convolution in time, nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.config import VideoVAEConfig
from wanstreamer_jax.timeline import VIDEO_LATENTS_PER_UNIT, Picture
from wanstreamer_jax.vae.causal import Gaussian
from wanstreamer_jax.vae.conv3d import (
    CausalConv,
    Downsample,
    DownsampleTime,
    Frames,
    Grid,
    Layer,
    PointConv,
    Upsample,
    UpsampleTime,
)

RGB = 3
Face = Callable[[Frames, Any], tuple[Frames, Any]]  # the `first` or the `step` of a layer
LOG_VARIANCE_RANGE = (-30.0, 20.0)


class VideoState(NamedTuple):
    """What an encoder or decoder remembers, layer by layer: frames, a pair of frames, or () where it is nothing."""

    layers: tuple[Any, ...]


class VideoEncoder(nnx.Module):
    """Frames to latents: four frames to one, 8 x 8 pixels to one."""

    def __init__(self, cfg: VideoVAEConfig, picture: Picture, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.trunk = Chain(_encoder_layers(cfg, picture, rngs))
        self.quant = PointConv(2 * cfg.latent_channels, 2 * cfg.latent_channels, rngs=rngs)

    def __call__(self, frames: Float[Array, "B T H W 3"]) -> Gaussian:
        """Encode a clip of 1 + 4 U frames to 1 + U latents."""
        portrait, state = self.first(frames[:, :1], self.init_state(frames.shape[0]))
        if frames.shape[1] == 1:
            return portrait
        rest, _ = self.step(frames[:, 1:], state)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), portrait, rest)

    def init_state(self, batch: int) -> VideoState:
        """Return the state before the portrait: zeros."""
        return VideoState(self.trunk.init_state(batch))

    def first(self, frame: Float[Array, "B 1 H W 3"], state: VideoState) -> tuple[Gaussian, VideoState]:
        """Encode the portrait to one latent, [B, 1, h, w, C]."""
        y, layers = self.trunk.first(frame, state.layers)
        return self._gaussian(y), VideoState(layers)

    def step(self, frames: Float[Array, "B T H W 3"], state: VideoState) -> tuple[Gaussian, VideoState]:
        """Encode 4 U frames to U latents, [B, U, h, w, C]; ValueError when the frames do not fill units."""
        frames_per_latent = 2 ** sum(self.cfg.temporal_downsample)
        if frames.shape[1] % frames_per_latent:
            raise ValueError(f"frames: {frames.shape[1]} is no multiple of {frames_per_latent}")
        y, layers = self.trunk.step(frames, state.layers)
        return self._gaussian(y), VideoState(layers)

    def _gaussian(self, y: jax.Array) -> Gaussian:
        mean, log_variance = jnp.split(self.quant(y), 2, axis=-1)
        shift, scale = _normalisation(self.cfg)
        log_variance = jnp.clip(log_variance, *LOG_VARIANCE_RANGE)
        return Gaussian((mean - shift) / scale, log_variance - 2 * jnp.log(scale))


class VideoDecoder(nnx.Module):
    """Latents to frames."""

    def __init__(self, cfg: VideoVAEConfig, picture: Picture, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.post_quant = PointConv(cfg.latent_channels, cfg.latent_channels, rngs=rngs)
        self.trunk = Chain(_decoder_layers(cfg, picture, rngs))

    def __call__(self, z: Float[Array, "B T h w C"]) -> Float[Array, "B F H W 3"]:
        """Decode 1 + U latents to a clip of 1 + 4 U frames."""
        portrait, state = self.first(z[:, :1], self.init_state(z.shape[0]))
        if z.shape[1] == 1:
            return portrait
        rest, _ = self.step(z[:, 1:], state)
        return jnp.concatenate([portrait, rest], axis=1)

    def init_state(self, batch: int) -> VideoState:
        """Return the state before the portrait: zeros."""
        return VideoState(self.trunk.init_state(batch))

    def first(self, z: Float[Array, "B 1 h w C"], state: VideoState) -> tuple[Float[Array, "B 1 H W 3"], VideoState]:
        """Decode the portrait, one latent to one frame."""
        y, layers = self.trunk.first(self._latents(z), state.layers)
        return _clamp(y), VideoState(layers)

    def step(self, z: Float[Array, "B U h w C"], state: VideoState) -> tuple[Float[Array, "B F H W 3"], VideoState]:
        """Decode U latents to 4 U frames."""
        y, layers = self.trunk.step(self._latents(z), state.layers)
        return _clamp(y), VideoState(layers)

    def _latents(self, z: jax.Array) -> jax.Array:
        shift, scale = _normalisation(self.cfg)
        return self.post_quant(z * scale + shift)


class VideoVAE(nnx.Module):
    """Encoder and decoder, which share nothing but the latents between them."""

    def __init__(self, cfg: VideoVAEConfig, picture: Picture, *, rngs: nnx.Rngs):
        self.encoder = VideoEncoder(cfg, picture, rngs=rngs)
        self.decoder = VideoDecoder(cfg, picture, rngs=rngs)


def _encoder_layers(cfg: VideoVAEConfig, picture: Picture, rngs: nnx.Rngs) -> list[Layer]:
    channels, grid = cfg.base, Grid(2 ** sum(cfg.temporal_downsample), picture.height, picture.width)
    layers: list[Layer] = [CausalConv(RGB, channels, grid, rngs=rngs)]
    for i, multiplier in enumerate(cfg.multipliers):
        if i > 0:
            temporal = cfg.temporal_downsample[i - 1]
            layers.append(DownsampleTime(channels, grid, rngs=rngs) if temporal else Downsample(channels, rngs=rngs))
            grid = grid.half(temporal=temporal)
        layers += _stage(channels, cfg.base * multiplier, cfg.res_blocks, grid, rngs)
        channels = cfg.base * multiplier
    return [*layers, *_middle(channels, grid, rngs), Head(channels, 2 * cfg.latent_channels, grid, rngs=rngs)]


def _decoder_layers(cfg: VideoVAEConfig, picture: Picture, rngs: nnx.Rngs) -> list[Layer]:
    channels, grid = cfg.base * cfg.multipliers[-1], Grid(VIDEO_LATENTS_PER_UNIT, *picture.latent_grid)
    layers: list[Layer] = [CausalConv(cfg.latent_channels, channels, grid, rngs=rngs), *_middle(channels, grid, rngs)]
    for i, multiplier in reversed(list(enumerate(cfg.multipliers))):
        layers += _stage(channels, cfg.base * multiplier, cfg.res_blocks + 1, grid, rngs)
        channels = cfg.base * multiplier
        if i > 0:
            temporal = cfg.temporal_downsample[i - 1]
            layers.append(UpsampleTime(channels, grid, rngs=rngs) if temporal else Upsample(channels, rngs=rngs))
            channels, grid = channels // 2, grid.double(temporal=temporal)
    return [*layers, Head(channels, RGB, grid, rngs=rngs)]


def _stage(channels_in: int, channels: int, n_blocks: int, grid: Grid, rngs: nnx.Rngs) -> list[Layer]:
    widths_in = [channels_in] + [channels] * (n_blocks - 1)
    return [ResidualBlock(c, channels, grid, rngs=rngs) for c in widths_in]


def _middle(channels: int, grid: Grid, rngs: nnx.Rngs) -> list[Layer]:
    return [
        ResidualBlock(channels, channels, grid, rngs=rngs),
        FrameAttention(channels, rngs=rngs),
        ResidualBlock(channels, channels, grid, rngs=rngs),
    ]


def _normalisation(cfg: VideoVAEConfig) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
    """Mean and standard deviation of each latent channel over the training data."""
    zeros, ones = (0.0,) * cfg.latent_channels, (1.0,) * cfg.latent_channels
    return jnp.array(cfg.latent_mean or zeros), jnp.array(cfg.latent_std or ones)


def _clamp(frames: jax.Array) -> jax.Array:
    """Frames in [-1, 1], with the gradient of the frames as they were: a pixel out of range still learns."""
    return frames + jax.lax.stop_gradient(jnp.clip(frames, -1, 1) - frames)


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
        y, tail1 = self.conv1.step(_silu(self.norm1(x)), state[0])
        y, tail2 = self.conv2.step(_silu(self.norm2(y)), state[1])
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
        return self.conv_out.step(_silu(self.norm_out(x)), state)


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


class RMSNorm(nnx.Module):
    """Channels of each pixel scaled to a root mean square of 1, then by a learned gain."""

    def __init__(self, channels: int):
        self.gain = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        """Normalise the last axis."""
        square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
        # The bound stands inside the root, whose gradient at 0 is infinite.
        return x / jnp.sqrt(jnp.maximum(square, 1e-24)) * (x.shape[-1] ** 0.5 * self.gain[...])


def _silu(x: jax.Array) -> jax.Array:
    """SiLU in the form that costs XLA's CPU code least: with `jax.nn.silu` a unit takes a tenth longer.

    The bound is for the gradient, which would be NaN where exp overflows.
    """
    return x / (1 + jnp.exp(-jnp.maximum(x, -80)))
