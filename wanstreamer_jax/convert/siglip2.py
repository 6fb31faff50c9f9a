"""SigLIP2's vision tower (arXiv 2502.14786), as `google/siglip2-base-patch16-256` and its sizes publish it, in and out.

Text tower and pooling head stay behind; the projector, which SigLIP2 does not have, begins fresh. The position
embeddings of a square picture are resampled when ours is another, as SigLIP2's own variable-resolution models do.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from einops import rearrange
from flax import nnx

from wanstreamer_jax.config import VisionConfig
from wanstreamer_jax.convert.family import Family
from wanstreamer_jax.convert.fields import Fields
from wanstreamer_jax.convert.table import Entry, Layout, Params, Tensor, affine_entries, layer_norm_entries, read, write
from wanstreamer_jax.perception import NORM_EPS, RGB, Vision
from wanstreamer_jax.timeline import Picture

PREFIX = "vision_model."  # of a whole SigLIP2; a vision tower saved by itself may have none
POSITIONS, POSITIONS_PATH = "embeddings.position_embedding.weight", "tower.positions"
UNUSED = r"text_model\..*|(vision_model\.)?head\..*|logit_scale|logit_bias"
FIXED = "google/siglip2-base-patch16-256"


def vision_from_siglip2(tensors: Mapping[str, Tensor], cfg: VisionConfig, width: int, seed: int) -> Params:
    """Parameters of a Vision with SigLIP2's tower; `seed` draws the projector to `width`.

    Raises ValueError when the tensors are not those of a SigLIP2 of this configuration.
    """
    positions = prefix_of(tensors.keys()) + POSITIONS
    if positions in tensors:
        tensors = {**tensors, positions: resample(np.asarray(tensors[positions]), cfg)}
    return read(table(cfg, tensors.keys()), tensors, lambda: Vision(cfg, width, rngs=nnx.Rngs(seed)), UNUSED)


def vision_to_siglip2(params: Params, cfg: VisionConfig) -> dict[str, np.ndarray]:
    """A Vision's tower under SigLIP2's names; position embeddings as they are."""
    return write(table(cfg), params)


def resample(positions: np.ndarray, cfg: VisionConfig) -> np.ndarray:
    """Position embeddings of a square grid, [T, D], on the grid of `cfg.picture`: bilinear, antialiased.

    They keep their dtype, and are returned as they are when they fit already, or are of no square.
    """
    grid = cfg.picture.height // cfg.patch, cfg.picture.width // cfg.patch
    side = math.isqrt(len(positions))
    if (side, side) == grid or side**2 != len(positions):
        return positions
    square = rearrange(positions.astype(np.float32), "(h w) D -> h w D", h=side)
    resampled = jax.image.resize(square, (*grid, square.shape[-1]), "linear")
    return np.asarray(rearrange(resampled, "h w D -> (h w) D")).astype(positions.dtype)


def prefix_of(names: Collection[str]) -> str:
    """What the names of the tower's tensors begin with: nothing in what Transformers 5 saves of a tower alone."""
    return "" if POSITIONS in names else PREFIX


def table(cfg: VisionConfig, names: Collection[str] = ()) -> list[Entry]:
    """Every tensor of the vision tower up to its last norm."""
    return list(_table(cfg, prefix_of(names)))


def _table(cfg: VisionConfig, prefix: str) -> Iterator[Entry]:
    patches = Layout("o i p q", "(p q i) o", (("p", cfg.patch), ("q", cfg.patch)))
    yield from affine_entries(f"{prefix}embeddings.patch_embedding", "tower.embed", patches)
    yield Entry(prefix + POSITIONS, POSITIONS_PATH, Layout("t c", "t c"))
    for i in range(cfg.layers):
        theirs, ours = f"{prefix}encoder.layers.{i}", f"tower.layers.{i}"
        for their_name, name in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("out_proj", "o")):
            yield from affine_entries(f"{theirs}.self_attn.{their_name}", f"{ours}.{name}")
        yield from affine_entries(f"{theirs}.mlp.fc1", f"{ours}.up")
        yield from affine_entries(f"{theirs}.mlp.fc2", f"{ours}.down")
        yield from layer_norm_entries(f"{theirs}.layer_norm1", f"{ours}.attention_norm")
        yield from layer_norm_entries(f"{theirs}.layer_norm2", f"{ours}.mlp_norm")
    yield from layer_norm_entries(f"{prefix}post_layernorm", "tower.norm")


def read_config(raw: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> VisionConfig:
    """Sizes of a SigLIP2 and its square picture, from the config.json of the whole model or of its tower alone.

    Raises ValueError with all that we do not have: variable resolution, patches that do not pair up.
    """
    if raw.get("model_type") == "siglip2":
        raise ValueError(
            f"a SigLIP2 of variable resolution (NaFlex); one of fixed resolution is needed, such as {FIXED}"
        )
    whole = Fields(raw, len(tensors))
    fields = whole.inner("vision_config") if raw.get("model_type") == "siglip" else whole
    side, patch = fields.size("image_size", 224), fields.size("patch_size", 16)
    cfg = VisionConfig(
        picture=Picture(side, side),
        patch=patch,
        width=fields.size("hidden_size", 768),
        mlp=fields.size("intermediate_size", 3072),
        layers=fields.count("num_hidden_layers", 12),
        heads=fields.size("num_attention_heads", 12),
    )
    fields.must_be(hidden_act="gelu_pytorch_tanh", layer_norm_eps=NORM_EPS, num_channels=RGB)
    if side % (2 * patch):
        fields.refuse(
            f"image_size: {side} pixels are {side / patch:.4g} patches of {patch}, which do not merge 2 x 2; "
            f"{FIXED} and its sizes with patches of 16 do"
        )
    if cfg.width % cfg.heads:
        fields.refuse(f"hidden_size: {cfg.width}, no multiple of num_attention_heads, {cfg.heads}")
    fields.check()
    return cfg


def write_config(cfg: VisionConfig) -> dict[str, Any]:
    """The config.json of a SigLIP2 vision tower of these sizes; ValueError unless its picture is square."""
    if cfg.picture.width != cfg.picture.height:
        raise ValueError(f"a SigLIP2 of fixed resolution sees squares, not {cfg.picture}")
    return {
        "architectures": ["SiglipVisionModel"],
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": cfg.width,
        "image_size": cfg.picture.width,
        "intermediate_size": cfg.mlp,
        "layer_norm_eps": NORM_EPS,
        "model_type": "siglip_vision_model",
        "num_attention_heads": cfg.heads,
        "num_channels": RGB,
        "num_hidden_layers": cfg.layers,
        "patch_size": cfg.patch,
        "vision_use_head": False,
    }


FAMILY = Family(
    name="siglip2",
    model_types=("siglip", "siglip_vision_model", "siglip2"),
    safetensors=f"{FIXED} on huggingface.co",
    read_config=read_config,
    write_config=write_config,
    table=table,
    init=lambda cfg: Vision(cfg, cfg.width, rngs=nnx.Rngs(0)),
    unused=UNUSED,
)
