"""Attention over a whole session, whose cost is that of the pairs that see each other, in time and in memory.

A block of units meets the world, the commits that its window reaches back to, and itself; nothing else is computed:

    window of 2 commits        world | 0  1 | 2  3 | 4  5 || noisy 0 1 | 2 3 | 4 5
    block of units 2 and 3       x     x  x   x  x                         x x
    block of units 4 and 5       x        (0) x  x   x  x                       x x

Within a block queries come in tiles, whose scores are computed again for the gradient (`attention_tiles`).

B sessions, U units, T tokens, S slots, N heads, K key/value heads, H head size.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from wanstreamer_jax.attention import Sight, Tokens, codes, sees, sight
from wanstreamer_jax.attention_tiles import attend_heads, attend_tiles
from wanstreamer_jax.config import Config
from wanstreamer_jax.timeline import UnitLayout
from wanstreamer_jax.transformer import Attend

BLOCK = 512  # slots of a block's queries, at least: fewer make small matrix products, more see more than they may


class Spans(NamedTuple):
    """Where things lie in the sequence of `session`'s drawing, in slots."""

    world: int
    commit: int
    noisy: int
    units: int

    @property
    def n_slots(self) -> int:
        """All of them."""
        return self.start_of_noisy(self.units)

    def start_of_commit(self, k: int) -> int:
        """The first slot of commit k."""
        return self.world + k * self.commit

    def start_of_noisy(self, k: int) -> int:
        """The first slot of the noisy latents of unit k."""
        return self.world + self.units * self.commit + k * self.noisy


class Spread(NamedTuple):
    """How a sequence lies on devices: in `ranks` equal parts of its tokens, or inside attention of its heads (Ulysses).

    `share` takes an array whose axis 1 is tokens, or heads, and returns it with that axis shared out; `whole` returns
    one that every device has all of.
    """

    ranks: int
    share: Callable[[jax.Array], jax.Array]
    whole: Callable[[jax.Array], jax.Array]


HERE = Spread(1, lambda x: x, lambda x: x)


def session_attention(
    spans: Spans, rule: Tokens, alone: Bool[Array, "B T"], config: Config, spread: Spread, cut: bool
) -> Attend:
    """How the tokens of a session attend; `rule` describes all of them, `alone` those that see no history.

    `cut`: no gradient flows into the keys and values of clean tokens, as if they lay in a history.
    """
    attend = attend_heads if spread.ranks == 1 else attend_tiles  # heads that are shared out cannot come in turn
    blocks = Blocks.of(spans, reach_of_window(config.layout, config.history.n_tokens))
    seen_by = sight(rule, config.history.n_tokens)
    seen_by = seen_by._replace(end=jnp.where(alone, jnp.minimum(seen_by.end, 0), seen_by.end))
    sights = list(zip(*(blocks.split(x, 1) for x in seen_by), strict=True))
    seeable = blocks.split(codes(rule), 1)

    def shown(queries: Sight, keys: jax.Array) -> jax.Array:
        # Said in the loop over tiles: the compiler would share out the mask in its own way, and then gather it.
        return sees(*jax.tree.map(spread.whole, (queries, keys)))

    def see(_layer: int, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        # A hidden value has weight 0, but 0 x NaN is NaN. Keys still carry a NaN to every query that sees it.
        q, k, v = (spread.share(x) for x in (q.swapaxes(1, 2), k, jnp.where(jnp.isnan(v), 0, v)))
        qs, ks, vs = (blocks.split(x, 2) for x in (q, k, v))
        if cut:
            ks, vs = (blocks.without_gradient(x) for x in (ks, vs))
        out = [jnp.zeros_like(x, jnp.float32) for x in qs]
        for own, seen in blocks.pairs():
            who = Sight(*(_join(x, own, 1) for x in zip(*sights, strict=True))), _join(seeable, seen, 1)
            queries, keys, values = _join(qs, own, 2).swapaxes(1, 2), _join(ks, seen, 2), _join(vs, seen, 2)
            values = attend(shown, queries, keys, values, who)
            ends = np.cumsum([qs[i].shape[2] for i in own])[:-1]
            for i, value in zip(own, jnp.split(values.swapaxes(1, 2), ends, axis=2), strict=True):
                out[i] = value
        # Shared out by heads first: or the compiler computes the tiles of a loop where their tokens will lie.
        return spread.share(spread.share(jnp.concatenate(out, axis=2)).swapaxes(1, 2))

    return see


class Blocks(NamedTuple):
    """A sequence in pieces: the world, commits by the block, noisy latents by the block, padding."""

    cuts: tuple[int, ...]
    n: int  # blocks
    reach: int  # in blocks

    @classmethod
    def of(cls, spans: Spans, reach: int) -> "Blocks":
        """Blocks of units; `reach` is in units."""
        n_units = max(1, BLOCK // (spans.commit + spans.noisy))
        firsts = range(0, spans.units, n_units)
        cuts = [spans.start_of_commit(k) for k in firsts] + [spans.start_of_noisy(k) for k in firsts]
        return cls((*cuts, spans.n_slots), len(firsts), -(-reach // n_units))

    def split(self, x: jax.Array, axis: int) -> list[jax.Array]:
        """The pieces of an array: split once, so that the gradient is put together once."""
        return jnp.split(x, self.cuts, axis=axis)

    def without_gradient(self, pieces: list[jax.Array]) -> list[jax.Array]:
        """The same, constant but for noisy latents."""
        return [*jax.lax.stop_gradient(pieces[: 1 + self.n]), *pieces[1 + self.n :]]

    def pairs(self) -> Iterator[tuple[list[int], list[int]]]:
        """Pieces whose tokens ask, and the pieces that any of them may see."""
        yield [0], [0]
        for i in range(self.n):
            commits, noisy = 1 + i, 1 + self.n + i
            yield [commits, noisy], [0, *range(max(1, commits - self.reach), commits + 1), noisy]


def _join(pieces: Sequence[jax.Array], which: list[int], axis: int) -> jax.Array:
    return jnp.concatenate([pieces[i] for i in which], axis=axis)


def reach_of_window(layout: UnitLayout, window: int) -> int:
    """How many commits before its own a token may see: every commit but the first has a response, and <unit_end>."""
    return 1 + -(-window // (layout.n_agent_media + layout.n_user_media + 1))
