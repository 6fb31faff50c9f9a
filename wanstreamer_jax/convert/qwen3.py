"""Qwen3's dense language models (arXiv 2505.09388), as `Qwen/Qwen3-0.6B` and its sizes publish them, in and out.

Latent projections and adaLN, which Qwen3 does not have, begin fresh.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from flax import nnx

from wanstreamer_jax.config import AudioVAEConfig, Config, TextConfig, TransformerConfig, VideoVAEConfig, VisionConfig
from wanstreamer_jax.convert.family import Family
from wanstreamer_jax.convert.fields import Fields
from wanstreamer_jax.convert.table import LINEAR, Entry, Layout, Params, Tensor, read, write
from wanstreamer_jax.timeline import PIXELS_PER_TOKEN, Picture
from wanstreamer_jax.transformer import Transformer

HEAD = "lm_head.weight"
ROWS = Layout("t c", "t c")
NONE = ""  # of a language model, nothing is left behind


def transformer_from_qwen3(tensors: Mapping[str, Tensor], config: Config, seed: int) -> Params:
    """Parameters of the Transformer with Qwen3's; `seed` draws the rest.

    Raises ValueError when the tensors are not those of a Qwen3 of this configuration.
    """
    entries = table(config.transformer, tensors.keys())
    return read(entries, tensors, lambda: Transformer(config, rngs=nnx.Rngs(seed)), NONE, config.transformer.dtype)


def transformer_to_qwen3(params: Params, cfg: TransformerConfig) -> dict[str, np.ndarray]:
    """The language model of the Transformer under Qwen3's names."""
    return write(table(cfg), params)


def table(cfg: TransformerConfig, names: Collection[str] = ()) -> list[Entry]:
    """Every tensor of the language model; the head of a tied one, a copy, where `names` has it."""
    entries = [
        Entry("model.embed_tokens.weight", "embedding", ROWS),
        *_layers(cfg),
        Entry("model.norm.weight", "norm.scale"),
    ]
    if not cfg.tied:
        entries.append(Entry(HEAD, "head.kernel", LINEAR))
    elif HEAD in names:
        entries.append(Entry(HEAD, "embedding", ROWS, copy=True))
    return entries


def _layers(cfg: TransformerConfig) -> Iterator[Entry]:
    for i in range(cfg.layers):
        theirs, ours = f"model.layers.{i}", f"layers.{i}"
        for name in ("q", "k", "v", "o"):
            yield Entry(f"{theirs}.self_attn.{name}_proj.weight", f"{ours}.attention.{name}.kernel", LINEAR)
        for name in ("gate", "up", "down"):
            yield Entry(f"{theirs}.mlp.{name}_proj.weight", f"{ours}.mlp.{name}.kernel", LINEAR)
        for name in ("q_norm", "k_norm"):
            yield Entry(f"{theirs}.self_attn.{name}.weight", f"{ours}.attention.{name}.scale")
        yield Entry(f"{theirs}.input_layernorm.weight", f"{ours}.attention_norm.scale")
        yield Entry(f"{theirs}.post_attention_layernorm.weight", f"{ours}.mlp_norm.scale")


def read_config(raw: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TransformerConfig:
    """Sizes of a Qwen3; bfloat16 when every tensor is. Which frequencies turn with what is ours: as in Qwen3-0.6B.

    Raises ValueError with all that we do not have: biases, scaled rotary positions, sliding windows.
    """
    fields = Fields(raw, len(tensors))
    heads, head_size = fields.size("num_attention_heads"), fields.size("head_dim", 128)
    cfg = TransformerConfig(
        width=fields.size("hidden_size"),
        layers=fields.count("num_hidden_layers"),
        heads=heads,
        kv_heads=fields.size("num_key_value_heads", heads),
        head_size=head_size,
        mlp=fields.size("intermediate_size"),
        vocab=fields.size("vocab_size"),
        tied=fields.flag("tie_word_embeddings", default=False),
        rope_theta=_rope_theta(fields),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_sections=_rope_sections(head_size),
        dtype="bfloat16" if {x.dtype for x in tensors.values()} == {np.dtype(ml_dtypes.bfloat16)} else "float32",
    )
    fields.must_be(hidden_act="silu", attention_bias=False, use_sliding_window=False)
    fields.must_be(layer_types=["full_attention"] * cfg.layers)
    if cfg.heads % cfg.kv_heads:
        fields.refuse(f"num_attention_heads: {cfg.heads}, no multiple of num_key_value_heads, {cfg.kv_heads}")
    if cfg.head_size % 2:
        fields.refuse(f"head_dim: {cfg.head_size} is odd")
    fields.check()
    return cfg


def _rope_theta(fields: Fields) -> float:
    """At the top (Transformers 4) or in `rope_parameters` (Transformers 5)."""
    rope, scaling = fields.inner("rope_parameters"), fields.inner("rope_scaling")
    for part in (rope, scaling):
        part.must_be(rope_type="default", type="default", partial_rotary_factor=1.0)
    return rope.number("rope_theta", fields.number("rope_theta", 10_000.0))


def _rope_sections(head_size: int) -> tuple[int, int, int]:
    """The default's shares of this head size; what rounding leaves goes to time."""
    default, half = TransformerConfig().rope_sections, head_size // 2
    rows, columns = (section * half // sum(default) for section in default[1:])
    return half - rows - columns, rows, columns


def write_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The config.json of a Qwen3 of these sizes."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "head_dim": cfg.head_size,
        "hidden_act": "silu",
        "hidden_size": cfg.width,
        "intermediate_size": cfg.mlp,
        "max_position_embeddings": 40_960,
        "model_type": "qwen3",
        "num_attention_heads": cfg.heads,
        "num_hidden_layers": cfg.layers,
        "num_key_value_heads": cfg.kv_heads,
        "rms_norm_eps": cfg.norm_eps,
        "rope_scaling": None,
        "rope_theta": cfg.rope_theta,
        "tie_word_embeddings": cfg.tied,
        "torch_dtype": cfg.dtype,
        "use_sliding_window": False,
        "vocab_size": cfg.vocab,
    }


def _init(cfg: TransformerConfig) -> Transformer:
    """The Transformer of an agent whose other parts are of any size."""
    config = Config(
        name="qwen3",
        picture=Picture(PIXELS_PER_TOKEN, PIXELS_PER_TOKEN),
        video_vae=VideoVAEConfig(),
        audio_vae=AudioVAEConfig(),
        vision=VisionConfig(),
        hearing=AudioVAEConfig(),
        transformer=cfg,
        text=dataclasses.replace(TextConfig(), unit_end=cfg.vocab - 1),
    )
    return Transformer(config, rngs=nnx.Rngs(0))


FAMILY = Family(
    name="qwen3",
    model_types=("qwen3",),
    safetensors="Qwen/Qwen3-0.6B, -1.7B, -4B or -8B on huggingface.co",
    read_config=read_config,
    write_config=write_config,
    table=table,
    init=_init,
    unused=NONE,
)
