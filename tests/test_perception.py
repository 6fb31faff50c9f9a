"""Perception: sight is frame by frame, hearing streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from configs.tiny import config as tiny
from tests.contract import assert_close, verify_contract
from tests.test_audio_vae import CFG, PIECES, as_part, drawn, noise
from wanstreamer_jax.config import VisionConfig
from wanstreamer_jax.perception import Hearing, Perception, Vision
from wanstreamer_jax.timeline import AUDIO_LATENTS_PER_UNIT, SAMPLES_PER_AUDIO_LATENT, SAMPLES_PER_UNIT, Picture

WIDE = VisionConfig(picture=Picture(64, 32), patch=8, width=32, mlp=48, layers=2, heads=4)
WIDTH = 24


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
