"""Our audio VAE, unit by unit, is Transformers' Mimi on whole recordings, with the identity where Mimi quantises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from tests import public
from wanstreamer_jax.config import AudioVAEConfig
from wanstreamer_jax.convert.mimi import FAMILY, audio_vae_from_mimi, audio_vae_to_mimi, hearing_from_mimi
from wanstreamer_jax.timeline import AUDIO_LATENTS_PER_UNIT, SAMPLES_PER_AUDIO_LATENT, SAMPLES_PER_UNIT
from wanstreamer_jax.vae.audio import AudioVAE

BOUND = 1e-4
N_UNITS = 5  # twice what the window holds


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A Mimi without its quantiser, and its checkpoint."""
    directory = tmp_path_factory.mktemp("mimi")
    return without_quantiser(public.mimi(directory)), public.load("mimi", directory)


@pytest.fixture(scope="module")
def ours(theirs):
    config, tensors = theirs[1].config, theirs[1].tensors
    return as_module(config, audio_vae_from_mimi(tensors, config, seed=0))


def without_quantiser(model):
    """Latents go through as they are."""
    model.quantizer.encode = lambda latents, n_quantizers=None: latents.transpose(0, 1)
    model.quantizer.decode = lambda latents: latents
    return model


def as_module(cfg, params):
    graph, state = nnx.split(nnx.eval_shape(lambda: AudioVAE(cfg, rngs=nnx.Rngs(0))))
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
    return nnx.merge(graph, state)


def their_latents(model, samples):
    with torch.no_grad():
        return np.swapaxes(model.encode(torch.tensor(samples)[:, None]).audio_codes.numpy(), 1, 2)


def their_samples(model, z):
    with torch.no_grad():
        return model.decode(torch.tensor(z).swapaxes(1, 2)).audio_values.numpy()[:, 0]


def stream(part, x, size):
    """A recording, so many samples or latents at a time."""
    step, state, outputs = jax.jit(part.step), part.init_state(len(x)), []
    for start in range(0, x.shape[1], size):
        y, state = step(jnp.asarray(x[:, start : start + size]), state)
        outputs.append(y)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *outputs)


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.parametrize("n_samples", [N_UNITS * SAMPLES_PER_UNIT, 7 * SAMPLES_PER_AUDIO_LATENT + 700])
def test_encoder_on_whole_recordings(theirs, ours, n_samples):
    x = noise(2, n_samples)
    assert public.error(jax.jit(ours.encoder)(jnp.asarray(x)).mean, their_latents(theirs[0], x)) <= BOUND


def test_decoder_on_whole_sequences(theirs, ours):
    z = noise(2, 9, theirs[1].config.width)
    assert public.error(jax.jit(ours.decoder)(jnp.asarray(z)), their_samples(theirs[0], z)) <= BOUND


def test_units_are_pieces_of_the_whole(theirs, ours):
    x = noise(2, N_UNITS * SAMPLES_PER_UNIT)
    z = noise(2, N_UNITS * AUDIO_LATENTS_PER_UNIT, theirs[1].config.width)
    latents = stream(ours.encoder, x, SAMPLES_PER_UNIT).mean
    assert public.error(latents, their_latents(theirs[0], x)) <= BOUND
    assert public.error(stream(ours.decoder, z, AUDIO_LATENTS_PER_UNIT), their_samples(theirs[0], z)) <= BOUND


def test_the_bottleneck_is_the_identity_on_latents(theirs, ours):
    x = jnp.asarray(noise(2, 6, theirs[1].config.width))
    assert public.error(ours.decoder.unproject(ours.encoder.mean(x)), x) <= 1e-6
    assert public.error(ours.encoder.mean(ours.decoder.unproject(x)), x) <= 1e-6


def test_a_narrower_bottleneck_is_all_that_is_drawn(theirs):
    config, tensors = theirs[1].config, theirs[1].tensors
    narrow = AudioVAEConfig(**vars(config) | {"latent_channels": 8})
    first, second = (audio_vae_from_mimi(tensors, narrow, seed=seed) for seed in (0, 1))
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), first, second)
    paths = [jax.tree_util.keystr(path) for path, c in jax.tree.leaves_with_path(changed) if c]
    assert paths == ["['decoder']['unproject']['kernel']", "['encoder']['mean']['kernel']"]


