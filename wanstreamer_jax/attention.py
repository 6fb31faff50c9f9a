"""The attention rule, drawn, and attention itself.

B sessions, T queries, S keys, N heads, K key/value heads, G queries a key head (N / K), H head size.

One unit, with two tokens of each kind (x: sees, .: does not). u user text, U user video + audio, a agent text,
A agent audio + video as committed, n the noisy copy that the solver moves:

         u u U U a a A A n n
      u  x . . . . . . . . .    text is token-causal
      u  x x . . . . . . . .
      U  x x x x . . . . . .    audio + video see their whole group
      U  x x x x . . . . . .
      a  x x x x x . . . . .    and every earlier group of the unit
      a  x x x x x x . . . .
      A  x x x x x x x x . .
      A  x x x x x x x x . .
      n  x x x x x x . . x x    noisy latents stand where A will: they see each other, not A,
      n  x x x x x x . . x x    and nothing ever sees them

Everything sees every earlier unit, and the world, which stands before unit 0. With a window of W tokens, the
tokens of a commit [ A of unit k-1 | u U a of unit k ] see the last W tokens before the commit, besides their own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from wanstreamer_jax import attention_cudnn
from wanstreamer_jax.timeline import Group

HIDDEN = -1e30  # finite, so that a query that sees nothing gives no NaN
TINY = 1e-30
CHUNK = 1024  # slots of a history at a time; 256 to 1,408 are alike within 25 % on CPU


class Tokens(NamedTuple):
    """What the attention rule needs to know of tokens; each field is [B, S] or [S].

    unit: -1 for the world. group: see `timeline.Group`. place: order in the packed stream; noisy latents have the
    place that their clean copy will have. noisy: 0 for clean tokens; else moved by the solver, and which of the unit's
    noisy copies it is part of, from 1. valid: False for padding.
    commit: place of the first token of the commit in which the token enters the history.
    """

    unit: Int[Array, "*S"]
    group: Int[Array, "*S"]
    place: Int[Array, "*S"]
    noisy: Int[Array, "*S"]
    valid: Bool[Array, "*S"]
    commit: Int[Array, "*S"]


def visible(queries: Tokens, keys: Tokens, window: int | None = None) -> Bool[Array, "*B T S"]:
    """Who sees whom: the rule of the drawing above, [.., T, S]. `window`: tokens of history; None keeps all."""
    q = Tokens(*(x[..., :, None] for x in queries))
    k = Tokens(*(x[..., None, :] for x in keys))
    token_causal = (k.group == Group.USER_TEXT) | (k.group == Group.AGENT_TEXT)
    same_unit, same_group = k.unit == q.unit, k.group == q.group
    own_group = same_unit & same_group & (~token_causal | (k.place <= q.place))
    clean = (k.unit < q.unit) | (same_unit & (k.group < q.group)) | (own_group & (q.noisy == 0))
    if window is not None:
        clean &= (k.unit < 0) | (k.place >= q.commit - window)
    return k.valid & jnp.where(k.noisy > 0, same_unit & (k.noisy == q.noisy), clean)


class Sight(NamedTuple):
    """`visible` for many queries of one session, in four comparisons a pair: what each query sees, by codes of keys."""

    start: Int[Array, "*T"]  # it sees codes below 0, the world's, and from here ..
    end: Int[Array, "*T"]  # .. to below this one
    own: Int[Array, "*T"]  # and this one: its own noisy copy


NOISY = 2**30  # codes of noisy latents are above those of any clean token
COPIES = 256  # noisy copies of a unit, at most
NEVER = 2**31 - 1  # the code of what nobody sees


def sight(queries: Tokens, window: int) -> Sight:
    """What each query sees, in a session [B, T] whose clean tokens' places are in the order of units and groups."""
    causal = (queries.group == Group.USER_TEXT) | (queries.group == Group.AGENT_TEXT)
    end = jnp.where(causal, queries.place + 1, _end_of_group(queries))
    own = jnp.where(queries.noisy > 0, _code_of_copy(queries), -NEVER)
    return Sight(queries.commit - window, jnp.where(queries.noisy > 0, queries.commit, end), own)


def codes(keys: Tokens) -> Int[Array, "*S"]:
    """What `Sight` speaks of: the places of clean tokens, the copies of noisy ones."""
    return jnp.where(keys.valid, jnp.where(keys.noisy > 0, _code_of_copy(keys), keys.place), NEVER)


def _code_of_copy(tokens: Tokens) -> Int[Array, "*S"]:
    return NOISY + COPIES * tokens.unit + tokens.noisy


def sees(queries: Sight, keys: Int[Array, "*S"]) -> Bool[Array, "*B T S"]:
    """Who sees whom, [.., T, S]."""
    start, end, own = (x[..., :, None] for x in queries)
    code = keys[..., None, :]
    return (code < end) & ((code < 0) | (code >= start)) | (code == own)


def _end_of_group(tokens: Tokens) -> Int[Array, "B T"]:
    """The place after the last one of each clean token's group."""
    group = len(Group) * (tokens.unit + 1) + tokens.group
    n_groups = len(Group) * (tokens.unit.shape[1] + 1)
    group = jnp.where(tokens.valid & (tokens.noisy == 0), group, n_groups)  # the others are one more
    last = jax.vmap(lambda place, group: jax.ops.segment_max(place, group, n_groups + 1))(tokens.place, group)
    return jnp.take_along_axis(last, group, axis=1) + 1


