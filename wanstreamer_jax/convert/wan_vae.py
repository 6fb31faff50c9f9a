"""Wan2.1-VAE weights, as diffusers' AutoencoderKLWan names and lays them out, in and out."""

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from flax import nnx, traverse_util

from wanstreamer_jax.config import VideoVAEConfig
from wanstreamer_jax.convert.table import VECTOR, Entry, Layout, Params, Tensor, read, write
from wanstreamer_jax.timeline import Picture
from wanstreamer_jax.vae.video import VideoVAE

# o out, i in, t frames, h rows, w columns
CONV3D = Layout("o i t h w", "h w t i o")
CONV2D = Layout("o i h w", "h w i o")
CONV1D = Layout("o i t 1 1", "t i o")
POINT3D = Layout("o i 1 1 1", "i o")
POINT2D = Layout("o i 1 1", "i o")
GAIN3D = Layout("c 1 1 1", "c")
GAIN2D = Layout("c 1 1", "c")


class Rule(NamedTuple):
    """What a kind of tensor is called within its layer, and how it is laid out."""

    theirs: str
    layout: Layout


def _affine(ours: str, theirs: str, layout: Layout) -> dict[str, Rule]:
    return {f"{ours}kernel": Rule(f"{theirs}weight", layout), f"{ours}bias": Rule(f"{theirs}bias", VECTOR)}


RULES: dict[str, Rule] = {
    **_affine("", "", CONV3D),
    **_affine("conv1.", "conv1.", CONV3D),
    **_affine("conv2.", "conv2.", CONV3D),
    **_affine("conv_out.", "conv_out.", CONV3D),
    **_affine("shortcut.", "conv_shortcut.", POINT3D),
    **_affine("quant.", "quant_conv.", POINT3D),
    **_affine("post_quant.", "post_quant_conv.", POINT3D),
    **_affine("qkv.", "to_qkv.", POINT2D),
    **_affine("out.", "proj.", POINT2D),
    **_affine("space.", "resample.1.", CONV2D),
    **_affine("time.", "time_conv.", CONV1D),
    "norm.gain": Rule("norm.gamma", GAIN2D),
    "norm1.gain": Rule("norm1.gamma", GAIN3D),
    "norm2.gain": Rule("norm2.gamma", GAIN3D),
    "norm_out.gain": Rule("norm_out.gamma", GAIN3D),
}


def from_diffusers(state: Mapping[str, Tensor], cfg: VideoVAEConfig, picture: Picture) -> Params:
    """Parameters of a VideoVAE from the state dict of an AutoencoderKLWan.

    Raises one ValueError that lists every unknown, missing and ill-shaped tensor.
    """
    return read(list(_table(cfg, picture)), state, lambda: VideoVAE(cfg, picture, rngs=nnx.Rngs(0)), unused="")


def to_diffusers(params: Params, cfg: VideoVAEConfig, picture: Picture) -> dict[str, np.ndarray]:
    """The state dict of an AutoencoderKLWan from a VideoVAE's parameters."""
    return write(_table(cfg, picture), params)


def _table(cfg: VideoVAEConfig, picture: Picture) -> Iterator[Entry]:
    """Every tensor that the VAE has; none is made."""
    vae = nnx.eval_shape(lambda: VideoVAE(cfg, picture, rngs=nnx.Rngs(0)))
    layers = {"encoder": list(_encoder_layers(cfg)), "decoder": list(_decoder_layers(cfg))}
    for path in traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(vae))):
        match path:
            case (part, "trunk", "layers", i, *rest):
                prefix = layers[part][i]
            case (_, *rest):
                prefix = ""
        rule = RULES[".".join(rest)]
        yield Entry(prefix + rule.theirs, ".".join(map(str, path)), rule.layout)


def _encoder_layers(cfg: VideoVAEConfig) -> Iterator[str]:
    """Their prefixes of our encoder's layers, in our order: stages are one flat list, the middle comes after them."""
    n_stages = len(cfg.multipliers)
    yield "encoder.conv_in."
    for i in range(n_stages * cfg.res_blocks + n_stages - 1):
        yield f"encoder.down_blocks.{i}."
    yield from _middle("encoder")
    yield "encoder."


def _decoder_layers(cfg: VideoVAEConfig) -> Iterator[str]:
    """The same for our decoder: the middle comes first, then stages, each with its own list of blocks."""
    last = len(cfg.multipliers) - 1
    yield "decoder.conv_in."
    yield from _middle("decoder")
    for i, j in itertools.product(range(last + 1), range(cfg.res_blocks + 2)):
        if j <= cfg.res_blocks:
            yield f"decoder.up_blocks.{i}.resnets.{j}."
        elif i < last:
            yield f"decoder.up_blocks.{i}.upsamplers.0."
    yield "decoder."


def _middle(part: str) -> list[str]:
    return [f"{part}.mid_block.{block}." for block in ("resnets.0", "attentions.0", "resnets.1")]
