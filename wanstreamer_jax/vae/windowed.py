"""Mimi's causal Transformer with a sliding window, stepped through a ring of keys and values.

B sessions, T queries, W window, S = W + T keys, N heads, H head size, D width.

Keys are kept as projected, before RoPE, and are turned at every step by their distance to the first query of the
step: a distance is less than the window, so angles are as exact after a month as at the start, where an absolute
position in float32 would have lost its fast frequencies within hours. Attention depends on differences of positions
only, so nothing else changes.

Step n of a session is written in place to slot n mod W. Which slots a query may see is arithmetic on the number of
steps, which each session counts for itself:

    W = 4, 6 steps so far, 2 new     slot  0  1  2  3  | new 0  1
    position                               4  5  2  3  |     6  7
    query 6 sees                           x  x  .  x  |     x  .
    query 7 sees                           x  x  .  .  |     x  x
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from wanstreamer_jax.attention import HIDDEN
from wanstreamer_jax.layers import Linear, rope_frequencies, rotate

ROPE_THETA = 10_000.0
NORM_EPS = 1e-5
LAYER_SCALE = 0.01  # of a new layer's contribution


class Ring(NamedTuple):
    """The last W keys (before RoPE) and values of a layer."""

    keys: Float[Array, "B W N H"]
    values: Float[Array, "B W N H"]


class WindowedState(NamedTuple):
    """The rings of all layers, and the steps that each session has taken."""

    n_steps: Int[Array, " B"]
    rings: tuple[Ring, ...]


class Reach(NamedTuple):
    """What a step shares between layers: angles of slots and new steps, what sees what, where to write."""

    angles: Float[Array, "B S G"]
    visible: Bool[Array, "B T S"]
    slots: Int[Array, "B T"]


class WindowedTransformer(nnx.Module):
    """Pre-norm Transformer in which each step sees itself and the `window - 1` steps before it (Mimi)."""

    def __init__(self, width: int, mlp: int, *, layers: int, heads: int, window: int, rngs: nnx.Rngs):
        self.layers = nnx.List([WindowedLayer(width, mlp, heads, rngs=rngs) for _ in range(layers)])
        self.window, self.heads, self.head_size = window, heads, width // heads

    def init_state(self, batch: int) -> WindowedState:
        """Empty rings."""
        shape = (batch, self.window, self.heads, self.head_size)
        rings = tuple(Ring(jnp.zeros(shape), jnp.zeros(shape)) for _ in self.layers)
        return WindowedState(jnp.zeros(batch, jnp.int32), rings)

    def step(self, x: Float[Array, "B T D"], state: WindowedState) -> tuple[Float[Array, "B T D"], WindowedState]:
        """Run on the next T steps; T may exceed the window."""
        reach = self._reach(state.n_steps, x.shape[1])
        rings = []
        for layer, ring in zip(self.layers, state.rings, strict=True):
            x, new_ring = layer(x, ring, reach)
            rings.append(new_ring)
        return x, WindowedState(state.n_steps + x.shape[1], tuple(rings))

    def _reach(self, n_steps: Int[Array, " B"], n_new: int) -> Reach:
        """All positions are counted from the first new step."""
        n_steps, new = n_steps[:, None], jnp.arange(n_new)
        kept = -1 - (n_steps - 1 - jnp.arange(self.window)) % self.window  # [B, W], in [-W, -1]
        keys = jnp.concatenate([kept, jnp.broadcast_to(new, (len(kept), n_new))], axis=1)  # [B, S]
        distance = new[:, None] - keys[:, None]  # [B, T, S]
        visible = (distance >= 0) & (distance < self.window) & (keys >= -n_steps)[:, None]
        return Reach(self._angles(n_new)[keys + self.window], visible, (n_steps + new) % self.window)

    def _angles(self, n_new: int) -> Float[Array, "S G"]:
        """Angles of positions -W .. T - 1, computed on the host in float64."""
        positions = np.arange(-self.window, n_new)
        angles = positions[:, None] * rope_frequencies(self.head_size, ROPE_THETA)
        return jnp.asarray(np.mod(angles, 2 * np.pi), jnp.float32)


class WindowedLayer(nnx.Module):
    """Attention and a GELU layer, each scaled per channel before it is added (arXiv 2103.17239)."""

    def __init__(self, width: int, mlp: int, heads: int, *, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(width, epsilon=NORM_EPS, use_fast_variance=False, rngs=rngs)
        self.q = Linear(width, width, rngs=rngs)
        self.k = Linear(width, width, rngs=rngs)
        self.v = Linear(width, width, rngs=rngs)
        self.o = Linear(width, width, rngs=rngs)
        self.attention_scale = nnx.Param(jnp.full(width, LAYER_SCALE))
        self.mlp_norm = nnx.LayerNorm(width, epsilon=NORM_EPS, use_fast_variance=False, rngs=rngs)
        self.up = Linear(width, mlp, rngs=rngs)
        self.down = Linear(mlp, width, rngs=rngs)
        self.mlp_scale = nnx.Param(jnp.full(width, LAYER_SCALE))
        self.heads = heads

    def __call__(self, x: Float[Array, "B T D"], ring: Ring, reach: Reach) -> tuple[Float[Array, "B T D"], Ring]:
        """Add attention and feed-forward to `x`."""
        normed = self.attention_norm(x)
        q, k, v = (rearrange(f(normed), "B T (N H) -> B T N H", N=self.heads) for f in (self.q, self.k, self.v))
        # A hidden value has weight 0, but 0 x NaN is NaN. Keys still carry a NaN to every query that sees it.
        v = jnp.where(jnp.isnan(v), 0, v)
        seen = Ring(*(jnp.concatenate([old, new], axis=1) for old, new in zip(ring, (k, v), strict=True)))
        attended = rearrange(_attend(q, seen, reach), "B T N H -> B T (N H)")
        x = x + self.attention_scale[...] * self.o(attended)
        hidden = jax.nn.gelu(self.up(self.mlp_norm(x)), approximate=False)
        x = x + self.mlp_scale[...] * self.down(hidden)
        return x, Ring(_write(ring.keys, k, reach.slots), _write(ring.values, v, reach.slots))


def _attend(q: Float[Array, "B T N H"], seen: Ring, reach: Reach) -> Float[Array, "B T N H"]:
    q = rotate(q, reach.angles[:, -q.shape[1] :]) / np.sqrt(q.shape[-1])
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, rotate(seen.keys, reach.angles))
    weights = jax.nn.softmax(jnp.where(reach.visible[:, None], scores, HIDDEN), axis=-1)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, seen.values)


def _write(ring: Float[Array, "B W N H"], new: Float[Array, "B T N H"], slots: Int[Array, "B T"]) -> Array:
    """Put the newest steps into their slots; of more than W, only the last W have one to themselves."""
    window = ring.shape[1]
    sessions = jnp.arange(len(ring))[:, None]
    return ring.at[sessions, slots[:, -window:]].set(new[:, -window:], unique_indices=True)
