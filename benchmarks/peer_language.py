"""Qwen3: a step over cached tokens, ours and Transformers'."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from peer_match import TINY, Match, Run, normal, on_device

from wanstreamer_jax.attention import attend, attend_slots, merge
from wanstreamer_jax.cache import History, Slice, append, init_history, n_valid
from wanstreamer_jax.config import Config, HistoryConfig, TransformerConfig
from wanstreamer_jax.convert.qwen3 import transformer_from_qwen3
from wanstreamer_jax.model import Params, wan_streamer
from wanstreamer_jax.stream.world import stack_slice

N_CACHED = 2048  # tokens


def qwen3() -> Iterator[Match]:
    """The language model."""
    for size, cfg in {"tiny": TINY.transformer, "0.6B": TransformerConfig(dtype="float32")}.items():
        config = dataclasses.replace(TINY, transformer=cfg, history=HistoryConfig(n_tokens=N_CACHED))
        model = qwen3_model(cfg).eval()
        tensors = {name: x.numpy() for name, x in model.state_dict().items()}
        params = {"transformer": on_device(transformer_from_qwen3(tensors, config, seed=0))}
        for n_tokens, work in ((24, "24 tokens"), (1, "1 token")):
            kv = normal(cfg.layers, 2, 1, cfg.kv_heads, N_CACHED, cfg.head_size)
            ids = np.random.default_rng(0).integers(0, cfg.vocab, (1, n_tokens))
            cache, theirs = _faster_cache(model, kv, ids)
            yield Match(size, f"{work}, {cache}", _qwen3_step(config, params, kv, ids), theirs, aim=1.5)


def qwen3_model(cfg: TransformerConfig) -> transformers.Qwen3ForCausalLM:
    """Transformers' Qwen3 of our sizes, with random weights."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=cfg.vocab,
        hidden_size=cfg.width,
        intermediate_size=cfg.mlp,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        num_key_value_heads=cfg.kv_heads,
        head_dim=cfg.head_size,
        rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_theta},
        rms_norm_eps=cfg.norm_eps,
        tie_word_embeddings=cfg.tied,
    )
    return transformers.Qwen3ForCausalLM(config)


def _qwen3_step(config: Config, params: Params, kv: np.ndarray, ids: np.ndarray) -> Run:
    """Our step over a full ring, and the commit that writes into it: two programs, as they are live."""
    n_tokens, ring = ids.shape[1], config.history.n_tokens
    itself = jnp.tril(jnp.ones((1, n_tokens, n_tokens), bool))
    positions = np.repeat(np.arange(N_CACHED, N_CACHED + n_tokens)[:, None], 3, axis=1)

    def step(params: Params, history: History, ids: jax.Array) -> tuple[jax.Array, Slice]:
        model = wan_streamer(config, params)
        length = n_valid(history, ring)

        def see(layer: int, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return merge(attend_slots(q, history.k[layer], history.v[layer], length), attend(q, k, v, itself)).values

        x = model.transformer.embed_text(ids)
        hidden, kept = model.transformer(x, model.angles(positions)[None], None, see)
        return model.transformer.text_logits(hidden[:, -1]), stack_slice(kept, jnp.full(1, n_tokens, jnp.int32))

    run_step = jax.jit(step)
    commit = jax.jit(lambda history, new: append(history, new, ring), donate_argnums=0)
    history = _full_history(config, kv)

    def run() -> np.ndarray:
        nonlocal history
        logits, new = run_step(params, history, ids)
        history = jax.block_until_ready(commit(history, new))
        return np.asarray(logits)

    return run


def _full_history(config: Config, kv: np.ndarray) -> History:
    """A session without a world whose ring is full."""
    empty = init_history(config, 1)
    k, v = (tuple(x.at[:, :, :N_CACHED].set(kv[i, j]) for i, x in enumerate(empty[j])) for j in range(2))
    return History(k, v, empty.world, jnp.full(1, N_CACHED, jnp.int32))


def _faster_cache(model: transformers.Qwen3ForCausalLM, kv: np.ndarray, ids: np.ndarray) -> tuple[str, Run]:
    """Transformers' step with the faster of its two caches, and the cache's name."""
    n_tokens = ids.shape[1]
    caches = {
        "StaticCache": transformers.StaticCache(config=model.config, max_cache_len=N_CACHED + n_tokens),
        "DynamicCache": transformers.DynamicCache(config=model.config),
    }
    runs = {name: _qwen3_stream(model, cache, kv, ids) for name, cache in caches.items()}
    with torch.inference_mode():
        seconds = {name: min(_seconds(run) for _ in range(4)) for name, run in runs.items()}
    name = min(seconds, key=lambda name: seconds[name])
    return name, runs[name]


def _qwen3_stream(model: transformers.Qwen3ForCausalLM, cache: Any, kv: np.ndarray, ids: np.ndarray) -> Run:
    for layer, (k, v) in enumerate(torch.tensor(kv)):
        cache.update(k, v, layer)
    tokens = torch.tensor(ids)

    def run() -> np.ndarray:
        logits = model(tokens, past_key_values=cache, logits_to_keep=1).logits[:, -1]
        if isinstance(cache, transformers.StaticCache):
            for layer in cache.layers:
                layer.cumulative_length.fill_(N_CACHED)
        else:
            cache.crop(-len(tokens[0]))
        return logits.numpy()

    return run


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
