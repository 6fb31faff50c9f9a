"""A whole agent of the tiny preset's shape, but so small that tests compile it in seconds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from configs.tiny import config as tiny
from wanstreamer_jax.config import Config, HistoryConfig, TextConfig, WorldConfig
from wanstreamer_jax.layers import rope_angles, rope_frequencies
from wanstreamer_jax.model import Latents, init_params
from wanstreamer_jax.stream.types import Beat, Observation
from wanstreamer_jax.stream.world import World
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_AUDIO_LATENT, SAMPLES_PER_UNIT, Picture

# What is compiled in half the time runs slowly: for programs that tests run a few times.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)
AUDIO = dataclasses.replace(tiny.audio_vae, filters=2, width=16, layers=1, heads=2, mlp=16, latent_channels=6)


def small_config(**changes) -> Config:
    """A configuration with every part present; `changes` replace fields."""
    base = dataclasses.replace(
        tiny,
        name="small",
        picture=Picture(48, 32),
        video_vae=dataclasses.replace(tiny.video_vae, base=4, multipliers=(1, 1, 1, 1), latent_channels=4),
        audio_vae=AUDIO,
        hearing=AUDIO,
        vision=dataclasses.replace(tiny.vision, picture=Picture(32, 32), width=16, mlp=16, layers=1, heads=2),
        transformer=dataclasses.replace(tiny.transformer, width=32, layers=2, heads=16, mlp=32, vocab=40),
        history=HistoryConfig(n_tokens=60),
        world=WorldConfig(max_text=8, max_voice=3),
        text=TextConfig(max_user=3, max_agent=4, temperature=1.0, unit_end=3),
    )
    return dataclasses.replace(base, **changes)


@functools.cache
def small_params(config: Config):
    """Parameters with nothing left at zero: adaLN, gates and heads all do something. Drawn without compiling."""
    rng = np.random.default_rng(1)

    def draw(path, like: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.normal(size=like.shape).astype(like.dtype)
        if path[-1].key in ("scale", "gain"):
            return jnp.asarray(1 + 0.2 * noise)
        return jnp.asarray(noise * max(1, np.prod(like.shape[:-1])) ** -0.5)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(lambda: init_params(config, 0)))


def angles_at(config: Config, positions) -> jax.Array:
    """Angles [.., G] of positions in time."""
    t = config.transformer
    flat = np.repeat(np.asarray(positions).reshape(-1, 1), 3, axis=1)
    angles = rope_angles(flat, rope_frequencies(t.head_size, t.rope_theta), t.rope_sections)
    return jnp.asarray(angles.reshape(*np.shape(positions), -1))


def a_world(config: Config, n_text=(5, 3), n_voice=(2, 0), has_portrait=(True, False), seed=7) -> World:
    """Worlds of two sessions, one with everything and one with text alone."""
    rng = np.random.default_rng(seed)
    batch, p = len(n_text), config.picture
    return World(
        text=jnp.asarray(rng.integers(0, config.text.unit_end, (batch, config.world.max_text)), jnp.int32),
        n_text=jnp.array(n_text, jnp.int32),
        voice=jnp.asarray(rng.normal(size=(batch, config.world.max_voice * SAMPLES_PER_AUDIO_LATENT)), jnp.float32),
        n_voice=jnp.array(n_voice, jnp.int32),
        portrait=jnp.asarray(rng.integers(0, 256, (batch, p.height, p.width, 3)), jnp.uint8),
        has_portrait=jnp.array(has_portrait),
        start=angles_at(config, n_text),
    )


def observations(config: Config, n_units: int, batch=2, seed=8) -> list[Observation]:
    """What users do in each unit: noise, and texts of every length."""
    rng = np.random.default_rng(seed)
    p, max_user = config.vision.picture, config.text.max_user
    return [
        Observation(
            text=jnp.asarray(rng.integers(0, config.text.unit_end, (batch, max_user)), jnp.int32),
            n_text=jnp.asarray(rng.integers(0, max_user + 1, batch), jnp.int32),
            samples=jnp.asarray(0.3 * rng.normal(size=(batch, SAMPLES_PER_UNIT)), jnp.float32),
            frames=jnp.asarray(rng.integers(0, 256, (batch, FRAMES_PER_UNIT, p.height, p.width, 3)), jnp.uint8),
        )
        for _ in range(n_units)
    ]


def beat(config: Config, unit: int, worlds_end, seed=3) -> Beat:
    """Unit `unit` of sessions whose worlds end at the given positions."""
    ends = np.asarray(worlds_end)
    return Beat(
        unit=jnp.full(len(ends), unit, jnp.int32),
        answered=jnp.full(len(ends), unit > 0),
        start=angles_at(config, ends + unit * config.layout.advance),
        key=jax.random.split(jax.random.key(seed), len(ends)),
    )


def stacked(items: list, axis: int = 1):
    """A list of trees, one a unit, as one tree with units on `axis`."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=axis), *items)


def no_latents(like: Latents) -> Latents:
    """Latents of zeros."""
    return jax.tree.map(jnp.zeros_like, like)
