"""Parameters, arithmetic and memory of the parts around the Transformer, layer by layer, as they are built.

A unit at a time, one session. Each function mirrors the module of its name; tests compare their sums with the modules'
own shapes. D width, F mlp width, C channels, T tokens.
"""

import dataclasses
import math
from typing import NamedTuple

from wanstreamer_jax.config import AudioVAEConfig, Config, VideoVAEConfig, VisionConfig
from wanstreamer_jax.timeline import (
    AUDIO_LATENTS_PER_UNIT,
    FRAMES_PER_UNIT,
    SAMPLES_PER_AUDIO_LATENT,
    SAMPLES_PER_UNIT,
    VIDEO_LATENTS_PER_UNIT,
    Picture,
)

RGB = 3


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a layer, or of layers in sequence."""

    parameters: int = 0
    flop: int = 0  # in a unit
    state: int = 0  # values remembered from unit to unit
    n_products: int = 0  # of matrices, and convolutions; norms and the like are fused with them

    def __add__(self, other: "Cost") -> "Cost":
        """One after the other."""
        return Cost(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def __mul__(self, times: int) -> "Cost":
        """The same layers, so many times over."""
        return Cost(*(times * value for value in dataclasses.astuple(self)))


def total(costs: list[Cost]) -> Cost:
    """All of them together."""
    return sum(costs, Cost())


def dense(inputs: int, outputs: int, n: int, *, bias: bool = True) -> Cost:
    """A matrix product with each of n tokens or pixels."""
    return Cost(inputs * outputs + bias * outputs, 2 * inputs * outputs * n, n_products=1)


# ---- Sight


def vision(cfg: VisionConfig, width: int) -> Cost:
    """`perception.Vision`: the tower, a token for each patch, and the projector, one for each 2 x 2 patches."""
    rows, columns = cfg.grid
    merged = rows * columns
    patches = 4 * merged
    T = patches * cfg.frames_per_unit
    norm = Cost(2 * cfg.width)
    embed = dense(cfg.patch**2 * RGB, cfg.width, T) + Cost(patches * cfg.width)  # and a position each
    attention = norm + dense(cfg.width, cfg.width, T) * 4 + Cost(flop=4 * cfg.width * T * patches)
    mlp = norm + dense(cfg.width, cfg.mlp, T) + dense(cfg.mlp, cfg.width, T)
    return embed + (attention + mlp) * cfg.layers + norm + projector(4 * cfg.width, width, merged * cfg.frames_per_unit)


def projector(inputs: int, width: int, T: int) -> Cost:
    """`perception.Projector`."""
    return Cost(inputs) + dense(inputs, width, T) + dense(width, width, T)


# ---- Sound


def hearing(cfg: AudioVAEConfig, width: int) -> Cost:
    """`perception.Hearing`."""
    return audio_trunk(cfg) + projector(cfg.width, width, AUDIO_LATENTS_PER_UNIT)


def audio_encoder(cfg: AudioVAEConfig) -> Cost:
    """`vae.audio.AudioEncoder`."""
    return audio_trunk(cfg) + dense(cfg.width, cfg.latent_channels, AUDIO_LATENTS_PER_UNIT) * 2


def audio_trunk(cfg: AudioVAEConfig) -> Cost:
    """`vae.audio.MimiEncoderTrunk`."""
    n, channels = SAMPLES_PER_UNIT, cfg.filters
    layers = [_conv1d(1, channels, 7, n)]
    for stride in reversed(cfg.strides):
        layers += [_residual1d(channels, 2**i, n) for i in range(cfg.residual_layers)]
        n //= stride
        layers += [_conv1d(channels, 2 * channels, 2, n, stride=stride)]
        channels *= 2
    layers += [_conv1d(channels, cfg.width, 3, n), _windowed_transformer(cfg, n)]
    stride = SAMPLES_PER_AUDIO_LATENT // math.prod(cfg.strides)
    downsample = dense(2 * stride * cfg.width, cfg.width, n // stride, bias=False) + Cost(state=stride * cfg.width)
    return total([*layers, downsample])


def audio_decoder(cfg: AudioVAEConfig) -> Cost:
    """`vae.audio.AudioDecoder`."""
    frames_per_latent = SAMPLES_PER_AUDIO_LATENT // math.prod(cfg.strides)
    n, channels = AUDIO_LATENTS_PER_UNIT * frames_per_latent, cfg.filters * 2 ** len(cfg.strides)
    unproject = dense(cfg.latent_channels, cfg.width, AUDIO_LATENTS_PER_UNIT)
    taps = 2 * frames_per_latent * cfg.width  # each channel by itself
    upsample = Cost(taps, 2 * taps * AUDIO_LATENTS_PER_UNIT, state=cfg.width, n_products=1)
    layers = [unproject, upsample, _windowed_transformer(cfg, n), _conv1d(cfg.width, channels, 7, n)]
    for stride in cfg.strides:
        channels //= 2
        transposed = dense(4 * channels, stride * channels, n, bias=False)
        layers += [transposed + Cost(channels, state=2 * channels)]
        n *= stride
        layers += [_residual1d(channels, 2**i, n) for i in range(cfg.residual_layers)]
    return total([*layers, _conv1d(channels, 1, 3, n)])


def _conv1d(inputs: int, outputs: int, taps: int, n: int, *, stride: int = 1, dilation: int = 1) -> Cost:
    tail = (taps - 1) * dilation * stride * inputs
    return dense(taps * stride * inputs, outputs, n) + Cost(state=tail)


def _residual1d(channels: int, dilation: int, n: int) -> Cost:
    half = channels // 2
    return _conv1d(channels, half, 3, n, dilation=dilation) + dense(half, channels, n)


def _windowed_transformer(cfg: AudioVAEConfig, n: int) -> Cost:
    attention = dense(cfg.width, cfg.width, n, bias=False) * 4
    scores = Cost(flop=4 * cfg.width * n * (cfg.window + n), state=2 * cfg.window * cfg.width)
    mlp = dense(cfg.width, cfg.mlp, n, bias=False) * 2
    norms_and_scales = Cost(6 * cfg.width)
    return (attention + scores + mlp + norms_and_scales) * cfg.layers


# ---- Pictures


class Frames(NamedTuple):
    """What a layer of the video VAE makes in a unit: so many frames of so many pixels."""

    n: int
    pixels: int


def video_decoder(cfg: VideoVAEConfig, picture: Picture) -> Cost:
    """`vae.video.VideoDecoder`."""
    rows, columns = picture.latent_grid
    frames, channels = Frames(VIDEO_LATENTS_PER_UNIT, rows * columns), cfg.base * cfg.multipliers[-1]
    latent = _point(cfg.latent_channels, cfg.latent_channels, frames)
    layers = [latent, _causal(cfg.latent_channels, channels, frames), _middle(channels, frames)]
    for i, multiplier in reversed(list(enumerate(cfg.multipliers))):
        layers += [_stage(channels, cfg.base * multiplier, cfg.res_blocks + 1, frames)]
        channels = cfg.base * multiplier
        if i > 0:
            if cfg.temporal_downsample[i - 1]:
                layers += [_time(channels, 2 * channels, frames) + Cost(state=2 * frames.pixels * channels)]
                frames = Frames(2 * frames.n, frames.pixels)
            frames = Frames(frames.n, 4 * frames.pixels)
            layers += [_enlarge(channels, channels // 2, frames)]
            channels //= 2
    return total([*layers, _head(channels, RGB, frames)])


def video_encoder(cfg: VideoVAEConfig, picture: Picture) -> Cost:
    """`vae.video.VideoEncoder`."""
    frames, channels = Frames(FRAMES_PER_UNIT, picture.width * picture.height), cfg.base
    layers = [_causal(RGB, channels, frames)]
    for i, multiplier in enumerate(cfg.multipliers):
        if i > 0:
            frames = Frames(frames.n, frames.pixels // 4)
            layers += [_convolution(9, channels, channels, frames)]
            if cfg.temporal_downsample[i - 1]:
                frames = Frames(frames.n // 2, frames.pixels)
                layers += [_time(channels, channels, frames) + Cost(state=frames.pixels * channels)]
        layers += [_stage(channels, cfg.base * multiplier, cfg.res_blocks, frames)]
        channels = cfg.base * multiplier
    head = _head(channels, 2 * cfg.latent_channels, frames)
    quant = _point(2 * cfg.latent_channels, 2 * cfg.latent_channels, frames)
    return total([*layers, _middle(channels, frames), head, quant])


def _convolution(taps: int, inputs: int, outputs: int, frames: Frames) -> Cost:
    return dense(taps * inputs, outputs, frames.n * frames.pixels)


def _point(inputs: int, outputs: int, frames: Frames) -> Cost:
    return _convolution(1, inputs, outputs, frames)


def _time(inputs: int, outputs: int, frames: Frames) -> Cost:
    return _convolution(3, inputs, outputs, frames)


def _causal(inputs: int, outputs: int, frames: Frames) -> Cost:
    """3 x 3 x 3 taps, and the two frames before."""
    return _convolution(27, inputs, outputs, frames) + Cost(state=2 * frames.pixels * inputs)


def _enlarge(inputs: int, outputs: int, frames: Frames) -> Cost:
    """9 taps on pixels repeated 2 x 2, of which 4 differ."""
    merged = 2 * 5 * inputs * outputs * frames.n * frames.pixels
    return _convolution(9, inputs, outputs, frames) + Cost(flop=-merged)


def _residual3d(inputs: int, outputs: int, frames: Frames) -> Cost:
    shortcut = _point(inputs, outputs, frames) if inputs != outputs else Cost()
    convolutions = _causal(inputs, outputs, frames) + _causal(outputs, outputs, frames)
    return Cost(inputs + outputs) + convolutions + shortcut  # and two norms


def _stage(inputs: int, outputs: int, n_blocks: int, frames: Frames) -> Cost:
    return _residual3d(inputs, outputs, frames) + _residual3d(outputs, outputs, frames) * (n_blocks - 1)


def _middle(channels: int, frames: Frames) -> Cost:
    qkv, out = _point(channels, 3 * channels, frames), _point(channels, channels, frames)
    scores = Cost(channels, 4 * channels * frames.n * frames.pixels**2)  # and a norm
    return _residual3d(channels, channels, frames) * 2 + qkv + scores + out


def _head(inputs: int, outputs: int, frames: Frames) -> Cost:
    return Cost(inputs) + _causal(inputs, outputs, frames)


# ---- What a unit asks of them


def observing(config: Config) -> Cost:
    """The step `observe`."""
    return vision(config.vision, config.transformer.width) + hearing(config.hearing, config.transformer.width)


def rendering(config: Config) -> Cost:
    """The step `render`."""
    return audio_decoder(config.audio_vae) + video_decoder(config.video_vae, config.picture)


def encoding(config: Config) -> Cost:
    """What makes latents of the world's voice and portrait, before unit 0."""
    return audio_encoder(config.audio_vae) + video_encoder(config.video_vae, config.picture)
