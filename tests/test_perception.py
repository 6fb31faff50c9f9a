"""Perception: sight is SigLIP2 frame by frame, hearing streams."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from configs.tiny import config as tiny
from tests.contract import assert_close, verify_contract
from tests.test_audio_vae import CFG, PIECES, as_part, count, drawn, noise, run_torch, with_params
from wanstreamer_jax.config import VisionConfig
from wanstreamer_jax.convert import siglip2
from wanstreamer_jax.convert.siglip2 import vision_from_siglip2, vision_to_siglip2
from wanstreamer_jax.perception import Hearing, Perception, Vision, VisionTower
from wanstreamer_jax.timeline import AUDIO_LATENTS_PER_UNIT, SAMPLES_PER_AUDIO_LATENT, SAMPLES_PER_UNIT, Picture

SQUARE = VisionConfig(picture=Picture(64, 64), patch=8, width=32, mlp=48, layers=2, heads=4)
WIDE = dataclasses.replace(SQUARE, picture=Picture(64, 32))
WIDTH = 24
POSITIONS = siglip2.PREFIX + siglip2.POSITIONS


def test_hearing_streams():
    hearing = drawn(lambda: Hearing(CFG, WIDTH, rngs=nnx.Rngs(0)))
    verify_contract(as_part(hearing), [noise(i, 2, n * SAMPLES_PER_AUDIO_LATENT) for i, n in enumerate(PIECES)])


def test_perception_fills_the_unit():
    def tokens():
        perception = Perception(tiny, rngs=nnx.Rngs(0))
        sound, _ = perception.hearing.step(jnp.zeros((1, SAMPLES_PER_UNIT)), perception.hearing.init_state(1))
        picture = tiny.vision.picture
        sight = perception.vision(jnp.zeros((1, tiny.vision.frames_per_unit, picture.height, picture.width, 3)))
        return sound, sight

    sound, sight = jax.eval_shape(tokens)
    assert sound.shape == (1, AUDIO_LATENTS_PER_UNIT, tiny.transformer.width)
    assert sight.shape == (1, tiny.layout.n_user_media - AUDIO_LATENTS_PER_UNIT, tiny.transformer.width)


@pytest.fixture(scope="module")
def vision() -> Vision:
    return drawn(lambda: Vision(WIDE, WIDTH, rngs=nnx.Rngs(0)))


def test_frames_do_not_see_each_other(vision):
    frames = noise(0, 2, 3, 32, 64, 3).at[:, 1].set(jnp.nan)
    seen = rearrange(jax.jit(vision)(frames), "B (F T) D -> B F T D", F=3)
    alone = jax.jit(vision)(frames[:, 2:])
    assert np.isnan(seen[:, 1]).all()
    assert_close(seen[:, 2], alone, 1e-5)


def test_a_token_is_two_by_two_patches_in_reading_order(vision):
    """Through a projector that keeps the corners of what it merges apart."""
    frames = noise(0, 1, 1, 32, 64, 3)
    patches = rearrange(jax.jit(vision.tower)(frames[0]), "B (h w) D -> B h w D", h=4)
    vision = nnx.merge(*nnx.split(vision))
    vision.projector = lambda merged: merged
    rows, columns = WIDE.grid
    tokens = jax.jit(vision)(frames).reshape(rows, columns, 4, -1)
    for row, column in np.ndindex(rows, columns):
        corners = patches[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert_close(tokens[row, column], corners.reshape(4, -1), 1e-5)


@pytest.fixture(scope="module")
def siglip():
    """Transformers' SigLIP vision model with random weights, and its tensors as a SigLIP2 checkpoint has them."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SiglipVisionConfig(
        hidden_size=SQUARE.width,
        intermediate_size=SQUARE.mlp,
        num_hidden_layers=SQUARE.layers,
        num_attention_heads=SQUARE.heads,
        image_size=SQUARE.picture.width,
        patch_size=SQUARE.patch,
    )
    model = transformers.SiglipVisionModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    prefix = "" if next(iter(model.state_dict())).startswith("vision_model.") else "vision_model."
    tensors = {f"{prefix}{name}": x.numpy() for name, x in model.state_dict().items()}
    return model, tensors | {"logit_scale": np.zeros(1), "text_model.head.bias": np.zeros(4)}


def test_tower_is_siglip2(siglip):
    tower = converted(siglip[1], SQUARE).tower
    frames = noise(0, 2, 64, 64, 3)
    theirs = run_torch(lambda x: siglip[0](pixel_values=x.permute(0, 3, 1, 2)).last_hidden_state, frames)
    assert_close(jax.jit(tower)(frames), theirs, 1e-5)


def test_positions_are_resampled_for_another_picture(siglip):
    torch = pytest.importorskip("torch")
    square = torch.from_numpy(siglip[1][POSITIONS]).reshape(1, 8, 8, -1).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(square, size=(4, 8), mode="bilinear", align_corners=False, antialias=True)
    ours = converted(siglip[1], WIDE).tower.positions[...]
    assert_close(ours, theirs.permute(0, 2, 3, 1).reshape(32, -1).numpy(), 1e-6)


def test_conversion_there_and_back(siglip):
    back = vision_to_siglip2(vision_from_siglip2(siglip[1], SQUARE, WIDTH, seed=0), SQUARE)
    unused = ("vision_model.head.", "text_model.", "logit_")
    assert back.keys() == {name for name in siglip[1] if not name.startswith(unused)}
    for name, x in back.items():
        np.testing.assert_array_equal(x, siglip[1][name])


def test_conversion_replaces_all_but_the_projector(siglip):
    first, second = (vision_from_siglip2(siglip[1], SQUARE, WIDTH, seed=seed) for seed in (0, 1))
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), first, second)
    paths = [jax.tree_util.keystr(path) for path, c in jax.tree.leaves_with_path(changed) if c]
    assert paths == ["['projector']['down']['kernel']", "['projector']['up']['kernel']"]


def test_conversion_refuses_another_size(siglip):
    with pytest.raises(ValueError, match=r"unknown vision_model\.encoder\.layers\.1"):
        vision_from_siglip2(siglip[1], dataclasses.replace(SQUARE, layers=1), WIDTH, seed=0)
    with pytest.raises(ValueError, match=f"missing {re.escape(POSITIONS)}"):
        vision_from_siglip2({}, SQUARE, WIDTH, seed=0)


def test_published_size():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(image_size=256))
    theirs = sum(p.numel() for name, p in model.named_parameters() if "head." not in name)
    assert count(nnx.eval_shape(lambda: VisionTower(VisionConfig(), rngs=nnx.Rngs(0)))) == theirs


def converted(tensors, cfg: VisionConfig) -> Vision:
    graph, state = nnx.split(nnx.eval_shape(lambda: Vision(cfg, WIDTH, rngs=nnx.Rngs(0))))
    return with_params(graph, state, vision_from_siglip2(tensors, cfg, WIDTH, seed=0))
