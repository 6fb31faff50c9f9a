"""The ring holds the world and the last W tokens, for ever, whatever the slices' lengths; donation writes in place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.tiny import config as tiny
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


def test_memory_is_constant_and_updates_are_in_place():
    history = init_history(tiny, 1)
    new = Slice(jnp.zeros((1, 6, 2, 8, tiny.layout.n_slice, tiny.transformer.head_size)), jnp.array([60]))
    compiled = jax.jit(functools.partial(append, ring=tiny.history.n_tokens), donate_argnums=0)
    memory = compiled.lower(history, new).compile().memory_analysis()
    cache_bytes = sum(x.nbytes for x in jax.tree.leaves(history))
    assert memory.alias_size_in_bytes >= cache_bytes  # every array is given back where it was
    assert memory.temp_size_in_bytes < cache_bytes / 20  # and none is copied on the way
