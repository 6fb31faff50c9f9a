"""SigLIP2's vision tower, as `google/siglip2-base-patch16-256` and its sizes publish it, in and out.

Text tower and pooling head stay behind; the projector, which SigLIP2 does not have, begins fresh. The position
embeddings of a square picture are resampled when ours is another, as SigLIP2's own variable-resolution models do.
"""

import math
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from einops import rearrange
from flax import nnx

from wanstreamer_jax.config import VisionConfig
from wanstreamer_jax.convert.table import Entry, Layout, Params, Tensor, affine_entries, layer_norm_entries, read, write
from wanstreamer_jax.perception import Vision

POSITIONS = "vision_model.embeddings.position_embedding.weight"
UNUSED = r"text_model\..*|vision_model\.head\..*|logit_scale|logit_bias"


def vision_from_siglip2(tensors: Mapping[str, Tensor], cfg: VisionConfig, width: int, seed: int) -> Params:
    """Parameters of a Vision with SigLIP2's tower; `seed` draws the projector to `width`.

    Raises ValueError when the tensors are not those of a SigLIP2 of this configuration.
    """
    if POSITIONS in tensors:
        tensors = {**tensors, POSITIONS: _resample(np.asarray(tensors[POSITIONS], np.float32), cfg)}
    return read(list(_table(cfg)), tensors, lambda: Vision(cfg, width, rngs=nnx.Rngs(seed)), unused=UNUSED)


def vision_to_siglip2(params: Params, cfg: VisionConfig) -> dict[str, np.ndarray]:
    """A Vision's tower under SigLIP2's names; position embeddings as they are."""
    return write(_table(cfg), params)


def _resample(positions: np.ndarray, cfg: VisionConfig) -> np.ndarray:
    """Position embeddings of a square grid, [T, D], on the grid of `cfg.picture`: bilinear, antialiased."""
    grid = cfg.picture.height // cfg.patch, cfg.picture.width // cfg.patch
    side = math.isqrt(len(positions))
    if (side, side) == grid or side**2 != len(positions):
        return positions
    square = rearrange(positions, "(h w) D -> h w D", h=side)
    return np.asarray(rearrange(jax.image.resize(square, (*grid, square.shape[-1]), "linear"), "h w D -> (h w) D"))


def _table(cfg: VisionConfig) -> Iterator[Entry]:
    patches = Layout("o i p q", "(p q i) o", (("p", cfg.patch), ("q", cfg.patch)))
    yield from affine_entries("vision_model.embeddings.patch_embedding", "tower.embed", patches)
    yield Entry(POSITIONS, "tower.positions", Layout("t c", "t c"))
    for i in range(cfg.layers):
        theirs, ours = f"vision_model.encoder.layers.{i}", f"tower.layers.{i}"
        for their_name, name in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("out_proj", "o")):
            yield from affine_entries(f"{theirs}.self_attn.{their_name}", f"{ours}.{name}")
        yield from affine_entries(f"{theirs}.mlp.fc1", f"{ours}.up")
        yield from affine_entries(f"{theirs}.mlp.fc2", f"{ours}.down")
        yield from layer_norm_entries(f"{theirs}.layer_norm1", f"{ours}.attention_norm")
        yield from layer_norm_entries(f"{theirs}.layer_norm2", f"{ours}.mlp_norm")
    yield from layer_norm_entries("vision_model.post_layernorm", "tower.norm")
