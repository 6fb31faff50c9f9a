"""Eyes and ears: what the user shows and says, as tokens of the Transformer's width.

B sessions, F frames, T latents or patches, S tokens, N heads, H head size, D width.

Sight is SigLIP2's fixed-resolution vision tower (arXiv 2502.14786), frame by frame: causal with nothing to remember.
Hearing is Mimi's encoder trunk (see `vae/audio.py`), with weights of its own. A projector ends each.
"""

import jax
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.config import AudioVAEConfig, Config, VisionConfig
from wanstreamer_jax.layers import Linear, RMSNorm
from wanstreamer_jax.vae.audio import MimiEncoderTrunk, TrunkState

NORM_EPS = 1e-6
RGB = 3


class Perception(nnx.Module):
    """Sight and hearing of the user."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.vision = Vision(config.vision, config.transformer.width, rngs=rngs)
        self.hearing = Hearing(config.hearing, config.transformer.width, rngs=rngs)


class Projector(nnx.Module):
    """A norm, and two layers from a sense's width to the Transformer's.

    Without the norm a sense drifts while nothing is learned from it yet, and is lost: the Transformer takes no notice
    of a token's size, so nothing holds an encoder back, and ears were seen to grow by four orders of magnitude.
    """

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(inputs, NORM_EPS)
        self.up = Linear(inputs, width, bias=True, rngs=rngs)
        self.down = Linear(width, width, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        """Map each token by itself."""
        return self.down(jax.nn.gelu(self.up(self.norm(x)), approximate=True))


class Hearing(nnx.Module):
    """Samples at 24 kHz to tokens at 12.5 Hz."""

    def __init__(self, cfg: AudioVAEConfig, width: int, *, rngs: nnx.Rngs):
        self.trunk = MimiEncoderTrunk(cfg, rngs=rngs)
        self.projector = Projector(cfg.width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "B n_samples"]) -> Float[Array, "B T D"]:
        """Hear whole recordings in [-1, 1]."""
        return self.projector(self.trunk(x))

    def init_state(self, batch: int) -> TrunkState:
        """Silence."""
        return self.trunk.init_state(batch)

    def step(self, x: Float[Array, "B n_samples"], state: TrunkState) -> tuple[Float[Array, "B T D"], TrunkState]:
        """Hear the next samples; ValueError unless they make whole latents."""
        latents, state = self.trunk.step(x, state)
        return self.projector(latents), state


class Vision(nnx.Module):
    """Frames to tokens: SigLIP2's tower, patches merged 2 x 2, projector."""

    def __init__(self, cfg: VisionConfig, width: int, *, rngs: nnx.Rngs):
        self.tower = VisionTower(cfg, rngs=rngs)
        self.projector = Projector(4 * cfg.width, width, rngs=rngs)
        self.n_columns = cfg.grid[1]

    def __call__(self, frames: Float[Array, "B F height width 3"]) -> Float[Array, "B S D"]:
        """See frames in [-1, 1]; tokens are frame by frame, row by row: S = F x rows x columns of `cfg.grid`."""
        patches = self.tower(rearrange(frames, "B F height width C -> (B F) height width C"))
        merged = rearrange(
            patches,
            "(B F) (h two w pair) D -> B (F h w) (two pair D)",
            B=len(frames),
            two=2,
            w=self.n_columns,
            pair=2,
        )
        return self.projector(merged)


class VisionTower(nnx.Module):
    """SigLIP2's vision Transformer up to its last norm; the pooling head is not used."""

    def __init__(self, cfg: VisionConfig, *, rngs: nnx.Rngs):
        rows, columns = cfg.picture.height // cfg.patch, cfg.picture.width // cfg.patch
        self.patch = cfg.patch
        self.embed = Linear(cfg.patch**2 * RGB, cfg.width, bias=True, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows * columns, cfg.width)))
        self.layers = nnx.List([VisionLayer(cfg, rngs=rngs) for _ in range(cfg.layers)])
        self.norm = nnx.LayerNorm(cfg.width, epsilon=NORM_EPS, use_fast_variance=False, rngs=rngs)

    def __call__(self, frames: Float[Array, "B height width 3"]) -> Float[Array, "B T D"]:
        """Patch features of frames in [-1, 1], row by row."""
        pixels = rearrange(frames, "B (h p) (w q) C -> B (h w) (p q C)", p=self.patch, q=self.patch)
        x = self.embed(pixels) + self.positions[...]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class VisionLayer(nnx.Module):
    """Pre-norm attention over all patches of a frame, and a GELU layer."""

    def __init__(self, cfg: VisionConfig, *, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(cfg.width, epsilon=NORM_EPS, use_fast_variance=False, rngs=rngs)
        self.q = Linear(cfg.width, cfg.width, bias=True, rngs=rngs)
        self.k = Linear(cfg.width, cfg.width, bias=True, rngs=rngs)
        self.v = Linear(cfg.width, cfg.width, bias=True, rngs=rngs)
        self.o = Linear(cfg.width, cfg.width, bias=True, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(cfg.width, epsilon=NORM_EPS, use_fast_variance=False, rngs=rngs)
        self.up = Linear(cfg.width, cfg.mlp, bias=True, rngs=rngs)
        self.down = Linear(cfg.mlp, cfg.width, bias=True, rngs=rngs)
        self.heads = cfg.heads

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Add attention and feed-forward to `x`."""
        normed = self.attention_norm(x)
        q, k, v = (rearrange(f(normed), "B T (N H) -> B T N H", N=self.heads) for f in (self.q, self.k, self.v))
        x = x + self.o(rearrange(jax.nn.dot_product_attention(q, k, v), "B T N H -> B T (N H)"))
        return x + self.down(jax.nn.gelu(self.up(self.mlp_norm(x)), approximate=True))
