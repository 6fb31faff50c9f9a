"""Mimi's weights, as `kyutai/mimi` publishes them for transformers' MimiModel, in and out.

The quantiser stays behind. What Mimi does not have, the Gaussian bottleneck and the projector of hearing, begins
fresh: the bottleneck as an orthonormal projection, the identity when it is as wide as Mimi.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from wanstreamer_jax.config import AudioVAEConfig
from wanstreamer_jax.convert.table import (
    LINEAR,
    Entry,
    Layout,
    Params,
    Tensor,
    affine_entries,
    layer_norm_entries,
    read,
    write,
)
from wanstreamer_jax.perception import Hearing
from wanstreamer_jax.vae.audio import AudioVAE

QUANTISER = r"quantizer\..*"
ALL_BUT_ENCODER = r"(quantizer|upsample|decoder|decoder_transformer)\..*"

POINTWISE = Layout("o i 1", "i o")
CONV = Layout("o i k", "k i o")
DEPTHWISE = Layout("c 1 (two s)", "two s c", (("two", 2),))


def audio_vae_from_mimi(tensors: Mapping[str, Tensor], cfg: AudioVAEConfig, seed: int) -> Params:
    """Parameters of an AudioVAE with Mimi's weights; `seed` draws a bottleneck narrower than Mimi.

    Raises ValueError when the tensors are not those of a Mimi of this configuration.
    """
    return read(_audio_vae_table(cfg), tensors, lambda: AudioVAE(cfg, rngs=nnx.Rngs(seed)), unused=QUANTISER)


def hearing_from_mimi(tensors: Mapping[str, Tensor], cfg: AudioVAEConfig, width: int, seed: int) -> Params:
    """Parameters of a Hearing with the weights of Mimi's encoder; `seed` draws the projector to `width`.

    Raises ValueError when the tensors are not those of a Mimi of this configuration.
    """
    table = list(_encoder_table(cfg, "trunk"))
    return read(table, tensors, lambda: Hearing(cfg, width, rngs=nnx.Rngs(seed)), unused=ALL_BUT_ENCODER)


def audio_vae_to_mimi(params: Params, cfg: AudioVAEConfig) -> dict[str, np.ndarray]:
    """An AudioVAE's parameters under Mimi's names, without quantiser and bottleneck."""
    return write(_audio_vae_table(cfg), params)


def _audio_vae_table(cfg: AudioVAEConfig) -> list[Entry]:
    return [*_encoder_table(cfg, "encoder.trunk"), *_decoder_table(cfg)]


def _encoder_table(cfg: AudioVAEConfig, ours: str) -> Iterator[Entry]:
    layers = f"{ours}.seanet.layers"
    yield from affine_entries("encoder.layers.0.conv", f"{layers}.0", CONV)
    stage = cfg.residual_layers + 2  # residual units, ELU, convolution
    for first in range(1, 1 + stage * len(cfg.strides), stage):
        for i in range(first, first + cfg.residual_layers):
            yield from _residual(f"encoder.layers.{i}", f"{layers}.{i}")
        down = first + cfg.residual_layers + 1
        yield from affine_entries(f"encoder.layers.{down}.conv", f"{layers}.{down}", CONV)
    last = 2 + stage * len(cfg.strides)
    yield from affine_entries(f"encoder.layers.{last}.conv", f"{layers}.{last}", CONV)
    yield from _transformer("encoder_transformer", f"{ours}.transformer", cfg.layers)
    yield Entry("downsample.conv.weight", f"{ours}.downsample.kernel", CONV)


def _decoder_table(cfg: AudioVAEConfig) -> Iterator[Entry]:
    layers = "decoder.seanet.layers"
    yield Entry("upsample.conv.weight", "decoder.upsample.kernel", DEPTHWISE)
    yield from _transformer("decoder_transformer", "decoder.transformer", cfg.layers)
    yield from affine_entries("decoder.layers.0.conv", f"{layers}.0", CONV)
    stage = cfg.residual_layers + 2  # ELU, transposed convolution, residual units
    for first, stride in zip(range(1, 1 + stage * len(cfg.strides), stage), cfg.strides, strict=True):
        up = first + 1
        yield from affine_entries(f"decoder.layers.{up}.conv", f"{layers}.{up}", _transposed(stride))
        for i in range(first + 2, first + stage):
            yield from _residual(f"decoder.layers.{i}", f"{layers}.{i}")
    last = 2 + stage * len(cfg.strides)
    yield from affine_entries(f"decoder.layers.{last}.conv", f"{layers}.{last}", CONV)


def _transposed(stride: int) -> Layout:
    return Layout("i o (two s)", "two i (s o)", (("two", 2), ("s", stride)))


def _residual(theirs: str, ours: str) -> Iterator[Entry]:
    yield from affine_entries(f"{theirs}.block.1.conv", f"{ours}.squeeze", CONV)
    yield from affine_entries(f"{theirs}.block.3.conv", f"{ours}.expand", POINTWISE)


def _transformer(theirs: str, ours: str, n_layers: int) -> Iterator[Entry]:
    for i in range(n_layers):
        layer, our_layer = f"{theirs}.layers.{i}", f"{ours}.layers.{i}"
        for name in "qkvo":
            yield Entry(f"{layer}.self_attn.{name}_proj.weight", f"{our_layer}.{name}.kernel", LINEAR)
        yield Entry(f"{layer}.mlp.fc1.weight", f"{our_layer}.up.kernel", LINEAR)
        yield Entry(f"{layer}.mlp.fc2.weight", f"{our_layer}.down.kernel", LINEAR)
        yield Entry(f"{layer}.self_attn_layer_scale.scale", f"{our_layer}.attention_scale")
        yield Entry(f"{layer}.mlp_layer_scale.scale", f"{our_layer}.mlp_scale")
        yield from layer_norm_entries(f"{layer}.input_layernorm", f"{our_layer}.attention_norm")
        yield from layer_norm_entries(f"{layer}.post_attention_layernorm", f"{our_layer}.mlp_norm")
