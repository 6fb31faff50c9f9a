"""Wan2.1-VAE weights, as diffusers' AutoencoderKLWan names and lays them out, in and out.

Tensors are only moved, never computed with, so that there and back is bit for bit the same.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from flax import nnx

from wanstreamer_jax.config import VideoVAEConfig
from wanstreamer_jax.timeline import Picture
from wanstreamer_jax.vae.video import VideoVAE

Path = tuple[str | int, ...]


class Rule(NamedTuple):
    """A kind of tensor: its name within a layer, and its axes (o out, i in, t frames, h rows, w columns)."""

    their_name: str
    their_axes: str
    our_axes: str


def _affine(ours: str, theirs: str, their_axes: str, our_axes: str) -> dict[str, Rule]:
    """Kernel and bias; `ours` and `theirs` are their prefixes."""
    kernel = Rule(f"{theirs}weight", their_axes, our_axes)
    return {f"{ours}kernel": kernel, f"{ours}bias": Rule(f"{theirs}bias", "o", "o")}


_CONV3D = ("o i t h w", "h w t i o")
_POINT3D, _POINT2D = ("o i 1 1 1", "i o"), ("o i 1 1", "i o")
RULES: dict[str, Rule] = {
    **_affine("", "", *_CONV3D),
    **_affine("conv1.", "conv1.", *_CONV3D),
    **_affine("conv2.", "conv2.", *_CONV3D),
    **_affine("conv_out.", "conv_out.", *_CONV3D),
    **_affine("shortcut.", "conv_shortcut.", *_POINT3D),
    **_affine("quant.", "quant_conv.", *_POINT3D),
    **_affine("post_quant.", "post_quant_conv.", *_POINT3D),
    **_affine("qkv.", "to_qkv.", *_POINT2D),
    **_affine("out.", "proj.", *_POINT2D),
    **_affine("space.", "resample.1.", "o i h w", "h w i o"),
    **_affine("time.", "time_conv.", "o i t 1 1", "t i o"),
    "norm.gain": Rule("norm.gamma", "c 1 1", "c"),
    "norm1.gain": Rule("norm1.gamma", "c 1 1 1", "c"),
    "norm2.gain": Rule("norm2.gamma", "c 1 1 1", "c"),
    "norm_out.gain": Rule("norm_out.gamma", "c 1 1 1", "c"),
}


class Tensor(NamedTuple):
    """One tensor of the VAE: where it stands in our params, how it is called there, and how to move it."""

    path: Path
    shape: tuple[int, ...]
    their_name: str
    rule: Rule

    @property
    def their_shape(self) -> tuple[int, ...]:
        """Its shape in diffusers' layout."""
        nothing = np.broadcast_to(np.float32(0), self.shape)
        return rearrange(nothing, f"{self.rule.our_axes} -> {self.rule.their_axes}").shape


def from_diffusers(state: Mapping[str, np.ndarray], cfg: VideoVAEConfig, picture: Picture) -> dict[str, Any]:
    """Our params from the state dict of an AutoencoderKLWan.

    Raises ValueError that lists every unknown, missing and ill-shaped tensor; then nothing is loaded.
    """
    tensors = _tensors(cfg, picture)
    _check(state, tensors)
    flat = {
        t.path: rearrange(np.asarray(state[t.their_name], np.float32), f"{t.rule.their_axes} -> {t.rule.our_axes}")
        for t in tensors
    }
    return nnx.traversals.unflatten_mapping(flat)


def to_diffusers(params: Mapping[str, Any], cfg: VideoVAEConfig, picture: Picture) -> dict[str, np.ndarray]:
    """The state dict of an AutoencoderKLWan from our params."""
    flat = nnx.traversals.flatten_mapping(params)
    return {
        t.their_name: rearrange(np.asarray(flat[t.path]), f"{t.rule.our_axes} -> {t.rule.their_axes}")
        for t in _tensors(cfg, picture)
    }


def _check(state: Mapping[str, np.ndarray], tensors: list[Tensor]) -> None:
    expected = {t.their_name: t.their_shape for t in tensors}
    wrong = [f"unknown {name}" for name in sorted(state.keys() - expected.keys())]
    wrong += [f"missing {name}" for name in sorted(expected.keys() - state.keys())]
    for name in sorted(state.keys() & expected.keys()):
        if state[name].shape != expected[name]:
            wrong.append(f"{name}: shape {state[name].shape}, expected {expected[name]}")
    if wrong:
        raise ValueError("not the Wan VAE of this configuration:\n  " + "\n  ".join(wrong))


def _tensors(cfg: VideoVAEConfig, picture: Picture) -> list[Tensor]:
    """Every tensor of the VAE, without making any."""
    vae = nnx.eval_shape(lambda: VideoVAE(cfg, picture, rngs=nnx.Rngs(0)))
    layers = {"encoder": list(_encoder_layers(cfg)), "decoder": list(_decoder_layers(cfg))}
    flat = nnx.traversals.flatten_mapping(nnx.to_pure_dict(nnx.state(vae)))
    return [_tensor(path, leaf.shape, layers) for path, leaf in flat.items()]


def _tensor(path: Path, shape: tuple[int, ...], layers: Mapping[str, list[str]]) -> Tensor:
    match path:
        case (part, "trunk", "layers", int(i), *rest):
            prefix = layers[str(part)][i]
        case (_, *rest):
            prefix = ""
    rule = RULES[".".join(map(str, rest))]
    return Tensor(path, shape, prefix + rule.their_name, rule)


def _encoder_layers(cfg: VideoVAEConfig) -> Iterator[str]:
    """Their prefixes of our encoder's layers, in our order: stages are one flat list, the middle comes last."""
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
