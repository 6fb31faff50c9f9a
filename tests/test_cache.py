"""The ring holds the world and the last W tokens, for ever, whatever the slices' lengths; donation writes in place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.tiny import config as tiny
from wanstreamer_jax.attention import attend, attend_slots
from wanstreamer_jax.cache import History, Slice, append, init_history, n_valid, pin_world

B, K, H, L = 2, 2, 1, 2


def empty(n_slots: int) -> History:
    layers = tuple(jnp.full((B, K, n_slots, H), -1.0) for _ in range(L))
    zero = jnp.zeros(B, jnp.int32)
    return History(layers, layers, zero, zero)


def numbered(first: np.ndarray, n: np.ndarray, room: int) -> Slice:
    """A slice whose session b holds tokens named first[b], first[b] + 1, ..; what is not valid is NaN."""
    names = first[:, None] + np.arange(room)
    names = np.where(np.arange(room) < n[:, None], names, np.nan)
    kv = np.broadcast_to(names[:, None, None, None, :, None], (B, L, 2, K, room, H))
    return Slice(jnp.asarray(kv, jnp.float32), jnp.asarray(n, jnp.int32))


def held(history: History, ring: int, b: int) -> list[set]:
    valid = int(n_valid(history, ring)[b])
    return [set(np.asarray(layer)[b, kv_head, :valid, 0]) for layer in (*history.k, *history.v) for kv_head in range(K)]


lengths = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30)


@settings(max_examples=30, deadline=None)
@given(lengths=lengths, n_world=st.tuples(st.integers(0, 4), st.integers(0, 4)), ring=st.sampled_from([5, 7, 16]))
def test_ring_holds_the_world_and_the_last_tokens(lengths, n_world, ring):
    room, world = 5, np.array(n_world)
    history = pin_world(empty(4 + ring), numbered(np.full(B, 1000), world, 4))
    count = np.zeros(B, int)
    commit = _append(ring)
    for n in np.array(lengths):
        history = commit(history, numbered(count, n, room))
        count += n
    for b in range(B):
        expected = set(range(max(0, count[b] - ring), count[b])) | set(range(1000, 1000 + world[b]))
        assert all(h == expected for h in held(history, ring, b))


@functools.cache
def _append(ring: int):
    return jax.jit(functools.partial(append, ring=ring))


def test_window_equals_full_attention_with_a_mask_for_thousands_of_units():
    ring, room, n_units, world = 37, 9, 3000, 3
    keys = jax.random.split(jax.random.key(0), 3)
    n_tokens = np.array(jax.random.randint(keys[0], (n_units,), 1, room + 1))
    kv = np.array(jax.random.normal(keys[1], (n_units, 1, L, 2, K, room, 4)))
    q = np.array(jax.random.normal(keys[2], (n_units, 1, 1, 2 * K, 4)))
    zeros = tuple(jnp.zeros((1, K, world + ring, 4)) for _ in range(L))
    pinned = Slice(jnp.asarray(kv[0]), jnp.array([world]))
    start = pin_world(History(zeros, zeros, jnp.array([0]), jnp.array([0])), pinned)

    def live(history, unit):
        history = append(history, Slice(unit[0], unit[1][None]), ring)
        return history, attend_slots(unit[2], history.k[1], history.v[1], n_valid(history, ring)).values

    _, streamed = jax.lax.scan(live, start, (jnp.asarray(kv), jnp.asarray(n_tokens), jnp.asarray(q)))
    packed = np.concatenate([kv[k, 0, 1, :, :, :n] for k, n in enumerate(n_tokens)], axis=2)  # [2, K, all, H]
    ends = np.cumsum(n_tokens)
    for k in [*range(12), *range(12, n_units, 61), n_units - 1]:
        kept = [kv[0, 0, 1, :, :, :world], packed[:, :, max(0, ends[k] - ring) : ends[k]]]
        keys_k, values_k = np.concatenate(kept, axis=2)[:, None]
        everything = np.ones((1, 1, keys_k.shape[2]), bool)
        expected = attend(jnp.asarray(q[k]), jnp.asarray(keys_k), jnp.asarray(values_k), jnp.asarray(everything))
        np.testing.assert_allclose(streamed[k], expected.values, atol=3e-6)


def test_memory_is_constant_and_updates_are_in_place():
    history = init_history(tiny, 1)
    new = Slice(jnp.zeros((1, 6, 2, 8, tiny.layout.n_slice, tiny.transformer.head_size)), jnp.array([60]))
    compiled = jax.jit(functools.partial(append, ring=tiny.history.n_tokens), donate_argnums=0)
    memory = compiled.lower(history, new).compile().memory_analysis()
    cache_bytes = sum(x.nbytes for x in jax.tree.leaves(history))
    assert memory.alias_size_in_bytes >= cache_bytes  # every array is given back where it was
    assert memory.temp_size_in_bytes < cache_bytes / 20  # and none is copied on the way
