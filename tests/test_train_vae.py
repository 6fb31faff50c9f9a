"""Laws of the VAE stages: each learns a small fixed set, its terms are what they say, its statistics normalise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.small import quick_jit, small_config, small_params
from tests.stage_cases import learn
from wanstreamer_jax.data.world import Split, World, make_session
from wanstreamer_jax.model import part
from wanstreamer_jax.presets import load_training
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_AUDIO_LATENT
from wanstreamer_jax.training.clips import cropped, cut_sound
from wanstreamer_jax.training.config import AudioVAEWeights, MeshShape, OptimizerConfig, Training, VideoVAEWeights
from wanstreamer_jax.training.input import heldout_batches
from wanstreamer_jax.training.sharding import make_mesh
from wanstreamer_jax.training.stages import audio_vae, find_stage, video_vae
from wanstreamer_jax.training.stages.adversary import Discriminator, hinge
from wanstreamer_jax.training.stages.latents import divergence, mean_square, statistics
from wanstreamer_jax.training.step import Program
from wanstreamer_jax.vae.causal import Gaussian

CONFIG = small_config()
WEIGHTS = {
    "video_vae": VideoVAEWeights(units=1, heldout_units=2, clips=2, seconds=2.0),
    "audio_vae": AudioVAEWeights(latents=3, clips=4, seconds=2.0),
}


def program(name: str, mesh=(1, 1, 1), **changes) -> Program:
    weights = dataclasses.replace(WEIGHTS[name], **changes)
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup=5)
    training = Training(weights=weights, batch=2, steps=60, samples=2, optimizer=optimizer, mesh=MeshShape(*mesh))
    return Program(find_stage(name), CONFIG, training, make_mesh(training.mesh))


def fixed_batch(p: Program) -> dict:
    source = p.stage.source(p.config, p.training, False, None)
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *[source[i] for i in range(p.training.batch)])


def fit(p: Program) -> list[dict]:
    """The metrics of all steps on one batch."""
    return learn(p, {name: small_params(CONFIG)[name] for name in p.stage.parts + p.stage.frozen}, fixed_batch(p))[2]


def test_the_video_vae_learns():
    logged = fit(program("video_vae"))
    assert logged[-1]["video_vae/loss"] < 0.6 * logged[0]["video_vae/loss"], (logged[0], logged[-1])


def test_the_audio_vae_learns():
    logged = fit(program("audio_vae"))
    assert logged[-1]["audio_vae/loss"] < 0.6 * logged[0]["audio_vae/loss"], (logged[0], logged[-1])


def test_the_video_vae_learns_from_crops():
    p = program("video_vae", crop=2, moving=3.0)
    h, w = CONFIG.picture.height, CONFIG.picture.width
    assert fixed_batch(p)["clips"].shape[3:5] == (max(h // 32, 1) * 16, max(w // 32, 1) * 16) != (h, w)
    logged = fit(p)
    assert logged[-1]["video_vae/loss"] < 0.7 * logged[0]["video_vae/loss"], (logged[0], logged[-1])


def test_a_crop_is_where_it_moves():
    clip = np.zeros((5, 64, 96, 3), np.uint8)
    clip[0] = 255  # as if it were a portrait: what it differs in is no motion
    clip[3, 40:44, 70:74] = 200
    crops = [cropped(np.random.default_rng(seed), clip, 3) for seed in range(40)]
    assert {crop.shape for crop in crops} == {(5, 16, 32, 3)}
    share = np.mean([crop[3].max() > 0 for crop in crops])
    assert share > 1.5 * (2 * 4 / (7 * 9))  # of 7 x 9 places 2 x 4 show it; every other crop is the best of four
    assert (cropped(np.random.default_rng(0), clip, 1) == clip).all()


def test_what_moves_counts_more():
    clips = np.zeros((1, 4, 8, 8, 3), np.float32)
    clips[0, 2:, 4, 5] = 1.0
    shares = np.asarray(video_vae.moving_shares(jnp.asarray(clips), 9.0))
    np.testing.assert_allclose(shares.mean(), 1.0, rtol=1e-5)
    assert shares[0, 1, 4, 5, 0] == shares[0, 2, 4, 5, 0] == shares.max() > 50 * shares[0, 3, 4, 5, 0]
    np.testing.assert_array_equal(video_vae.moving_shares(jnp.asarray(clips), 0.0), 1.0)


def test_an_adversary_comes_when_it_is_asked_for():
    assert [o.trainee for o in program("video_vae").objectives] == ["video_vae"]
    p = program("video_vae", adversarial=0.1, adversarial_from=2)
    trainees = [[p.objectives[i].trainee for i in p.due(step)] for step in range(3)]
    assert trainees == [["video_vae"], ["video_vae"], ["video_vae", "discriminator"]]
    parts = {"video_vae": small_params(CONFIG)["video_vae"]}
    assert jax.eval_shape(p.init, parts).trainees.keys() == {"video_vae", "discriminator"}


def test_only_a_new_vae_is_quieted():
    vae = small_params(CONFIG)["video_vae"]
    new = vae | {"encoder": vae["encoder"] | {"quant": jax.tree.map(jnp.zeros_like, vae["encoder"]["quant"])}}
    begun, kept = (
        video_vae.init(CONFIG, WEIGHTS["video_vae"], {"video_vae": v}, jax.random.key(0))["video_vae"]
        for v in (new, vae)
    )
    mean, log_variance = np.split(np.asarray(begun["encoder"]["quant"]["bias"]), 2)
    assert not mean.any()
    assert (log_variance < -5).all()
    assert jax.tree.all(jax.tree.map(np.array_equal, kept, vae))


def test_an_adversary_learns_to_tell():
    model = Discriminator(4, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    real, made = (jnp.asarray(scale * rng.normal(size=(2, 2, 16, 32, 3)), jnp.float32) for scale in (1, 0.3))
    told = quick_jit(jax.value_and_grad(lambda params: hinge(model, params, real, made), has_aux=True))
    params = nnx.to_pure_dict(nnx.state(model))
    losses = []
    for _ in range(60):
        (loss, metrics), gradient = told(params)
        params = jax.tree.map(lambda x, g: x - 0.05 * g, params, gradient)
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]
    assert metrics["real"] > 0.8
    assert metrics["made"] > 0.8


@pytest.mark.parametrize("name", ["video_vae", "audio_vae"])
def test_clips_are_of_whole_units_and_always_the_same(name):
    p = program(name)
    for heldout in (False, True):
        source = p.stage.source(p.config, p.training, heldout, None)
        first, again = source[1], source[1]
        assert np.array_equal(first["clips"], again["clips"])
        assert not np.array_equal(first["clips"], source[0]["clips"])
    training, held = (p.stage.source(p.config, p.training, heldout, None) for heldout in (False, True))
    assert (training.world.split, held.world.split) == (Split.TRAIN, Split.HELDOUT)
    picture = p.config.picture
    shape = {
        "video_vae": (2, 1 + 2 * FRAMES_PER_UNIT, picture.height, picture.width, 3),
        "audio_vae": (4, 3 * SAMPLES_PER_AUDIO_LATENT),
    }[name]
    assert first["clips"].shape == shape
    assert len(list(heldout_batches(held, p.training))) == 1


@pytest.mark.parametrize(("user", "levels"), [(True, [0.1, 0.2, 0.1, 0.2]), (False, [0.1] * 4)])
def test_sound_is_of_both_sides_or_of_the_agent_alone(user, levels):
    world = World(seconds=1.0, user_picture=audio_vae.SMALL, agent_picture=audio_vae.SMALL)
    session = make_session(0, world)
    agent, heard = (np.full_like(session.agent_samples, level) for level in (0.1, 0.2))
    session = dataclasses.replace(session, agent_samples=agent, user_samples=heard)
    p = program("audio_vae", user=user)
    clips = p.stage.source(CONFIG, p.training, False, None).cut(np.random.default_rng(0), session)["clips"]
    np.testing.assert_allclose(clips[:, 0], levels)


def test_a_decoder_learns_alone_and_latents_stay_what_they_are():
    logged = fit(p := program("audio_vae", encoder=False))
    assert logged[39]["audio_vae/loss"] < 0.8 * logged[0]["audio_vae/loss"], (logged[0], logged[39])
    assert len({step["audio_vae/kl"] for step in logged}) == 1
    trained = p.stage.init(CONFIG, p.training.weights, small_params(CONFIG), jax.random.key(0))
    measured = {"latent_mean": np.full(8, 3.0), "latent_square": np.full(8, 25.0)}
    _, left = p.stage.finish(CONFIG, trained, measured)
    assert left["audio_vae"].keys() == {"decoder"}
    same = jax.tree.map(np.array_equal, left["audio_vae"]["decoder"], small_params(CONFIG)["audio_vae"]["decoder"])
    assert jax.tree.all(same)


def test_clips_begin_where_latents_do():
    steps = np.repeat(np.arange(40.0), SAMPLES_PER_AUDIO_LATENT).astype(np.float32)
    clips = cut_sound(np.random.default_rng(0), [steps], 8, 3)
    latents = clips.reshape(8, 3, SAMPLES_PER_AUDIO_LATENT)
    assert np.array_equal(latents.min(2), latents.max(2))


def test_silence_is_measured():
    p = program("audio_vae")
    batch = {"clips": jnp.zeros((1, 2, 3 * SAMPLES_PER_AUDIO_LATENT))}
    trees = {"audio_vae": small_params(CONFIG)["audio_vae"]}
    measured = audio_vae.measure(CONFIG, p.training.weights, trees, trees, batch, jax.random.key(0))
    assert all(np.isfinite(x).all() for x in measured.values())


def test_the_pyramid_adds_up_to_the_picture_and_weighs_edges():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 32, 48, 3)), jnp.float32)
    bands = video_vae.laplacian_pyramid(x, 3)
    assert [band.shape[2:4] for band in bands] == [(32, 48), (16, 24), (8, 12)]
    flat = video_vae.laplacian_pyramid(jnp.full((1, 1, 32, 48, 3), 0.7), 3)
    assert max(float(jnp.abs(band).max()) for band in flat) < 1e-5  # without edges, nothing


def test_a_sine_has_its_amplitude_in_its_bin():
    window, k, amplitude = 1024, 64, 0.5
    sine = amplitude * np.sin(2 * np.pi * k / window * np.arange(4 * window))
    spectrum = np.asarray(audio_vae.magnitudes(jnp.asarray(sine[None], jnp.float32), window))
    np.testing.assert_allclose(spectrum[0, :, k], amplitude, rtol=1e-3)
    assert spectrum[0, :, 2 * k].max() < 1e-5


def test_silence_has_a_finite_gradient():
    def loss(x):
        spectrum = audio_vae.magnitudes(x, 256)
        return jnp.sum(spectrum) + audio_vae._convergence(spectrum, spectrum)

    assert np.isfinite(quick_jit(jax.grad(loss))(jnp.zeros((1, 1024)))).all()


def test_divergence_is_that_of_normal_distributions():
    assert divergence(Gaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))) == 0
    # KL(N(1, 4) | N(0, 1)) = (1 + 4 - 1 - ln 4) / 2
    wide = Gaussian(jnp.ones((2, 3)), jnp.full((2, 3), np.log(4)))
    assert divergence(wide) == pytest.approx((4 - np.log(4)) / 2)


def a_latent(mean, std, shape=(7, 5), seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*shape, len(mean))) * std + mean


def test_normalised_sound_is_the_same_sound():
    """The statistics move into the bottleneck's weights: latents are normal, and what is decoded does not change."""
    vae, channels = small_params(CONFIG)["audio_vae"], CONFIG.audio_vae.latent_channels
    rng = np.random.default_rng(1)
    mean, std = rng.normal(size=channels), rng.uniform(0.2, 3, size=channels)
    vae = jax.tree.map(np.asarray, vae)
    normal = audio_vae.normalise(vae, mean, std)
    sound = jnp.asarray(0.1 * rng.normal(size=(1, 4 * SAMPLES_PER_AUDIO_LATENT)), jnp.float32)

    @quick_jit
    def through(tree):
        model = part(CONFIG, {"audio_vae": tree}, "audio_vae")
        latents = model.encoder(sound)
        return latents, model.decoder(latents.mean)

    (latents, decoded), (normalised, same) = (through(as_float32(tree)) for tree in (vae, normal))
    np.testing.assert_allclose(normalised.mean, (latents.mean - mean) / std, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.exp(normalised.log_variance / 2) * std, jnp.exp(latents.log_variance / 2), rtol=1e-4)
    np.testing.assert_allclose(same, decoded, rtol=1e-3, atol=1e-5)


