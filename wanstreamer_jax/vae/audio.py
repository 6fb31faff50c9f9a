"""The audio VAE: Mimi's trunk (arXiv 2410.00037, section 3.3) with a Gaussian bottleneck where Mimi quantises.

B sessions, T latents, C latent channels, D width.

    samples, 24 kHz -> SEANet -> 25 Hz -> windowed Transformer -> downsample -> 12.5 Hz -> mean, log variance
    samples, 24 kHz <- SEANet <- 25 Hz <- windowed Transformer <- upsample   <- 12.5 Hz <- latents

The bottleneck begins as an orthonormal projection and its transpose, which are the identity when as many channels
remain as there are: with Mimi's weights, an untrained bottleneck is Mimi without its quantiser.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.config import AudioVAEConfig
from wanstreamer_jax.layers import Linear
from wanstreamer_jax.timeline import SAMPLES_PER_AUDIO_LATENT
from wanstreamer_jax.vae.causal import Gaussian
from wanstreamer_jax.vae.conv1d import (
    Chain,
    ChainState,
    Conv1d,
    ConvTranspose1d,
    Downsample,
    DownsampleState,
    Elu,
    Layer,
    Residual,
    Upsample,
)
from wanstreamer_jax.vae.windowed import WindowedState, WindowedTransformer

INITIAL_LOG_VARIANCE = -6.0  # of a new bottleneck: little noise, so that training starts from what the mean gives


class TrunkState(NamedTuple):
    """What the encoder remembers."""

    seanet: ChainState
    transformer: WindowedState
    downsample: DownsampleState


class MimiEncoderTrunk(nnx.Module):
    """Mimi's encoder up to its quantiser: SEANet, a windowed Transformer at 25 Hz, a downsampling to 12.5 Hz."""

    def __init__(self, cfg: AudioVAEConfig, *, rngs: nnx.Rngs):
        self.seanet = _seanet_encoder(cfg, rngs)
        self.transformer = _transformer(cfg, rngs)
        self.downsample = Downsample(cfg.width, _frames_per_latent(cfg), rngs=rngs)

    def __call__(self, x: Float[Array, "B n_samples"]) -> Float[Array, "B T D"]:
        """Encode whole recordings; a last partial latent is completed with silence at each layer, as Mimi does."""
        return self._run(x, self.init_state(len(x)))[0]

    def init_state(self, batch: int) -> TrunkState:
        """Silence."""
        return TrunkState(
            self.seanet.init_state(batch), self.transformer.init_state(batch), self.downsample.init_state(batch)
        )

    def step(self, x: Float[Array, "B n_samples"], state: TrunkState) -> tuple[Float[Array, "B T D"], TrunkState]:
        """Encode the next samples; ValueError unless they make whole latents."""
        if x.shape[1] % SAMPLES_PER_AUDIO_LATENT:
            raise ValueError(f"a step of {x.shape[1]} samples: no multiple of {SAMPLES_PER_AUDIO_LATENT}")
        return self._run(x, state)

    def _run(self, x: Array, state: TrunkState) -> tuple[Array, TrunkState]:
        frames, seanet = self.seanet.step(x[..., None], state.seanet)
        frames, transformer = self.transformer.step(frames, state.transformer)  # [B, 2 T, D]
        latents, downsample = self.downsample.step(frames, state.downsample)
        return latents, TrunkState(seanet, transformer, downsample)


class AudioEncoder(nnx.Module):
    """Samples to what is believed of their latents."""

    def __init__(self, cfg: AudioVAEConfig, projection: Float[Array, "D C"], *, rngs: nnx.Rngs):
        self.trunk = MimiEncoderTrunk(cfg, rngs=rngs)
        self.mean = Linear(cfg.width, cfg.latent_channels, bias=True, rngs=rngs)
        self.mean.kernel = nnx.Param(projection)
        self.log_variance = Linear(cfg.width, cfg.latent_channels, bias=True, std=0.0, rngs=rngs)
        self.log_variance.bias = nnx.Param(jnp.full(cfg.latent_channels, INITIAL_LOG_VARIANCE))

    def __call__(self, x: Float[Array, "B n_samples"]) -> Gaussian:
        """Encode whole recordings [B, n_samples], 24 kHz in [-1, 1], to [B, T, C] at 12.5 Hz."""
        return self._bottleneck(self.trunk(x))

    def init_state(self, batch: int) -> TrunkState:
        """Silence."""
        return self.trunk.init_state(batch)

    def step(self, x: Float[Array, "B n_samples"], state: TrunkState) -> tuple[Gaussian, TrunkState]:
        """Encode the next samples; ValueError unless they make whole latents."""
        latents, state = self.trunk.step(x, state)
        return self._bottleneck(latents), state

    def _bottleneck(self, latents: Float[Array, "B T D"]) -> Gaussian:
        return Gaussian(self.mean(latents), self.log_variance(latents))


