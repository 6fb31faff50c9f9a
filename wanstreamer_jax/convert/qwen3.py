"""Qwen3's dense language models, as Transformers publishes them, in and out.

Latent projections and adaLN, which Qwen3 does not have, begin fresh.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from wanstreamer_jax.config import Config, TransformerConfig
from wanstreamer_jax.convert.table import LINEAR, Entry, Layout, Params, Tensor, read, write
from wanstreamer_jax.transformer import Transformer

TIED_HEAD = r"lm_head\.weight"  # a copy of the embedding, where a checkpoint of a tied model holds one


def transformer_from_qwen3(tensors: Mapping[str, Tensor], config: Config, seed: int) -> Params:
    """Parameters of the Transformer with Qwen3's; `seed` draws the rest.

    Raises ValueError when the tensors are not those of a Qwen3 of this configuration.
    """
    unused = TIED_HEAD if config.transformer.tied else ""
    entries = list(table(config.transformer))
    return read(entries, tensors, lambda: Transformer(config, rngs=nnx.Rngs(seed)), unused, config.transformer.dtype)


def transformer_to_qwen3(params: Params, cfg: TransformerConfig) -> dict[str, np.ndarray]:
    """The language model of the Transformer under Qwen3's names."""
    return write(table(cfg), params)


def table(cfg: TransformerConfig) -> Iterator[Entry]:
    """Every tensor of the language model."""
    yield Entry("model.embed_tokens.weight", "embedding", Layout("t c", "t c"))
    yield Entry("model.norm.weight", "norm.scale")
    if not cfg.tied:
        yield Entry("lm_head.weight", "head.kernel", LINEAR)
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
