"""The history: a packed ring of keys and values, one pair of arrays a layer, written in place.

    slot     0 .. world-1 | world .. world + W - 1
             the world,     the ring: token number c since unit 0 lies at world + c mod W
             pinned

Validity is a length: the first world + min(n_committed, W) slots hold tokens, in no particular order. Attention needs
none, for keys are rotated to their positions before they are written. Nothing is ever rolled or copied.

B sessions, S slots, T tokens of a slice, K key/value heads, H head size, L layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wanstreamer_jax.config import Config

Layers = tuple[Float[Array, "B K S H"], ...]


class History(NamedTuple):
    """Keys and values of every layer, and how many tokens they hold."""

    k: Layers
    v: Layers
    world: Int[Array, " B"]  # tokens pinned at the front
    n_committed: Int[Array, " B"]  # tokens committed since, whether they are still in the ring or not


class Slice(NamedTuple):
    """The keys and values of one unit, as they cross from thinker to performer."""

    kv: Float[Array, "B L 2 K T H"]
    n_tokens: Int[Array, " B"]  # the first so many are valid


def init_history(config: Config, batch: int) -> History:
    """An empty history for `batch` sessions."""
    model = config.transformer
    shape = (batch, model.kv_heads, config.n_slots, model.head_size)

    def layers() -> Layers:
        return tuple(jnp.zeros(shape, model.dtype) for _ in range(model.layers))

    return History(layers(), layers(), jnp.zeros(batch, jnp.int32), jnp.zeros(batch, jnp.int32))


def n_valid(history: History, ring: int) -> Int[Array, " B"]:
    """Slots that hold tokens; `ring` is its capacity in tokens."""
    return history.world + jnp.minimum(history.n_committed, ring)


def pin_world(history: History, world: Slice) -> History:
    """Begin sessions with the world at the front and an empty ring."""
    zero = jnp.zeros_like(history.world)
    k, v = _write_layers(history, world, [(zero, zero)])
    return History(k, v, world.n_tokens, zero)


def append(history: History, new: Slice, ring: int) -> History:
    """Commit a slice, over the oldest tokens when the ring of `ring` tokens is full.

    A slice that crosses the end of the ring is written in two windows of fixed size, one that ends at the ring's
    end and one at its start; in each, only the slots that are the slice's change.
    """
    T = new.kv.shape[4]
    at = history.n_committed % ring
    last = jnp.minimum(at, ring - T)
    windows = [(history.world + last, last - at), (history.world, ring - at)]
    k, v = _write_layers(history, new, windows)
    return History(k, v, history.world, history.n_committed + new.n_tokens)


def _write_layers(history: History, new: Slice, windows: list[tuple[jax.Array, jax.Array]]) -> tuple[Layers, Layers]:
    """Write a slice into each layer; a window is (first slot, slice row that belongs there), each [B]."""
    k, v = list(history.k), list(history.v)
    for layer in range(len(k)):
        for start, row in windows:
            k[layer] = write_rows(k[layer], new.kv[:, layer, 0], start, row, new.n_tokens)
            v[layer] = write_rows(v[layer], new.kv[:, layer, 1], start, row, new.n_tokens)
    return tuple(k), tuple(v)


def write_rows(
    slots: Float[Array, "B K S H"],
    rows: Float[Array, "B K T H"],
    start: Int[Array, " B"],
    row: Int[Array, " B"],
    n: Int[Array, " B"],
) -> Float[Array, "B K S H"]:
    """Put `rows[row + i]` into slot `start + i` where that row is one of the first n; leave the others."""
    T = rows.shape[2]
    for b in range(slots.shape[0]):  # a loop, not vmap: plain updates in place instead of a scatter
        source = jnp.arange(T) + row[b]
        belongs = (source >= 0) & (source < n[b])
        at = (b, 0, start[b], 0)
        old = jax.lax.dynamic_slice(slots, at, (1, *rows.shape[1:]))
        new = jnp.take(rows[b : b + 1], source, axis=2, mode="clip")
        slots = jax.lax.dynamic_update_slice(slots, jnp.where(belongs[:, None], new.astype(slots.dtype), old), at)
    return slots