class DecoderState(NamedTuple):
    """What the decoder remembers."""

    upsample: Float[Array, "B 1 D"]
    transformer: WindowedState
    seanet: ChainState


class AudioDecoder(nnx.Module):
    """Latents to samples."""

    def __init__(self, cfg: AudioVAEConfig, projection: Float[Array, "C D"], *, rngs: nnx.Rngs):
        self.unproject = Linear(cfg.latent_channels, cfg.width, bias=True, rngs=rngs)
        self.unproject.kernel = nnx.Param(projection)
        self.upsample = Upsample(cfg.width, _frames_per_latent(cfg), rngs=rngs)
        self.transformer = _transformer(cfg, rngs)
        self.seanet = _seanet_decoder(cfg, rngs)

    def __call__(self, z: Float[Array, "B T C"]) -> Float[Array, "B n_samples"]:
        """Decode whole sequences of latents at 12.5 Hz to samples at 24 kHz, 1920 a latent."""
        return self.step(z, self.init_state(len(z)))[0]

    def init_state(self, batch: int) -> DecoderState:
        """Silence."""
        return DecoderState(
            self.upsample.init_state(batch), self.transformer.init_state(batch), self.seanet.init_state(batch)
        )

    def step(self, z: Float[Array, "B T C"], state: DecoderState) -> tuple[Float[Array, "B n_samples"], DecoderState]:
        """Decode the next latents."""
        frames, upsample = self.upsample.step(self.unproject(z), state.upsample)  # [B, 2 T, D]
        frames, transformer = self.transformer.step(frames, state.transformer)
        samples, seanet = self.seanet.step(frames, state.seanet)
        return samples[..., 0], DecoderState(upsample, transformer, seanet)


class AudioVAE(nnx.Module):
    """Encoder and decoder, which stream independently of each other."""

    def __init__(self, cfg: AudioVAEConfig, *, rngs: nnx.Rngs):
        projection = _orthonormal(cfg.width, cfg.latent_channels, rngs)
        self.encoder = AudioEncoder(cfg, projection, rngs=rngs)
        self.decoder = AudioDecoder(cfg, projection.T, rngs=rngs)


def _orthonormal(width: int, channels: int, rngs: nnx.Rngs) -> Float[Array, "D C"]:
    if width == channels:
        return jnp.eye(width)
    return nnx.initializers.orthogonal()(rngs.params(), (width, channels))


def _frames_per_latent(cfg: AudioVAEConfig) -> int:
    """Frames of SEANet that make a latent: 2. ValueError when the strides do not fit the clock."""
    frames, rest = divmod(SAMPLES_PER_AUDIO_LATENT, math.prod(cfg.strides))
    if rest:
        raise ValueError(f"strides {cfg.strides}: their product does not divide {SAMPLES_PER_AUDIO_LATENT}")
    return frames


def _transformer(cfg: AudioVAEConfig, rngs: nnx.Rngs) -> WindowedTransformer:
    return WindowedTransformer(cfg.width, cfg.mlp, layers=cfg.layers, heads=cfg.heads, window=cfg.window, rngs=rngs)


def _seanet_encoder(cfg: AudioVAEConfig, rngs: nnx.Rngs) -> Chain:
    channels = cfg.filters
    layers: list[Layer] = [Conv1d(1, channels, 7, rngs=rngs)]
    for stride in reversed(cfg.strides):
        layers += [Residual(channels, 2**i, rngs=rngs) for i in range(cfg.residual_layers)]
        layers += [Elu(), Conv1d(channels, 2 * channels, 2, stride=stride, rngs=rngs)]
        channels *= 2
    return Chain([*layers, Elu(), Conv1d(channels, cfg.width, 3, rngs=rngs)])


def _seanet_decoder(cfg: AudioVAEConfig, rngs: nnx.Rngs) -> Chain:
    channels = cfg.filters * 2 ** len(cfg.strides)
    layers: list[Layer] = [Conv1d(cfg.width, channels, 7, rngs=rngs)]
    for stride in cfg.strides:
        channels //= 2
        layers += [Elu(), ConvTranspose1d(2 * channels, channels, stride=stride, rngs=rngs)]
        layers += [Residual(channels, 2**i, rngs=rngs) for i in range(cfg.residual_layers)]
    return Chain([*layers, Elu(), Conv1d(channels, 1, 3, rngs=rngs)])