class Attended(NamedTuple):
    """The result of attention to some of the keys: values [B, T, N, H], log-sum-exp of the scores [B, T, N]."""

    values: Float[Array, "B T N H"]
    log_sum_exp: Float[Array, "B T N"]


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    mask: Bool[Array, "#B #T #S"],
) -> Attended:
    """Softmax attention in float32 over grouped heads; a query that sees nothing has weight 0 in `merge`."""
    T, N, H = q.shape[1:]
    K = k.shape[1]
    # Queries of one key head side by side: one plain matrix product a key head, and the cache is read as it lies.
    grouped = rearrange(q * H**-0.5, "B T (K G) H -> B K (T G) H", K=K)
    scores = jnp.einsum("BKQH,BKSH->BKQS", grouped, k, preferred_element_type=jnp.float32)
    queries = jnp.repeat(mask, N // K, axis=1) if mask.shape[1] > 1 else mask
    scores = jnp.where(queries[:, None], scores, HIDDEN)
    top = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    values = jnp.einsum("BKQS,BKSH->BKQH", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return _ungrouped(values, top, total, T)


def attend_slots(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    length: Int[Array, " B"],
) -> Attended:
    """Attention to the first `length` slots of a history; on an NVIDIA GPU cuDNN's, where it has a kernel for it."""
    if not attention_cudnn.serves(q, k):
        return _attend_chunks(q, k, v, length)
    # A process that has a GPU may still compile for its CPU.
    return jax.lax.platform_dependent(q, k, v, length, cuda=_attend_fused, default=_attend_chunks)


def _attend_fused(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array) -> Attended:
    """`attend_slots` by cuDNN's kernel."""
    grouped = rearrange(q, "B T (K G) H -> B K (T G) H", K=k.shape[1])
    values, log_sum_exp = attention_cudnn.attend_rows(grouped, k, v, length)
    return Attended(
        rearrange(values, "B K (T G) H -> B T (K G) H", T=q.shape[1]),
        rearrange(log_sum_exp, "B K (T G) -> B T (K G)", T=q.shape[1]),
    )


def _attend_chunks(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array) -> Attended:
    """`attend_slots` in chunks; its cost is that of the slots that are valid.

    A chunk's scores stay in a core's cache where those of a whole history would travel through memory several
    times: five times faster on two CPU cores at 5,632 slots. The running maximum is FlashAttention's.
    """
    K, S = k.shape[1:3]
    chunk = min(CHUNK, S)
    grouped = rearrange(q * q.shape[-1] ** -0.5, "B T (K G) H -> B K (T G) H", K=K)

    def add_chunk(i: jax.Array, running: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        values, top, total = running
        start = jnp.minimum(i * chunk, S - chunk)  # the last chunk may begin in the one before
        slots = start + jnp.arange(chunk)
        fresh = (slots >= i * chunk) & (slots < length[:, None])
        keys, chunk_values = (jax.lax.dynamic_slice_in_dim(x, start, chunk, axis=2) for x in (k, v))
        scores = jnp.einsum("BKQH,BKSH->BKQS", grouped, keys, preferred_element_type=jnp.float32)
        scores = jnp.where(fresh[:, None, None], scores, HIDDEN)
        new_top = jnp.maximum(top, jnp.max(scores, axis=-1, keepdims=True))
        weights, fade = jnp.exp(scores - new_top), jnp.exp(top - new_top)
        seen = jnp.einsum("BKQS,BKSH->BKQH", weights.astype(v.dtype), chunk_values, preferred_element_type=jnp.float32)
        return values * fade + seen, new_top, total * fade + jnp.sum(weights, axis=-1, keepdims=True)

    nothing = jnp.zeros(grouped.shape, jnp.float32)
    running = (nothing, nothing[..., :1] + HIDDEN, nothing[..., :1])
    n_chunks = (jnp.max(length) + chunk - 1) // chunk
    values, top, total = jax.lax.fori_loop(0, n_chunks, add_chunk, running)
    return _ungrouped(values, top, jnp.maximum(total, TINY), q.shape[1])


def _ungrouped(values: jax.Array, top: jax.Array, total: jax.Array, T: int) -> Attended:
    """Weighted sums [B, K, T G, H], maxima and sums of weights [B, K, T G, 1], as the result of attention."""
    return Attended(
        rearrange(values / total, "B K (T G) H -> B T (K G) H", T=T),
        rearrange((top + jnp.log(total))[..., 0], "B K (T G) -> B T (K G)", T=T),
    )


def merge(a: Attended, b: Attended) -> Attended:
    """Attention to the keys of `a` and `b` together, from attention to each (FlashAttention, arXiv 2205.14135)."""
    total = jnp.logaddexp(a.log_sum_exp, b.log_sum_exp)
    weight_a, weight_b = (jnp.exp(x.log_sum_exp - total)[..., None] for x in (a, b))
    return Attended(a.values * weight_a + b.values * weight_b, total)
