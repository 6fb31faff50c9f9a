"""The audio VAE: it streams, it is Mimi around its bottleneck, and it stays exact for hours."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tests.contract import Part, assert_close, run_steps, verify_contract
from wanstreamer_jax.config import AudioVAEConfig
from wanstreamer_jax.convert.mimi import audio_vae_from_mimi, audio_vae_to_mimi, hearing_from_mimi
from wanstreamer_jax.timeline import SAMPLES_PER_AUDIO_LATENT
from wanstreamer_jax.vae.audio import INITIAL_LOG_VARIANCE, AudioVAE
from wanstreamer_jax.vae.conv1d import Downsample
from wanstreamer_jax.vae.windowed import WindowedTransformer

CFG = AudioVAEConfig(
    filters=4, strides=(32, 30), width=32, residual_layers=2, layers=2, heads=4, mlp=48, window=5, latent_channels=8
)
MIMI = dataclasses.replace(CFG, strides=AudioVAEConfig().strides, latent_channels=CFG.width)
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


@pytest.fixture(scope="module")
def mimi(tmp_path_factory: pytest.TempPathFactory):
    """Transformers' Mimi with random weights and no quantiser, and its checkpoint."""
    torch = pytest.importorskip("torch")
    model = _mimi(torch)
    path = tmp_path_factory.mktemp("mimi")
    model.save_pretrained(path)
    model.quantizer.encode = lambda latents, n_quantizers=None: latents.transpose(0, 1)
    model.quantizer.decode = lambda latents: latents
    return model.eval(), load_file(Path(path, "model.safetensors"))


@pytest.fixture(scope="module")
def converted(mimi) -> AudioVAE:
    graph, state = nnx.split(nnx.eval_shape(lambda: AudioVAE(MIMI, rngs=nnx.Rngs(0))))
    return with_params(graph, state, audio_vae_from_mimi(mimi[1], MIMI, seed=0))


@pytest.mark.parametrize("n_samples", [1920 * 10, 1920 * 7 + 700])
def test_encoder_is_mimi(mimi, converted, n_samples):
    x = noise(0, 2, n_samples)
    latents = run_torch(lambda x: mimi[0].encode(x[:, None]).audio_codes, x).swapaxes(1, 2)
    assert_close(jax.jit(converted.encoder)(x).mean, latents, 1e-5)


def test_decoder_is_mimi(mimi, converted):
    z = noise(0, 2, 9, MIMI.width)
    samples = run_torch(lambda z: mimi[0].decode(z.swapaxes(1, 2)).audio_values, z)
    assert_close(jax.jit(converted.decoder)(z), samples[:, 0], 1e-5)


def test_conversion_replaces_all_but_the_bottleneck(mimi):
    narrow = dataclasses.replace(MIMI, latent_channels=8)
    first, second = (audio_vae_from_mimi(mimi[1], narrow, seed=seed) for seed in (0, 1))
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), first, second)
    paths = [jax.tree_util.keystr(path) for path, c in jax.tree.leaves_with_path(changed) if c]
    assert paths == ["['decoder']['unproject']['kernel']", "['encoder']['mean']['kernel']"]


def test_conversion_there_and_back(mimi):
    back = audio_vae_to_mimi(audio_vae_from_mimi(mimi[1], MIMI, seed=0), MIMI)
    assert back.keys() == {name for name in mimi[1] if not name.startswith("quantizer.")}
    for name, x in back.items():
        np.testing.assert_array_equal(x, mimi[1][name])


def test_conversion_lists_all_that_does_not_fit(mimi):
    tensors = dict(mimi[1]) | {
        "encoder.layers.99.conv.bias": np.zeros(3),
        "downsample.conv.weight": np.zeros((2, 2, 4)),
    }
    del tensors["encoder.layers.0.conv.bias"]
    for convert in (lambda: audio_vae_from_mimi(tensors, MIMI, 0), lambda: hearing_from_mimi(tensors, MIMI, 8, 0)):
        with pytest.raises(ValueError, match="not of this configuration") as error:
            convert()
        assert str(error.value).splitlines()[1:] == [
            "  unknown encoder.layers.99.conv.bias",
            "  missing encoder.layers.0.conv.bias",
            "  downsample.conv.weight: shape (2, 2, 4), expected (32, 32, 4)",
        ]


def test_published_size():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.MimiModel(transformers.MimiConfig())
    theirs = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("quantizer."))
    ours = nnx.eval_shape(lambda: AudioVAE(AudioVAEConfig(), rngs=nnx.Rngs(0)))
    bottleneck = (ours.encoder.mean, ours.encoder.log_variance, ours.decoder.unproject)
    assert count(ours) - sum(map(count, bottleneck)) == theirs


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


def _mimi(torch):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MimiConfig(
        hidden_size=MIMI.width,
        num_filters=MIMI.filters,
        num_residual_layers=MIMI.residual_layers,
        num_hidden_layers=MIMI.layers,
        num_attention_heads=MIMI.heads,
        num_key_value_heads=MIMI.heads,
        intermediate_size=MIMI.mlp,
        sliding_window=MIMI.window,
        upsample_groups=MIMI.width,
        layer_scale_initial_scale=0.5,
        num_quantizers=2,
        codebook_size=4,
    )
    model = transformers.MimiModel(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def run_torch(f, x: jax.Array) -> np.ndarray:
    import torch

    with torch.no_grad():
        return f(torch.from_numpy(np.array(x))).numpy()


def count(module) -> int:
    return sum(x.size for x in jax.tree.leaves(nnx.state(module)))
