"""Windows of the small agent's sessions, and what the stages over them learn from a few."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests import small, world_preset
from tests.stage_cases import learn
from wanstreamer_jax.training.config import MeshShape, OptimizerConfig, SessionWeights, Training
from wanstreamer_jax.training.sharding import make_mesh
from wanstreamer_jax.training.stages import interact
from wanstreamer_jax.training.stages.sessions import window_source
from wanstreamer_jax.training.step import Program

U = 4


def agent_config():
    """The small agent with one layer, so that programs compile in seconds."""
    base = world_preset.config
    return dataclasses.replace(base, transformer=dataclasses.replace(base.transformer, layers=1))


@functools.cache
def session_batch(*, n_units, n=8):
    """Windows of the synthetic world, with noise for latents, as if they had been prepared."""
    config = agent_config()
    training = Training(weights=SessionWeights(units=n_units, seconds=6.0), samples=n)
    source = window_source(config, training, False, None)
    samples = [source[i] for i in range(n)]
    batch = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    for name in ("agent_frames", "agent_samples", "frame_before"):
        del batch[name]
    rng, grid = np.random.default_rng(0), (*config.picture.latent_grid, config.video_vae.latent_channels)
    sound = config.layout.n_agent_audio, config.audio_vae.latent_channels
    shapes = {
        "audio_mean": (n, n_units, *sound),
        "video_mean": (n, n_units, *grid),
        "portrait_mean": (n, *grid),
        "voice_mean": (n, config.world.max_voice, config.audio_vae.latent_channels),
    }
    return batch | {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def batch_of(n_units):
    """Two of those windows."""
    return {name: jnp.asarray(x[:2]) for name, x in session_batch(n_units=n_units).items()}


def program_on(shape, stage=interact.stage, weights=None):
    training = Training(
        weights=weights or SessionWeights(units=U), batch=8, mesh=MeshShape(*shape), optimizer=OptimizerConfig(warmup=1)
    )
    return Program(stage, agent_config(), training, make_mesh(training.mesh))


def learned(stage, weights, batch, n_steps, rate):
    """The stage's trainees before and after so many steps on one batch, and what was logged."""
    program = program_on((1, 1, 1), stage, weights)
    optimizer = OptimizerConfig(learning_rate=rate, warmup=5)
    training = dataclasses.replace(program.training, steps=n_steps, batch=2, optimizer=optimizer)
    before, after, logged = learn(dataclasses.replace(program, training=training), parts(), batch)
    assert all(np.isfinite(x) for m in logged for x in m.values())
    assert not any(x for m in logged for name, x in m.items() if name.endswith("/skipped"))
    return before, after, logged


def parts():
    return jax.tree.map(jnp.asarray, small.small_params(agent_config()))
