"""Mimi's weights, as `kyutai/mimi` publishes them for transformers' MimiModel, in and out.

The quantiser (arXiv 2410.00037, section 3.3) stays behind. What Mimi does not have, the Gaussian bottleneck and the
projector of hearing, begins fresh: the bottleneck as an orthonormal projection, the identity when as wide as Mimi.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx

from wanstreamer_jax.config import AudioVAEConfig
from wanstreamer_jax.convert.family import Family
from wanstreamer_jax.convert.fields import Fields
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
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_AUDIO_LATENT
from wanstreamer_jax.vae.audio import AudioVAE
from wanstreamer_jax.vae.windowed import NORM_EPS, ROPE_THETA

QUANTISER = r"quantizer\..*"
ALL_BUT_ENCODER = r"(quantizer|upsample|decoder|decoder_transformer)\..*"

POINTWISE = Layout("o i 1", "i o")
CONV = Layout("o i k", "k i o")
DEPTHWISE = Layout("c 1 (two s)", "two s c", (("two", 2),))

# What Mimi's config.json says of its layers where we have no choice.
LAYERS = {
    "audio_channels": 1,
    "kernel_size": 7,
    "last_kernel_size": 3,
    "residual_kernel_size": 3,
    "dilation_growth_rate": 2,
    "compress": 2,
    "use_causal_conv": True,
    "use_conv_shortcut": False,
    "pad_mode": "constant",
    "trim_right_ratio": 1.0,
    "hidden_act": "gelu",
    "attention_bias": False,
    "norm_eps": NORM_EPS,
}
CLOCK = {"sampling_rate": SAMPLE_RATE_HZ, "frame_rate": SAMPLE_RATE_HZ / SAMPLES_PER_AUDIO_LATENT}


def audio_vae_from_mimi(tensors: Mapping[str, Tensor], cfg: AudioVAEConfig, seed: int) -> Params:
    """Parameters of an AudioVAE with Mimi's weights; `seed` draws a bottleneck narrower than Mimi.

    Raises ValueError when the tensors are not those of a Mimi of this configuration.
    """
    return read(table(cfg), tensors, lambda: AudioVAE(cfg, rngs=nnx.Rngs(seed)), unused=QUANTISER)


def hearing_from_mimi(tensors: Mapping[str, Tensor], cfg: AudioVAEConfig, width: int, seed: int) -> Params:
    """Parameters of a Hearing with the weights of Mimi's encoder; `seed` draws the projector to `width`.

    Raises ValueError when the tensors are not those of a Mimi of this configuration.
    """
    entries = list(_encoder_table(cfg, "trunk"))
    return read(entries, tensors, lambda: Hearing(cfg, width, rngs=nnx.Rngs(seed)), unused=ALL_BUT_ENCODER)


def audio_vae_to_mimi(params: Params, cfg: AudioVAEConfig) -> dict[str, np.ndarray]:
    """An AudioVAE's parameters under Mimi's names, without quantiser and bottleneck."""
    return write(table(cfg), params)


def table(cfg: AudioVAEConfig, names: Collection[str] = ()) -> list[Entry]:  # noqa: ARG001
    """Every tensor of encoder and decoder; Mimi is published under one set of names."""
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


def read_config(raw: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AudioVAEConfig:
    """Sizes of a Mimi; as many latent channels as it is wide, so that the bottleneck begins as the identity.

    Raises ValueError with all that we do not have: other clocks, kernels, paddings or rotary positions.
    """
    fields = Fields(raw, len(tensors))
    width, heads = fields.size("hidden_size", 512), fields.size("num_attention_heads", 8)
    cfg = AudioVAEConfig(
        filters=fields.size("num_filters", 64),
        strides=fields.sizes("upsampling_ratios", AudioVAEConfig().strides),
        width=width,
        residual_layers=fields.count("num_residual_layers", 1),
        layers=fields.count("num_hidden_layers", 8),
        heads=heads,
        mlp=fields.size("intermediate_size", 2048),
        window=fields.size("sliding_window", 250),
        latent_channels=width,
    )
    _check(fields, cfg)
    return cfg


def _check(fields: Fields, cfg: AudioVAEConfig) -> None:
    fields.must_be(**LAYERS, **CLOCK, rope_theta=ROPE_THETA)
    fields.must_be(upsample_groups=cfg.width, num_key_value_heads=cfg.heads)
    fields.inner("rope_parameters").must_be(rope_type="default", rope_theta=ROPE_THETA)
    if math.prod(cfg.strides) * 2 != SAMPLES_PER_AUDIO_LATENT:
        fields.refuse(f"upsampling_ratios: {cfg.strides} must multiply to {SAMPLES_PER_AUDIO_LATENT // 2}")
    if cfg.width % cfg.heads:
        fields.refuse(f"hidden_size: {cfg.width}, no multiple of num_attention_heads, {cfg.heads}")
    fields.must_be(head_dim=cfg.width // cfg.heads)
    fields.check()


def write_config(cfg: AudioVAEConfig) -> dict[str, Any]:
    """The config.json of a Mimi of these sizes, its quantiser as published."""
    return {
        **LAYERS,
        **CLOCK,
        "architectures": ["MimiModel"],
        "head_dim": cfg.width // cfg.heads,
        "hidden_size": cfg.width,
        "intermediate_size": cfg.mlp,
        "model_type": "mimi",
        "num_attention_heads": cfg.heads,
        "num_filters": cfg.filters,
        "num_hidden_layers": cfg.layers,
        "num_key_value_heads": cfg.heads,
        "num_residual_layers": cfg.residual_layers,
        "rope_theta": ROPE_THETA,
        "sliding_window": cfg.window,
        "upsample_groups": cfg.width,
        "upsampling_ratios": list(cfg.strides),
    }


FAMILY = Family(
    name="mimi",
    model_types=("mimi",),
    safetensors="kyutai/mimi on huggingface.co",
    read_config=read_config,
    write_config=write_config,
    table=table,
    init=lambda cfg: AudioVAE(cfg, rngs=nnx.Rngs(0)),
    unused=QUANTISER,
)
