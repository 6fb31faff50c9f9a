"""Attention for training, in tiles of queries: scores stay in a core's cache, and are computed again for the gradient.

                 keys -->
    tile 0   [ scores of 100 queries with every key ]      one after the other, forward and backward; kept from forward
    tile 1   [ ...                                  ]      to backward are values and log-sum-exp of each query only

FlashAttention-2's backward pass (arXiv 2307.08691, algorithm 2), with whole rows of scores: so there is no running
maximum. Masks are computed tile by tile as well.

B sessions, T queries, S keys, N heads, K key/value heads, G queries a key head (N / K), H head size, n tiles of t.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from wanstreamer_jax.attention import HIDDEN

TILE = 100  # queries
ATTENDED = "attended"  # the name of what a layer that is computed again should keep

_platform: ContextVar[str | None] = ContextVar("platform", default=None)  # what is traced for, if not for this one

Rule = Callable[[Any, Any], jax.Array]
"""(queries, keys) -> mask [B, t, S]; both are trees of arrays [B, t] and [B, S]."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_tiles(
    rule: Rule, q: Float[Array, "B T N H"], k: Float[Array, "B K S H"], v: Float[Array, "B K S H"], who: tuple
) -> Float[Array, "B T N H"]:
    """Softmax attention in float32 over grouped heads; `who` is what `rule` reads of (queries, keys)."""
    return _forward(rule, q, k, v, who)[0]


def attend_heads(
    rule: Rule, q: Float[Array, "B T N H"], k: Float[Array, "B K S H"], v: Float[Array, "B K S H"], who: tuple
) -> Float[Array, "B T N H"]:
    """The same, one key head after the other on a CPU: the scores of all of them do not fit into a core's cache."""
    if (_platform.get() or jax.default_backend()) != "cpu":
        return attend_tiles(rule, q, k, v, who)
    each = (
        rearrange(q, "B T (K G) H -> K B T G H", K=k.shape[1]),
        *(rearrange(x, "B K S H -> K B 1 S H") for x in (k, v)),
    )
    values = jax.lax.map(lambda qkv: attend_tiles(rule, *qkv, who), each)
    return rearrange(values, "K B T G H -> B T (K G) H")


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """What is traced within is the program of that platform, "cpu" or "gpu", whatever this machine is."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def _forward(rule: Rule, q: jax.Array, k: jax.Array, v: jax.Array, who: tuple) -> tuple[jax.Array, tuple]:
    def attend(_: None, tile: tuple) -> tuple[None, tuple]:
        queries, asking = tile
        scores = _scores(rule, queries, columns[0], asking, who[1])
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        values = jnp.einsum(
            "BKGtS,BKHS->BKGtH", weights.astype(v.dtype), columns[1], preferred_element_type=jnp.float32
        )
        return None, ((values / total).astype(v.dtype), top + jnp.log(total))

    columns = _columns(k), _columns(v)
    _, attended = jax.lax.scan(attend, None, (_scaled_tiles(q, k), _rule_in_tiles(who[0])))
    values, log_sum_exp = (checkpoint_name(x, ATTENDED) for x in attended)
    return _joined(values, q), (q, k, v, who, values, log_sum_exp)


def _backward(rule: Rule, kept: tuple, d_out: jax.Array) -> tuple:
    q, k, v, who, values, log_sum_exp = kept
    d_values = _in_tiles(d_out, k.shape[1])
    inner = jnp.sum(d_values * values, axis=-1, keepdims=True)  # [n, B, K, G, t, 1]

    def differentiate(sums: tuple, tile: tuple) -> tuple[tuple, jax.Array]:
        queries, asking, d_value, inner, log_sum_exp = tile
        d_value = d_value.astype(v.dtype)
        weights = jnp.exp(_scores(rule, queries, keys, asking, who[1]) - log_sum_exp)
        d_weights = jnp.einsum("BKGtH,BKHS->BKGtS", d_value, seen, preferred_element_type=jnp.float32)
        d_scores = (weights * (d_weights - inner)).astype(k.dtype)
        d_k = jnp.einsum("BKGtH,BKGtS->BKHS", queries, d_scores, preferred_element_type=jnp.float32)
        d_v = jnp.einsum("BKGtH,BKGtS->BKHS", d_value, weights.astype(v.dtype), preferred_element_type=jnp.float32)
        d_queries = jnp.einsum("BKGtS,BKHS->BKGtH", d_scores, keys, preferred_element_type=jnp.float32)
        return (sums[0] + d_k, sums[1] + d_v), d_queries

    keys, seen = _columns(k), _columns(v)
    nothing = jnp.zeros(keys.shape, jnp.float32), jnp.zeros(seen.shape, jnp.float32)
    tiles = _scaled_tiles(q, k), _rule_in_tiles(who[0]), d_values, inner, log_sum_exp
    (d_k, d_v), d_queries = jax.lax.scan(differentiate, nothing, tiles)
    d_q = _joined(d_queries * q.shape[-1] ** -0.5, q)
    return d_q.astype(q.dtype), _columns(d_k).astype(k.dtype), _columns(d_v).astype(v.dtype), None


attend_tiles.defvjp(_forward, _backward)


def _columns(x: jax.Array) -> jax.Array:
    """Keys or values [B, K, S, H] as [B, K, H, S], and back: so no product has to turn a tile's scores around."""
    return x.swapaxes(2, 3)


def _scores(rule: Rule, queries: jax.Array, keys: jax.Array, asking: Any, asked: Any) -> jax.Array:
    """Scores of a tile, [B, K, G, t, S]."""
    scores = jnp.einsum("BKGtH,BKHS->BKGtS", queries, keys, preferred_element_type=jnp.float32)
    return jnp.where(rule(asking, asked)[:, None, None], scores, HIDDEN)


def _scaled_tiles(q: jax.Array, k: jax.Array) -> jax.Array:
    return _in_tiles(q * q.shape[-1] ** -0.5, k.shape[1])


def _in_tiles(x: jax.Array, n_groups: int) -> jax.Array:
    """Queries, or what is alike, [B, T, N, H] as [n, B, K, G, t, H], filled up with zeros."""
    x, n = _filled(x)
    return rearrange(x, "B (n t) (K G) H -> n B K G t H", n=n, K=n_groups)


def _joined(tiles: jax.Array, like: jax.Array) -> jax.Array:
    """The inverse of `_in_tiles`, [B, T, N, H]."""
    x = rearrange(tiles, "n B K G t H -> B (n t) (K G) H")
    return x[:, : like.shape[1]]


def _rule_in_tiles(asking: Any) -> Any:
    """What the rule reads of queries, [n, B, t] each."""

    def cut(x: jax.Array) -> jax.Array:
        x, n = _filled(x)
        return rearrange(x, "B (n t) -> n B t", n=n)

    return jax.tree.map(cut, asking)


def _filled(x: jax.Array) -> tuple[jax.Array, int]:
    """Queries [B, T, ..] filled up to tiles as equal as can be, and how many tiles there are."""
    n = -(-x.shape[1] // TILE)
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % n), *[(0, 0)] * (x.ndim - 2)]), n
