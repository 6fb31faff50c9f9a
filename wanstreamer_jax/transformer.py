"""The one Transformer: Qwen3 (arXiv 2505.09388), latent projections, and adaLN on flow time for latent tokens.

With adaLN at its zeros it is Qwen3 on text, number for number. It holds no state and knows no history: whoever runs
it says how queries attend. B sessions, T tokens, N heads, K key/value heads, H head size, D width, F mlp width.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from wanstreamer_jax.attention_tiles import ATTENDED
from wanstreamer_jax.config import Config, TransformerConfig
from wanstreamer_jax.layers import Linear, RMSNorm, SwiGLU, flow_time_features, rotate

N_KINDS = 2  # latent tokens are of two kinds, each with its own flow time
NOT_LATENT, AUDIO, VIDEO = 0, 1, 2
N_VECTORS = 6  # shift, scale and gate, of attention and of the feed-forward layer

Attend = Callable[[int, jax.Array, jax.Array, jax.Array], jax.Array]
"""(layer, q [B, T, N, H], k [B, K, T, H], v [B, K, T, H]) -> values [B, T, N, H]."""


class KeysValues(NamedTuple):
    """The keys (rotated) and values of one layer's tokens."""

    k: Float[Array, "B K T H"]
    v: Float[Array, "B K T H"]


class FlowTime(NamedTuple):
    """The flow times of a unit's latents, 0 clean to 1 noise; sound and picture may differ."""

    audio: Float[Array, " B"]
    video: Float[Array, " B"]


class Conditioning(NamedTuple):
    """What adaLN does to each token: rows of vectors, and which row is each token's.

    Rows come in pairs, sound and picture at one pair of flow times. `kind` 0 is no latent; 1 + r is row r.
    """

    rows: Float[Array, "B M 6 D"]
    kind: Int[Array, "B T"]


