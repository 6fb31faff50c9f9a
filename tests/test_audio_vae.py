"""The audio VAE: it streams, and it stays exact for hours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.contract import Part, assert_close, run_steps, verify_contract
from wanstreamer_jax.config import AudioVAEConfig
from wanstreamer_jax.timeline import SAMPLES_PER_AUDIO_LATENT
from wanstreamer_jax.vae.audio import INITIAL_LOG_VARIANCE, AudioVAE
from wanstreamer_jax.vae.conv1d import Downsample
from wanstreamer_jax.vae.windowed import WindowedTransformer

CFG = AudioVAEConfig(
    filters=4, strides=(32, 30), width=32, residual_layers=2, layers=2, heads=4, mlp=48, window=5, latent_channels=8
)
PIECES = (1, 3, 1, 1, 3)  # latents


@pytest.fixture(scope="module")
def vae() -> AudioVAE:
    return drawn(lambda: AudioVAE(CFG, rngs=nnx.Rngs(0)))


def test_encoder_streams(vae):
    verify_contract(as_part(vae.encoder), [noise(i, 2, n * SAMPLES_PER_AUDIO_LATENT) for i, n in enumerate(PIECES)])


def test_decoder_streams(vae):
    verify_contract(as_part(vae.decoder), [noise(i, 2, n, CFG.latent_channels) for i, n in enumerate(PIECES)])


@pytest.mark.parametrize("pieces", [(1,) * 13, (4, 4, 4, 4), (2, 9, 1, 2, 9, 1, 1)])
def test_window_wraps_around(pieces):
    verify_contract(_of_step(_transformer()), [noise(i, 2, n, 16) for i, n in enumerate(pieces)])


def test_window_is_as_long_as_it_says():
    transformer = _transformer(layers=1)
    x = noise(0, 1, 12, 16)

    def last(x):
        return transformer.step(x, transformer.init_state(1))[0][0, -1].sum()

    seen = jnp.abs(jax.jit(jax.grad(last))(x)).sum(axis=(0, 2))
    np.testing.assert_array_equal(seen > 0, np.arange(12) >= 12 - transformer.window)


def test_positions_are_exact_after_days():
    transformer = _transformer()
    n_seen = 2 * transformer.window  # what a session began with is out of sight of both layers
    x = [noise(i, 2, 3, 16) for i in range(8)]
    fresh = transformer.init_state(2)
    late = fresh._replace(n_steps=jnp.array([10_000_001, 2_000_000_000], jnp.int32))
    part = _of_step(transformer)
    first = jnp.concatenate(run_steps(part, x), axis=1)
    last = jnp.concatenate(run_steps(part._replace(init_state=lambda _: late), x), axis=1)
    assert_close(last[:, n_seen:], first[:, n_seen:], 2e-6)


def test_downsampling_begins_with_its_first_frame_repeated():
    down = Downsample(4, 2, rngs=nnx.Rngs(0))
    constant = jnp.ones((1, 6, 4))
    y, state = down.step(constant, down.init_state(1))
    assert_close(y, jnp.broadcast_to(down.kernel[...].sum(axis=(0, 1)), y.shape), 1e-6)
    after_silence, _ = down.step(constant, state._replace(tail=jnp.zeros_like(state.tail)))
    assert not np.allclose(after_silence[:, 0], y[:, 0])


def test_step_wants_whole_latents(vae):
    with pytest.raises(ValueError, match="1921 samples: no multiple of 1920"):
        vae.encoder.step(jnp.zeros((1, 1921)), vae.encoder.init_state(1))


def test_strides_must_fit_the_clock():
    with pytest.raises(ValueError, match=r"\(7, 6\): their product does not divide 1920"):
        nnx.eval_shape(lambda: AudioVAE(dataclasses.replace(CFG, strides=(7, 6)), rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("channels", [8, 32])
def test_bottleneck_begins_as_a_projection(channels):
    cfg = dataclasses.replace(CFG, latent_channels=channels)

    def through(z):
        vae = AudioVAE(cfg, rngs=nnx.Rngs(0))
        latents = vae.decoder.unproject(z)
        return vae.encoder.mean(latents), vae.encoder.log_variance(latents)

    z = noise(0, 1, 3, channels)
    mean, log_variance = jax.jit(through)(z)
    assert_close(mean, z, 1e-5)
    np.testing.assert_array_equal(log_variance, INITIAL_LOG_VARIANCE)


def as_part(module) -> Part:
    """A causal part as the contract's verifier wants it."""
    return Part(jax.jit(module), module.init_state, jax.jit(module.step))


def noise(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def drawn(make):
    """A module whose every parameter is noise, so that each of its parts is heard."""
    graph, state = nnx.split(nnx.eval_shape(make))
    leaves, treedef = jax.tree.flatten(nnx.to_pure_dict(state))
    leaves = [noise(i, *x.shape) * np.prod(x.shape[:-1]) ** -0.5 for i, x in enumerate(leaves)]
    return with_params(graph, state, jax.tree.unflatten(treedef, leaves))


def with_params(graph, state, params):
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
    return nnx.merge(graph, state)


def _of_step(module) -> Part:
    return Part(
        jax.jit(lambda x: module.step(x, module.init_state(len(x)))[0]), module.init_state, jax.jit(module.step)
    )


def _transformer(layers: int = 2) -> WindowedTransformer:
    return drawn(lambda: WindowedTransformer(16, 32, layers=layers, heads=2, window=5, rngs=nnx.Rngs(0)))
