"""Wan2.1-VAE's weights (arXiv 2503.20314, section 4.1), in and out, under either of their two sets of names.

Wan's own are those of Wan2.1_VAE.pth, which others republish as safetensors; diffusers' are AutoencoderKLWan's. The
tensors are the same.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from flax import nnx, traverse_util

from wanstreamer_jax.config import VideoVAEConfig
from wanstreamer_jax.convert.family import Family
from wanstreamer_jax.convert.table import VECTOR, Entry, Layout, Params, Tensor, read, write
from wanstreamer_jax.convert.wan_vae_config import read_config, write_config
from wanstreamer_jax.timeline import PIXELS_PER_TOKEN, Picture
from wanstreamer_jax.vae.video import VideoVAE

# o out, i in, t frames, h rows, w columns
CONV3D = Layout("o i t h w", "h w t i o")
CONV2D = Layout("o i h w", "h w i o")
CONV1D = Layout("o i t 1 1", "t i o")
POINT3D = Layout("o i 1 1 1", "i o")
POINT2D = Layout("o i 1 1", "i o")
GAIN3D = Layout("c 1 1 1", "c")
GAIN2D = Layout("c 1 1", "c")

ANY_PICTURE = Picture(PIXELS_PER_TOKEN, PIXELS_PER_TOKEN)  # parameters do not depend on it


class Rule(NamedTuple):
    """What a kind of tensor is called within its layer, and how it is laid out."""

    diffusers: str
    wan: str
    layout: Layout


def _affine(ours: str, diffusers: str, wan: str, layout: Layout) -> dict[str, Rule]:
    return {
        f"{ours}kernel": Rule(f"{diffusers}weight", f"{wan}weight", layout),
        f"{ours}bias": Rule(f"{diffusers}bias", f"{wan}bias", VECTOR),
    }


RULES: dict[str, Rule] = {
    **_affine("", "", "", CONV3D),
    **_affine("conv1.", "conv1.", "residual.2.", CONV3D),
    **_affine("conv2.", "conv2.", "residual.6.", CONV3D),
    **_affine("conv_out.", "conv_out.", "head.2.", CONV3D),
    **_affine("shortcut.", "conv_shortcut.", "shortcut.", POINT3D),
    **_affine("quant.", "quant_conv.", "conv1.", POINT3D),
    **_affine("post_quant.", "post_quant_conv.", "conv2.", POINT3D),
    **_affine("qkv.", "to_qkv.", "to_qkv.", POINT2D),
    **_affine("out.", "proj.", "proj.", POINT2D),
    **_affine("space.", "resample.1.", "resample.1.", CONV2D),
    **_affine("time.", "time_conv.", "time_conv.", CONV1D),
    "norm.gain": Rule("norm.gamma", "norm.gamma", GAIN2D),
    "norm1.gain": Rule("norm1.gamma", "residual.0.gamma", GAIN3D),
    "norm2.gain": Rule("norm2.gamma", "residual.3.gamma", GAIN3D),
    "norm_out.gain": Rule("norm_out.gamma", "head.0.gamma", GAIN3D),
}


def from_diffusers(state: Mapping[str, Tensor], cfg: VideoVAEConfig, picture: Picture) -> Params:
    """Parameters of a VideoVAE from the state dict of an AutoencoderKLWan.

    Raises one ValueError that lists every unknown, missing and ill-shaped tensor.
    """
    return read(table(cfg), state, lambda: VideoVAE(cfg, picture, rngs=nnx.Rngs(0)), unused="")


def to_diffusers(params: Params, cfg: VideoVAEConfig, picture: Picture) -> dict[str, np.ndarray]:  # noqa: ARG001
    """The state dict of an AutoencoderKLWan from a VideoVAE's parameters."""
    return write(table(cfg), params)


def table(cfg: VideoVAEConfig, names: Collection[str] = ()) -> list[Entry]:
    """Every tensor of the VAE, under Wan's own names if they are among `names`, else under diffusers'."""
    is_wan = any(name.startswith("encoder.downsamples.") for name in names)
    layers = _wan_layers(cfg) if is_wan else _diffusers_layers(cfg)
    return [
        Entry(prefix + (rule.wan if is_wan else rule.diffusers), ours, rule.layout)
        for ours, prefix, rule in _tensors(cfg, layers)
    ]


def _tensors(cfg: VideoVAEConfig, layers: dict[str, list[str]]) -> Iterator[tuple[str, str, Rule]]:
    """The path of every parameter, the prefix of its layer and its rule; none is made."""
    for path in traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: _init(cfg))))):
        match path:
            case (part, "trunk", "layers", i, *rest):
                prefix = layers[part][i]
            case (_, *rest):
                prefix = ""
        yield ".".join(map(str, path)), prefix, RULES[".".join(rest)]


def _init(cfg: VideoVAEConfig) -> VideoVAE:
    return VideoVAE(cfg, ANY_PICTURE, rngs=nnx.Rngs(0))


def _diffusers_layers(cfg: VideoVAEConfig) -> dict[str, list[str]]:
    """Prefixes of our layers, in our order: the encoder's stages are one flat list, the decoder's have their own."""
    n_stages = len(cfg.multipliers)
    down = [f"encoder.down_blocks.{i}." for i in range(_n_blocks(cfg, cfg.res_blocks))]
    up = []
    for i, j in itertools.product(range(n_stages), range(cfg.res_blocks + 2)):
        if j <= cfg.res_blocks:
            up.append(f"decoder.up_blocks.{i}.resnets.{j}.")
        elif i < n_stages - 1:
            up.append(f"decoder.up_blocks.{i}.upsamplers.0.")
    blocks = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")
    return _in_order(down, up, blocks, conv_in="conv_in")


def _wan_layers(cfg: VideoVAEConfig) -> dict[str, list[str]]:
    """The same under Wan's own names: both parts are flat lists."""
    down = [f"encoder.downsamples.{i}." for i in range(_n_blocks(cfg, cfg.res_blocks))]
    up = [f"decoder.upsamples.{i}." for i in range(_n_blocks(cfg, cfg.res_blocks + 1))]
    return _in_order(down, up, ("middle.0", "middle.1", "middle.2"), conv_in="conv1")


def _n_blocks(cfg: VideoVAEConfig, res_blocks: int) -> int:
    """Residual blocks of all stages, and what is between stages."""
    n_stages = len(cfg.multipliers)
    return n_stages * res_blocks + n_stages - 1


def _in_order(down: list[str], up: list[str], middle: tuple[str, ...], conv_in: str) -> dict[str, list[str]]:
    """The middle comes after the encoder's stages and before the decoder's."""
    encoder, decoder = ([f"{part}.{block}." for block in middle] for part in ("encoder", "decoder"))
    return {
        "encoder": [f"encoder.{conv_in}.", *down, *encoder, "encoder."],
        "decoder": [f"decoder.{conv_in}.", *decoder, *up, "decoder."],
    }


FAMILY = Family(
    name="wan-vae",
    model_types=("AutoencoderKLWan",),
    safetensors="Wan-AI/Wan2.1-T2V-1.3B-Diffusers, folder vae, on huggingface.co",
    read_config=read_config,
    write_config=write_config,
    table=table,
    init=_init,
    unused="",
)
