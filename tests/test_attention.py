"""The attention rule equals its words; attention equals float64 softmax; merging equals attending to all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanstreamer_jax import attention
from wanstreamer_jax.attention import Attended, Tokens, attend, attend_slots, codes, merge, sees, sight, visible

USER_TEXT, USER_MEDIA, AGENT_TEXT, AGENT_MEDIA = range(4)
N_SLOTS = 72  # of the longest session that is drawn here, and padding


class Token(NamedTuple):
    """A token as the words of the design speak of it. A session is a list of units, the world first."""

    unit: int
    group: int
    noisy: bool
    place: int  # among the clean tokens of the session, in order


def in_words(query: Token, key: Token, stream: list[Token], window: int | None) -> bool:
    """Whether `query` sees `key`, sentence by sentence from the design, sections 2 and 6."""
    if key.noisy:
        return query.noisy and query.unit == key.unit  # noisy latents see each other; nothing else ever sees them
    if query.noisy and (key.unit, key.group) >= (query.unit, AGENT_MEDIA):
        return False  # they stand where the clean latents will
    if window is not None and key.unit >= 0 and key.place < first_of_commit(query, stream) - window:
        return False  # the window keeps the world and the last W tokens before the commit
    if key.unit != query.unit:
        return key.unit < query.unit  # every earlier unit
    if key.group != query.group:
        return key.group < query.group  # earlier groups of its own unit
    if key.group in (USER_TEXT, AGENT_TEXT):
        return key.place <= query.place  # its own group up to itself where token-causal
    return True  # its own group, all of it


def first_of_commit(query: Token, stream: list[Token]) -> int:
    """Place of the first token of the commit [ A of unit k-1 | u U a of unit k ] that `query` is part of."""
    k = query.unit + 1 if query.group == AGENT_MEDIA else query.unit
    members = [t.place for t in stream if t.unit >= 0 and (t.unit == k or (t.unit == k - 1 and t.group == AGENT_MEDIA))]
    return min(members, default=max((t.place for t in stream), default=-1) + 1)


def lay_out(units: list[tuple[int, int, int, int]], n_world: tuple[int, int]) -> list[Token]:
    """Clean tokens of a world of (text, media) tokens and units of so many tokens a group; places from unit 0."""
    plan = [(-1, AGENT_TEXT, n_world[0]), (-1, AGENT_MEDIA, n_world[1])]
    plan += [(k, group, n) for k, counts in enumerate(units) for group, n in enumerate(counts)]
    flat = [(unit, group) for unit, group, n in plan for _ in range(n)]
    return [Token(unit, group, False, i - sum(n_world)) for i, (unit, group) in enumerate(flat)]


def as_tokens(tokens: list[Token], stream: list[Token]) -> Tokens:
    """With padding up to `N_SLOTS`, so that nothing is compiled twice."""
    commit = [first_of_commit(t, stream) if t.unit >= 0 else 0 for t in tokens]
    rows = [[t.unit, t.group, t.place, t.noisy, True, start] for t, start in zip(tokens, commit, strict=True)]
    rows += [[0] * 6] * (N_SLOTS - len(tokens))
    unit, group, index, noisy, valid, start = np.array(rows, np.int32).T
    return Tokens(*map(jnp.asarray, (unit, group, index, noisy, valid.astype(bool), start)))


counts = st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=60, deadline=None)
@given(
    units=st.lists(counts, min_size=1, max_size=4),
    n_world=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    window=st.one_of(st.none(), st.integers(1, 20)),
    seed=st.integers(0, 2**16),
)
def test_rule_equals_its_words(units, n_world, window, seed):
    clean = lay_out(units, n_world)
    # A noisy copy stands where its clean latents stand: the same unit, group and place.
    noisy = [t._replace(noisy=True) for t in clean if t.unit >= 0 and t.group == AGENT_MEDIA]
    tokens = [(clean + noisy)[i] for i in np.random.default_rng(seed).permutation(len(clean + noisy))]
    expected = [[in_words(q, k, clean, window) for k in tokens] for q in tokens]
    arrays = as_tokens(tokens, clean)
    n = len(tokens)
    np.testing.assert_array_equal(np.asarray(visible(arrays, arrays, window))[:n, :n], expected)


@settings(max_examples=60, deadline=None)
@given(
    units=st.lists(counts, min_size=1, max_size=4),
    n_world=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    window=st.integers(1, 20),
    seed=st.integers(0, 2**16),
)
def test_sight_is_the_rule(units, n_world, window, seed):
    """In few comparisons, in whatever slots, and with padding between."""
    clean = lay_out(units, n_world)
    noisy = [t._replace(noisy=True) for t in clean if t.unit >= 0 and t.group == AGENT_MEDIA]
    rng = np.random.default_rng(seed)
    tokens = [(clean + noisy)[i] for i in rng.permutation(len(clean + noisy))]
    arrays = as_tokens(tokens, clean)
    ends = np.zeros(N_SLOTS, np.int32)
    ends[: len(tokens)] = [min((t.place for t in noisy if t.unit == token.unit), default=0) for token in tokens]
    arrays = arrays._replace(commit=jnp.where(arrays.noisy, ends, arrays.commit))
    padding = jnp.asarray(rng.random(N_SLOTS) < 0.1) & (arrays.group != AGENT_MEDIA) | ~arrays.valid
    arrays = arrays._replace(valid=~padding)
    batched = jax.tree.map(lambda x: x[None], arrays)
    found = sees(sight(batched, window), codes(batched))[0]
    expected = visible(arrays, arrays, window)
    np.testing.assert_array_equal(*(np.asarray(seen)[~np.asarray(padding)] for seen in (found, expected)))


def test_padding_is_never_seen():
    clean = lay_out([(1, 2, 1, 2)], (2, 0))
    arrays = as_tokens(clean, clean)
    padded = arrays._replace(valid=arrays.valid & (jnp.arange(N_SLOTS) != 3))
    np.testing.assert_array_equal(visible(padded, padded)[:, 3], False)


def random_qkv(seed, batch=2, T=5, N=6, K=3, S=11, H=8):
    rng = np.random.default_rng(seed)
    shapes = (batch, T, N, H), (batch, K, S, H), (batch, K, S, H)
    q, k, v = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    mask = rng.random((batch, T, S)) < 0.6
    mask[..., 0] = True
    return q, k, v, jnp.asarray(mask)


def slow_attention(q, k, v, mask):
    """Softmax attention in float64, one head and one query at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b, t, n in np.ndindex(q.shape[:3]):
        kv_head = n // (q.shape[2] // k.shape[1])
        seen = np.flatnonzero(mask[b, t])
        scores = k[b, kv_head, seen] @ q[b, t, n] / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights @ v[b, kv_head, seen] / weights.sum()
    return out


