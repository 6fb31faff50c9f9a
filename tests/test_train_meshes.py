"""The VAE stages compute the same loss and gradients on any mesh."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.small import quick_jit, small_config, small_params
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_AUDIO_LATENT, Picture
from wanstreamer_jax.training import sharding
from wanstreamer_jax.training.config import AudioVAEWeights, MeshShape, Training, VideoVAEWeights
from wanstreamer_jax.training.sharding import batch_sharding, make_mesh, put_batch
from wanstreamer_jax.training.stages import find_stage
from wanstreamer_jax.training.step import Program

SMALL = small_config()
CONFIG = dataclasses.replace(
    SMALL,
    picture=Picture(16, 16),
    video_vae=dataclasses.replace(SMALL.video_vae, res_blocks=1),
    audio_vae=dataclasses.replace(SMALL.audio_vae, layers=1),
)
BATCH = 8
LATENTS = 4  # of a clip of sound
WEIGHTS = {"video_vae": VideoVAEWeights(units=1, clips=1), "audio_vae": AudioVAEWeights(latents=LATENTS, clips=1)}


@pytest.fixture(autouse=True)
def small_arrays_are_shared_out_too(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARDED", 8)


def program(name: str, mesh: tuple[int, int, int]) -> Program:
    training = Training(weights=WEIGHTS[name], batch=BATCH, mesh=MeshShape(*mesh))
    return Program(find_stage(name), CONFIG, training, make_mesh(training.mesh))


def clips(name: str) -> np.ndarray:
    """Random ones: what is in them makes no difference to where it is computed."""
    rng = np.random.default_rng(0)
    if name == "audio_vae":
        return rng.normal(scale=0.1, size=(BATCH, 1, LATENTS * SAMPLES_PER_AUDIO_LATENT)).astype(np.float32)
    return rng.integers(0, 256, (BATCH, 1, 1 + FRAMES_PER_UNIT, 16, 16, 3)).astype(np.uint8)


@functools.cache
def update_on(name: str, mesh: tuple[int, int, int]):
    p, parts = program(name, mesh), {name: small_params(CONFIG)[name]}
    state = quick_jit(p.init, out_shardings=p.shardings(jax.eval_shape(p.init, parts)))(parts)
    arrays = jax.tree.leaves((state.trainees, state.optimizer))
    held = sum(x.addressable_shards[0].data.nbytes for x in arrays)  # by the first device
    assert held < 1.1 / p.mesh.shape["fsdp"] * sum(x.nbytes for x in arrays)
    batch = put_batch({"clips": clips(name)}, batch_sharding(p.mesh, p.stage.batch_axes))
    frozen = {part: parts[part] for part in p.stage.frozen}
    run = quick_jit(lambda t, b: p.accumulate(p.objectives[0], p.computed(t), frozen, b, jax.random.key(1)))
    return jax.tree.map(np.asarray, run(state.trainees, batch))


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("name", WEIGHTS)
def test_loss_and_gradients_are_the_same_on_every_mesh(name, mesh):
    expected, actual = update_on(name, (1, 1, 1)), update_on(name, mesh)
    np.testing.assert_allclose(actual.metrics["loss"], expected.metrics["loss"], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(actual.gradient), jax.tree.leaves(expected.gradient), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * max(np.linalg.norm(b), 1e-3)