class Attention(nnx.Module):
    """Grouped-query attention with QK-norm (Qwen3's)."""

    def __init__(self, cfg: TransformerConfig, *, rngs: nnx.Rngs):
        self.q = Linear(cfg.width, cfg.heads * cfg.head_size, rngs=rngs)
        self.k = Linear(cfg.width, cfg.kv_heads * cfg.head_size, rngs=rngs)
        self.v = Linear(cfg.width, cfg.kv_heads * cfg.head_size, rngs=rngs)
        self.o = Linear(cfg.heads * cfg.head_size, cfg.width, rngs=rngs)
        self.q_norm = RMSNorm(cfg.head_size, cfg.norm_eps)
        self.k_norm = RMSNorm(cfg.head_size, cfg.norm_eps)
        self.head_size = cfg.head_size

    def __call__(
        self, x: Float[Array, "B T D"], angles: Float[Array, "B T G"], attend: Callable
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """Attend as `attend(q, k, v)` says; return also the keys and values of these tokens."""
        q, k, v = (rearrange(f(x), "B T (N H) -> B T N H", H=self.head_size) for f in (self.q, self.k, self.v))
        q = rotate(self.q_norm(q), angles)  # [B, T, N, H]
        k = rotate(self.k_norm(k), angles)  # [B, T, K, H]
        own = KeysValues(k.swapaxes(1, 2), v.swapaxes(1, 2))
        values = attend(q, own.k, own.v).astype(x.dtype)
        return self.o(rearrange(values, "B T N H -> B T (N H)")), own


class Block(nnx.Module):
    """A layer; latent tokens are shifted, scaled and gated by flow time, others are Qwen3's."""

    def __init__(self, cfg: TransformerConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(cfg.width, cfg.norm_eps)
        self.attention = Attention(cfg, rngs=rngs)
        self.mlp_norm = RMSNorm(cfg.width, cfg.norm_eps)
        self.mlp = SwiGLU(cfg.width, cfg.mlp, rngs=rngs)
        self.adaln = nnx.Param(jnp.zeros((N_KINDS, N_VECTORS, cfg.width)))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        angles: Float[Array, "B T G"],
        conditioning: Conditioning | None,
        attend: Callable,
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """Run the layer on tokens that attend as `attend(q, k, v)` says."""
        m = self._vectors(conditioning, x)
        h, own = self.attention(_shift_scale(self.attention_norm(x), m, 0), angles, attend)
        x = x + _gate(h, m, 2)
        return x + _gate(self.mlp(_shift_scale(self.mlp_norm(x), m, 3)), m, 5), own

    def _vectors(self, c: Conditioning | None, x: jax.Array) -> jax.Array | None:
        """The six vectors of each token, [B, T, 6, D]; zeros for tokens that are no latents."""
        if c is None:
            return None
        own = jnp.tile(self.adaln[...], (c.rows.shape[1] // N_KINDS, 1, 1))
        rows = jnp.pad(c.rows + own, ((0, 0), (1, 0), (0, 0), (0, 0)))
        return jnp.take_along_axis(rows.astype(x.dtype), c.kind[..., None, None], axis=1)


def _shift_scale(x: jax.Array, vectors: jax.Array | None, first: int) -> jax.Array:
    return x if vectors is None else x * (1 + vectors[:, :, first + 1]) + vectors[:, :, first]


def _gate(x: jax.Array, vectors: jax.Array | None, index: int) -> jax.Array:
    return x if vectors is None else x * (1 + vectors[:, :, index])


class Transformer(nnx.Module):
    """Tokens in, hidden states out, with the text embedding and head and the latent projections around it."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        cfg = config.transformer
        audio_channels, video_channels = config.audio_vae.latent_channels, config.video_token_channels
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (cfg.vocab, cfg.width)))
        self.head = None if cfg.tied else Linear(cfg.width, cfg.vocab, rngs=rngs)
        self.layers = nnx.List([Block(cfg, rngs=rngs) for _ in range(cfg.layers)])
        self.norm = RMSNorm(cfg.width, cfg.norm_eps)
        self.audio_in = Linear(audio_channels, cfg.width, bias=True, std=audio_channels**-0.5, rngs=rngs)
        self.video_in = Linear(video_channels, cfg.width, bias=True, std=video_channels**-0.5, rngs=rngs)
        self.audio_out = Linear(cfg.width, audio_channels, bias=True, rngs=rngs)
        self.video_out = Linear(cfg.width, video_channels, bias=True, rngs=rngs)
        self.time_in = Linear(cfg.width, cfg.width, bias=True, rngs=rngs)
        self.time_out = Linear(cfg.width, N_VECTORS * cfg.width, bias=True, std=0.0, rngs=rngs)
        self.dtype = jnp.dtype(cfg.dtype)
        self.width = cfg.width

    def __call__(
        self,
        x: Float[Array, "B T D"],
        angles: Float[Array, "B T G"],
        conditioning: Conditioning | None,
        attend: Attend,
        remat: bool = False,
    ) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
        """Run every layer; return normed hidden states and each layer's keys and values of these tokens.

        `remat`: for gradients, keep a layer's input and what attention gave, and compute the rest again.
        """
        kept, policy = [], jax.checkpoint_policies.save_only_these_names(ATTENDED)
        for i, block in enumerate(self.layers):
            run = functools.partial(block, attend=functools.partial(attend, i))
            x, own = (jax.checkpoint(run, policy=policy) if remat else run)(x, angles, conditioning)
            kept.append(own)
        return self.norm(x), kept

    def embed_text(self, ids: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """Text tokens as the Transformer reads them."""
        return self.embedding[...].astype(self.dtype)[ids]

    def text_logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Scores of the next text token, float32."""
        kernel = self.embedding[...].T if self.head is None else self.head.kernel[...]
        return jnp.dot(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)

    def flow_rows(self, tau: FlowTime) -> Float[Array, "B M 6 D"]:
        """The adaLN vectors of the two kinds of latents at their flow times (one table a layer is added later).

        One projection for all layers and a learned offset a layer, as in PixArt-alpha (arXiv 2310.00426) and Wan.
        """
        features = flow_time_features(jnp.stack([tau.audio, tau.video], axis=1), self.width)  # [B, M, D]
        vectors = self.time_out(jax.nn.silu(self.time_in(features)))
        return rearrange(vectors, "B M (n D) -> B M n D", n=N_VECTORS)