def as_float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def test_statistics_of_pictures_are_of_raw_latents():
    """Measured of latents that older statistics have normalised, they say what raw latents are like."""
    channels = CONFIG.video_vae.latent_channels
    old_mean, old_std = np.arange(channels) / 4, 1 + np.arange(channels) / 8
    vae = dataclasses.replace(CONFIG.video_vae, latent_mean=tuple(old_mean), latent_std=tuple(old_std))
    config = dataclasses.replace(CONFIG, video_vae=vae)
    raw = a_latent(np.full(channels, 2.0), 3.0)
    seen = (raw - old_mean) / old_std
    measured = {"latent_mean": seen.mean((0, 1)), "latent_square": np.square(seen).mean((0, 1))}
    finished, parts = video_vae.finish(config, {"video_vae": {}, "discriminator": {}}, measured)
    np.testing.assert_allclose(finished.video_vae.latent_mean, raw.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(finished.video_vae.latent_std, raw.std((0, 1)), rtol=1e-5)
    assert parts.keys() == {"video_vae"}


def test_a_channel_that_carries_nothing_is_not_blown_up():
    nothing = Gaussian(jnp.full((2, 5, 3), 1e-3), jnp.zeros((2, 5, 3)))  # all noise: as it was before it was seen
    square = np.asarray(mean_square(nothing, (0, 1)))
    np.testing.assert_allclose(statistics(np.full(3, 1e-3), square).std, 1, rtol=1e-5)
    assert statistics(np.full(3, 5.0), np.full(3, 25.0)).std.min() > 0


@pytest.mark.parametrize("name", ["video_vae", "audio_vae"])
def test_what_is_measured_and_drawn(name, tmp_path):
    p = program(name)
    batch, trees = fixed_batch(p), {name: small_params(CONFIG)[name]}
    arguments = CONFIG, p.training.weights, trees, trees, batch, jax.random.key(0)
    measured, shown = (
        jax.eval_shape(functools.partial(f, *arguments[:2]), *arguments[2:]) for f in (p.stage.measure, p.stage.preview)
    )
    assert {gate.measure for gate in load_training("tiny")[name].gates} <= measured.keys()
    p.stage.draw(jax.tree.map(lambda x: np.full(x.shape, 0.1, x.dtype), shown), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} >= {".png"}
    assert all(path.stat().st_size > 0 for path in tmp_path.iterdir())