def test_hearing_is_the_encoder(theirs):
    config, tensors = theirs[1].config, theirs[1].tensors
    hearing = hearing_from_mimi(tensors, config, width=8, seed=0)
    trunk = audio_vae_from_mimi(tensors, config, seed=0)["encoder"]["trunk"]
    assert jax.tree.all(jax.tree.map(np.array_equal, hearing["trunk"], trunk))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back_is_the_same_bits(tmp_path, dtype):
    public.mimi(tmp_path, dtype)
    loaded = public.load("mimi", tmp_path)
    assert {str(x.dtype) for x in loaded.params.values()} == {dtype}
    kept = {name: x for name, x in loaded.tensors.items() if not name.startswith("quantizer.")}
    public.assert_same_bits(public.given_back("mimi", loaded), kept)
    params = audio_vae_from_mimi(loaded.tensors, loaded.config, seed=0)
    public.assert_same_bits(audio_vae_to_mimi(params, loaded.config), kept)


def test_theirs_reads_the_config_that_we_write(theirs, tmp_path):
    """Given back without a quantiser: theirs draws one, which nothing here asks."""
    model = without_quantiser(public.rewritten("mimi", theirs[1], tmp_path / "again", transformers.MimiModel))
    x, z = noise(1, SAMPLES_PER_UNIT), noise(1, 4, theirs[1].config.width)
    np.testing.assert_array_equal(their_latents(model, x), their_latents(theirs[0], x))
    np.testing.assert_array_equal(their_samples(model, z), their_samples(theirs[0], z))


def test_all_offenders_are_in_one_error(theirs):
    loaded = theirs[1]
    tensors = dict(loaded.tensors) | {
        "encoder.layers.99.conv.bias": np.zeros(3, np.float32),
        "downsample.conv.weight": np.zeros((2, 2, 4), np.float32),
        "decoder.layers.0.conv.bias": np.zeros(64, bool),
    }
    del tensors["encoder.layers.0.conv.bias"]
    assert public.offenders("mimi", loaded, tensors, ("upsample.conv.weight",)) == [
        "duplicate upsample.conv.weight",
        "unknown encoder.layers.99.conv.bias",
        "missing encoder.layers.0.conv.bias",
        "decoder.layers.0.conv.bias: bool, expected float32, bfloat16 or float16",
        "downsample.conv.weight: shape (2, 2, 4), expected (32, 32, 4)",
    ]


# Everything in Mimi's config.json that its arithmetic depends on and that we do not have in another kind.
REFUSED = {
    "sampling_rate": 16_000,
    "frame_rate": 25.0,
    "audio_channels": 2,
    "kernel_size": 5,
    "last_kernel_size": 5,
    "residual_kernel_size": 5,
    "dilation_growth_rate": 3,
    "use_causal_conv": False,
    "pad_mode": "reflect",
    "compress": 4,
    "trim_right_ratio": 0.5,
    "use_conv_shortcut": True,
    "upsample_groups": 1,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "relu",
    "norm_eps": 1e-6,
    "attention_bias": True,
    "rope_theta": 1e6,
    "upsampling_ratios": [8, 8, 8, 8],
}


def test_what_we_do_not_have_is_refused_all_at_once():
    tensors = {str(i): np.zeros(1, np.float32) for i in range(250)}
    raw = FAMILY.write_config(AudioVAEConfig())
    for public_config in (raw, transformers.MimiConfig().to_dict()):
        assert FAMILY.read_config(public_config, tensors) == AudioVAEConfig()
    with pytest.raises(ValueError, match="not supported") as wrong:
        FAMILY.read_config(raw | REFUSED | {"rope_parameters": {"rope_type": "linear"}}, tensors)
    said = {line.strip().split(":")[0] for line in str(wrong.value).splitlines()[1:]}
    assert said == REFUSED.keys() | {"rope_parameters.rope_type"}


def test_published_size(tmp_path):
    """Mimi, every layer of it, on one unit."""
    model = transformers.MimiModel(transformers.MimiConfig()).eval()
    public.draw(model)
    model.save_pretrained(tmp_path)
    without_quantiser(model)
    x, z = noise(1, SAMPLES_PER_UNIT), noise(1, AUDIO_LATENTS_PER_UNIT, 512)
    latents, samples = their_latents(model, x), their_samples(model, z)
    del model
    loaded = public.load("mimi", tmp_path)
    assert loaded.config == AudioVAEConfig()
    graph, _ = nnx.split(nnx.eval_shape(lambda: AudioVAE(loaded.config, rngs=nnx.Rngs(0))))
    params = audio_vae_from_mimi(loaded.tensors, loaded.config, seed=0)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(params, x, z):
        vae = nnx.merge(graph, params)
        return vae.encoder.step(x, vae.encoder.init_state(1))[0].mean, vae.decoder.step(z, vae.decoder.init_state(1))[0]

    ours = run(params, x, z)
    assert max(public.error(ours[0], latents), public.error(ours[1], samples)) <= BOUND