def test_attend_equals_float64():
    q, k, v, mask = random_qkv(0)
    np.testing.assert_allclose(attend(q, k, v, mask).values, slow_attention(q, k, v, mask), atol=2e-6)


def test_merge_equals_attending_to_all():
    q, k, v, mask = random_qkv(1)
    parts = [attend(q, k[:, :, s], v[:, :, s], mask[:, :, s]) for s in (slice(0, 4), slice(4, 7), slice(7, 11))]
    merged = merge(parts[0], merge(parts[1], parts[2]))
    whole = attend(q, k, v, mask)
    np.testing.assert_allclose(merged.values, whole.values, atol=2e-6)
    np.testing.assert_allclose(merged.log_sum_exp, whole.log_sum_exp, atol=2e-6)


def test_seeing_nothing_weighs_nothing():
    q, k, v, mask = random_qkv(2)
    nothing = attend(q, k, v, jnp.zeros_like(mask))
    something = attend(q, k, v, mask)
    assert isinstance(merge(nothing, something), Attended)
    np.testing.assert_allclose(merge(nothing, something).values, something.values, atol=1e-7)


def test_one_mask_for_all_queries():
    q, k, v, mask = random_qkv(3)
    for_all = mask[:, :1]
    whole = attend(q, k, v, jnp.broadcast_to(for_all, mask.shape))
    np.testing.assert_array_equal(attend(q, k, v, for_all).values, whole.values)


@pytest.mark.parametrize("lengths", [(0, 0), (3, 11), (11, 0), (7, 8)])
def test_slots_equal_a_mask_of_their_length(lengths, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK", 4)
    q, k, v, _ = random_qkv(4)
    length = jnp.array(lengths)
    expected = attend(q, k, v, (jnp.arange(k.shape[2]) < length[:, None])[:, None])
    actual = attend_slots(q, k, v, length)
    seen = np.array(lengths) > 0
    np.testing.assert_allclose(actual.values[seen], expected.values[seen], atol=2e-6)
    np.testing.assert_allclose(actual.log_sum_exp[seen], expected.log_sum_exp[seen], atol=2e-6)
    assert np.all(np.asarray(actual.log_sum_exp)[~seen] < -1e29)
