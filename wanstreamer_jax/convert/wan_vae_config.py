"""Sizes of a Wan2.1-VAE: from diffusers' config.json, or, where there is none, from the shapes of its tensors."""

import re
from collections.abc import Mapping
from typing import Any

from wanstreamer_jax.config import VideoVAEConfig
from wanstreamer_jax.convert.fields import MOST, Fields
from wanstreamer_jax.convert.table import Tensor
from wanstreamer_jax.presets import WAN_VAE
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, PIXELS_PER_LATENT, VIDEO_LATENTS_PER_UNIT
from wanstreamer_jax.vae.video import RGB

# What AutoencoderKLWan's config.json says where we have no choice; Wan2.2's VAE says otherwise.
KIND = {
    "attn_scales": [],
    "in_channels": RGB,
    "is_residual": False,
    "out_channels": RGB,
    "scale_factor_spatial": PIXELS_PER_LATENT,
    "scale_factor_temporal": FRAMES_PER_UNIT // VIDEO_LATENTS_PER_UNIT,
}
FIRST = ("encoder.conv_in.weight", "encoder.conv1.weight")
LAST = ("post_quant_conv.weight", "conv2.weight")
BLOCK = re.compile(
    r"encoder\.(?:down_blocks|downsamples)\.(\d{1,4})\.(resample\.1|time_conv|conv2|residual\.6)\.weight"
)


def read_config(raw: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> VideoVAEConfig:
    """Sizes of a Wan2.1-VAE, and its latents' mean and deviation: as published where nothing else is said.

    Raises ValueError with all that we do not have.
    """
    return _from_fields(Fields(raw, len(tensors))) if raw else _from_shapes(tensors)


def write_config(cfg: VideoVAEConfig) -> dict[str, Any]:
    """The config.json of an AutoencoderKLWan of these sizes."""
    return {
        **KIND,
        "_class_name": "AutoencoderKLWan",
        "base_dim": cfg.base,
        "dim_mult": list(cfg.multipliers),
        "dropout": 0.0,
        "latents_mean": list(cfg.latent_mean or (0.0,) * cfg.latent_channels),
        "latents_std": list(cfg.latent_std or (1.0,) * cfg.latent_channels),
        "num_res_blocks": cfg.res_blocks,
        "temperal_downsample": list(cfg.temporal_downsample),
        "z_dim": cfg.latent_channels,
    }


def _from_fields(fields: Fields) -> VideoVAEConfig:
    default = VideoVAEConfig()
    base, channels = fields.size("base_dim", default.base), fields.size("z_dim", default.latent_channels)
    mean, std = _statistics(channels)
    cfg = VideoVAEConfig(
        base=base,
        multipliers=fields.sizes("dim_mult", default.multipliers),
        res_blocks=fields.count("num_res_blocks", default.res_blocks),
        temporal_downsample=fields.flags("temperal_downsample", default.temporal_downsample),
        latent_channels=channels,
        latent_mean=fields.numbers("latents_mean", mean),
        latent_std=fields.numbers("latents_std", std),
    )
    fields.must_be(**KIND, decoder_base_dim=base)
    fields.must_lack("patch_size")
    if not _keeps_the_clock(cfg.temporal_downsample):
        fields.refuse(f"temperal_downsample: {list(cfg.temporal_downsample)}, but two must be true")
    if min(cfg.latent_std) <= 0:
        fields.refuse("latents_std: must be positive")
    fields.check()
    return cfg


def _from_shapes(tensors: Mapping[str, Tensor]) -> VideoVAEConfig:
    base, channels = _out_channels(tensors, FIRST), _out_channels(tensors, LAST)
    stages, temporal = _stages(tensors)
    if len(stages) != len(VideoVAEConfig().multipliers) or not all(stages) or not _keeps_the_clock(temporal):
        raise ValueError("no Wan2.1-VAE: its encoder has no 4 stages, of which two halve the frame rate")
    mean, std = _statistics(channels)
    return VideoVAEConfig(
        base=base,
        multipliers=tuple(max(1, widths[-1] // base) for widths in stages),
        res_blocks=len(stages[0]),
        temporal_downsample=temporal,
        latent_channels=channels,
        latent_mean=mean,
        latent_std=std,
    )


def _out_channels(tensors: Mapping[str, Tensor], names: tuple[str, ...]) -> int:
    """The first axis of the one of these tensors that there is."""
    for name in names:
        if name in tensors and tensors[name].shape and 0 < tensors[name].shape[0] <= MOST:
            return tensors[name].shape[0]
    raise ValueError(f"no Wan2.1-VAE: neither {' nor '.join(names)} is there with channels")


def _stages(tensors: Mapping[str, Tensor]) -> tuple[list[list[int]], tuple[bool, ...]]:
    """Channels of each residual block of each stage of the encoder; which of what is between them halves the rate."""
    blocks: dict[int, dict[str, int]] = {}
    for name, x in tensors.items():
        if match := BLOCK.fullmatch(name):
            blocks.setdefault(int(match[1]), {})[match[2]] = x.shape[0] if x.shape else 0
    stages, temporal = [[]], []  # type: list[list[int]], list[bool]
    for _, block in sorted(blocks.items()):
        if "resample.1" in block:
            stages.append([])
            temporal.append("time_conv" in block)
        else:
            stages[-1] += block.values()
    return stages, tuple(temporal)


def _keeps_the_clock(temporal_downsample: tuple[bool, ...]) -> bool:
    return 2 ** sum(temporal_downsample) * VIDEO_LATENTS_PER_UNIT == FRAMES_PER_UNIT


def _statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of latents: the published ones of as many channels as published, else none to speak of."""
    if channels == WAN_VAE.latent_channels:
        return WAN_VAE.latent_mean, WAN_VAE.latent_std
    return (0.0,) * channels, (1.0,) * channels
