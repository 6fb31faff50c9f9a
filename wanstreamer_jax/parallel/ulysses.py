"""Context parallelism by exchange of heads (DeepSpeed-Ulysses, arXiv 2309.14509), for a sequence beside a history.

A long sequence is split over ranks; a few shared tokens before it are on every rank. Around attention, ranks trade
their tokens of all heads for all tokens of their heads, and back:

             tokens of rank r, all heads         all tokens, heads of rank r
             [B, shared + S / R, N, H]   ---->   [B, shared + S, N / R, H]  -- attention with this rank's
                                         <----                                 heads of the history

Two all-to-alls a layer, and nothing of the history moves. Shared tokens need no exchange on the way in, where every
rank has them; on the way back their values travel with the rest.

B sessions, R ranks, N heads, K key/value heads, H head size.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Whole:
    """One rank that has everything: the reference."""

    def local(self, x: Float[Array, "B S *C"]) -> Float[Array, "B S *C"]:
        """This rank's part of a split sequence."""
        return x

    def whole(self, x: Float[Array, "B S *C"]) -> Float[Array, "B S *C"]:
        """The sequence that the ranks' parts make."""
        return x

    def real(self) -> Bool[Array, "1 1 #S"]:
        """Which tokens attention meets as keys are real, and no padding."""
        return jnp.ones((1, 1, 1), bool)

    def attend(
        self, see: Attend, q: Float[Array, "B T N H"], k: Float[Array, "B K T H"], v: Float[Array, "B K T H"]
    ) -> Float[Array, "B T N H"]:
        """Attention as `see(q, k, v)` says, of all tokens and the heads that this rank has."""
        return see(q, k, v)


@dataclasses.dataclass(frozen=True)
class Ulysses(Whole):
    """One rank of several, inside a `jax.shard_map` over `axis`. A sequence that ranks do not divide is padded."""

    axis: str
    ranks: int
    n_shared: int  # tokens before the sequence, on every rank
    n_split: int  # tokens of the sequence

    @property
    def n_local(self) -> int:
        """Tokens of the sequence that each rank has, padding included."""
        return -(-self.n_split // self.ranks)

    def local(self, x: Float[Array, "B S *C"]) -> Float[Array, "B n *C"]:
        """This rank's part of a split sequence."""
        padding = [(0, 0)] * x.ndim
        padding[1] = (0, self.n_local * self.ranks - self.n_split)
        start = jax.lax.axis_index(self.axis) * self.n_local
        return jax.lax.dynamic_slice_in_dim(jnp.pad(x, padding), start, self.n_local, axis=1)

    def whole(self, x: Float[Array, "B n *C"]) -> Float[Array, "B S *C"]:
        """The sequence that the ranks' parts make, on every rank: the one gather of a unit, at its end."""
        return jax.lax.all_gather(x, self.axis, axis=1, tiled=True)[:, : self.n_split]

    def real(self) -> Bool[Array, "1 1 S"]:
        """Which tokens attention meets as keys are real, and no padding."""
        return (jnp.arange(self.n_shared + self.n_local * self.ranks) < self.n_shared + self.n_split)[None, None]

    def attend(
        self, see: Attend, q: Float[Array, "B T N H"], k: Float[Array, "B K T H"], v: Float[Array, "B K T H"]
    ) -> Float[Array, "B T N H"]:
        """Attention as `see(q, k, v)` says, of all tokens and this rank's heads; two exchanges around it."""
        q, k, v = self._to_heads(q, k.swapaxes(1, 2), v.swapaxes(1, 2))
        return self._to_tokens(see(q, k.swapaxes(1, 2), v.swapaxes(1, 2)))

    def _to_heads(self, *parts: jax.Array) -> list[jax.Array]:
        """Tokens of this rank [B, T, heads, H] of several arrays, to all tokens of this rank's heads; one exchange."""
        by_rank = [rearrange(x, "B T (R h) H -> R B T h H", R=self.ranks) for x in parts]
        counts = [x.shape[3] for x in by_rank]
        packed = jnp.concatenate(by_rank, axis=3)
        mine = jax.lax.dynamic_index_in_dim(packed, jax.lax.axis_index(self.axis), keepdims=False)
        split = jax.lax.all_to_all(packed[:, :, self.n_shared :], self.axis, split_axis=0, concat_axis=0, tiled=True)
        everyone = jnp.concatenate(
            [mine[:, : self.n_shared], rearrange(split, "R B T h H -> B (R T) h H")], axis=1
        )  # [B, shared + S, h, H]
        return jnp.split(everyone, [counts[0], counts[0] + counts[1]], axis=2)

    def _to_tokens(self, values: jax.Array) -> jax.Array:
        """All tokens of this rank's heads [B, T, h, H], to this rank's tokens of all heads; one exchange."""
        shared, split = values[:, : self.n_shared], values[:, self.n_shared :]
        split = rearrange(split, "B (R T) h H -> R B T h H", R=self.ranks)
        shared = jnp.broadcast_to(shared, (self.ranks, *shared.shape))
        packed = jnp.concatenate([shared, split], axis=2)
        packed = jax.lax.all_to_all(packed, self.axis, split_axis=0, concat_axis=0, tiled=True)
        return rearrange(packed, "R B T h H -> B T (R h) H")

    def exchanged_bytes(self, heads: int, kv_heads: int, head_size: int, itemsize: int) -> int:
        """Bytes that one rank sends to others in a layer, for one session."""
        rows_of_heads = self.n_local * (heads + 2 * kv_heads) + (self.n_shared + self.n_local) * heads
        return rows_of_heads * head_size * itemsize * (self.ranks - 1) // self.ranks
