"""The stage over sessions: its loss is what the streaming steps would have lost, on any mesh, and it learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.contract import assert_close
from tests.session_cases import U, agent_config, batch_of, learned, program_on, session_batch
from tests.test_session import CONFIG, ENDS, jitted, stream
from wanstreamer_jax.cache import append, n_valid
from wanstreamer_jax.data.world import Kind
from wanstreamer_jax.flow import noised, velocity
from wanstreamer_jax.model import Latents, wan_streamer
from wanstreamer_jax.session import Session
from wanstreamer_jax.stream import steps
from wanstreamer_jax.stream.placement import start_angles
from wanstreamer_jax.stream.world import encode_world, pack_world, world_tokens
from wanstreamer_jax.training.config import (
    DialogueWeights,
    MeshShape,
    OptimizerConfig,
    SessionWeights,
    Training,
)
from wanstreamer_jax.training.sharding import make_mesh, put_batch
from wanstreamer_jax.training.stages import interact
from wanstreamer_jax.training.stages.sessions import Window, Windows, records_of
from wanstreamer_jax.training.step import Program
from wanstreamer_jax.transformer import FlowTime

MESHES = [(8, 1, 1), (2, 2, 2), (1, 8, 1), (1, 1, 4)]


def test_dialogues_come_as_often_as_they_are_asked_for_and_held_out_ones_evenly():
    none = DialogueWeights(**dict.fromkeys(Kind, 0.0))
    weights = SessionWeights(units=U, seconds=12.0, dialogues=dataclasses.replace(none, greeting=2.0, typed=1.0))
    training = Training(weights=weights, samples=12)
    for heldout, expected in ((False, {Kind.GREETING, Kind.TYPED}), (True, set(Kind))):
        records, _ = records_of(agent_config(), training, heldout, None)
        kinds = {turn["kind"] for i in range(12) for turn in records[i].labels["turns"]}
        assert kinds <= expected
        assert len(kinds) > (1 if not heldout else 6)


def test_every_other_window_stands_as_late_as_if_the_two_had_talked_before():
    config = agent_config()
    records, layout = records_of(config, Training(weights=SessionWeights(units=U, seconds=6.0), samples=1), False, None)
    window, record = Window(config, layout, U), records[0]
    samples = [window(record, np.random.default_rng(i)) for i in range(60)]
    world_end = int(samples[0]["n_persona"]) + int(samples[0]["n_voice"])
    own = start_angles(config, world_end + np.arange(record.n_units) * config.layout.advance)
    stands = [np.any(np.all(np.isclose(own, sample["start"][0], atol=1e-4), axis=1)) for sample in samples]
    assert 15 < np.sum(stands) < 45
    assert len({tuple(sample["start"][0]) for sample in samples}) > 15


# ---- The loss


def test_the_loss_is_what_the_streaming_steps_lose_unit_by_unit():
    params, world, seen = small.small_params(CONFIG), small.a_world(CONFIG), small.observations(CONFIG, U)
    streamed = stream(CONFIG, seen, world)
    session = Session(
        user_text=jnp.stack([u.text for u in seen], 1),
        n_user_text=jnp.stack([u.n_text for u in seen], 1),
        user_media=jnp.stack([o.media for o in streamed.observed], 1),
        agent_text=jnp.stack([t.text for t in streamed.thoughts], 1),
        n_agent_text=jnp.stack([t.n_text for t in streamed.thoughts], 1),
        clean=small.stacked(streamed.latents),
        start=jnp.stack([small.beat(CONFIG, k, ENDS).start for k in range(U)], 1),
    )
    noise = small.quick_jit(interact.draw_noise)(jax.random.key(5), session.clean)
    tau = interact.draw_times(jax.random.key(6), CONFIG.flow, (2, U), coupled=0.5)
    batch = {f"loss_{name}": jnp.ones((2, U)) for name in ("text", "audio", "video")} | {"unit_mask": jnp.ones((2, U))}

    @small.quick_jit
    def whole(params, session, noise, tau):
        model, latents = wan_streamer(CONFIG, params), encode_world(CONFIG, params, world)
        packed = pack_world(model, world, latents)
        windows = Windows(model, (packed, world_tokens(CONFIG, packed)), session, latents.video)
        points = noised(session.clean, noise, Latents(*tau))
        predicted = interact.predict(windows, points, tau, jnp.zeros((2, U), bool))
        return interact.losses(CONFIG, predicted, noise, windows, batch)[0]

    actual = whole(params, session, noise, tau)
    text = -sum(float(jnp.sum(t.log_probs)) for t in streamed.thoughts) / (2 * U)
    errors = []
    history = jitted(CONFIG)["begin"](params, world).history
    for k, thought in enumerate(streamed.thoughts):
        history = append(history, thought.new, CONFIG.history.n_tokens)
        start, clean = small.beat(CONFIG, k, ENDS).start, streamed.latents[k]
        own = Latents(*(z[:, k] for z in noise)), FlowTime(*(t[:, k] for t in tau))
        found = unit_errors(params, history, start, clean, *own)
        errors.append({name: float(x) for name, x in found._asdict().items()})
    expected = {"text": text} | {name: np.mean([e[name] for e in errors]) for name in ("audio", "video")}
    assert_close({n: float(x) for n, x in actual.items()}, expected, 1e-4)


@small.quick_jit
def unit_errors(params, history, start, clean, noise, tau):
    """The flow matching losses of a unit by the performer's own velocity, with the history that it had."""
    model = wan_streamer(CONFIG, params)
    z = model.patchify(noised(clean, noise, Latents(*tau)))
    angles = start[:, None] + model.angles(CONFIG.layout.agent_media_positions())[None]
    length = n_valid(history, CONFIG.history.n_tokens)
    v = model.unpatchify(steps.latent_velocity(model, history, length, z, tau, angles, steps.WHOLE))
    return jax.tree.map(lambda a, b: jnp.mean(jnp.square(a - b)), v, velocity(clean, noise))


def test_the_loss_of_several_noisy_copies_is_the_mean_of_theirs():
    config, batch = agent_config(), batch_of(U)
    params = small.small_params(config)

    @small.quick_jit
    def terms(params, batch, noise, tau):
        seen = interact.windows(config, params, batch)
        clean = interact.in_copies(seen.session.clean, noise.audio.shape[1] // U)
        points = noised(clean, noise, Latents(*tau))
        predicted = interact.predict(seen, points, tau, jnp.zeros(tau.audio.shape, bool))
        return interact.losses(config, predicted, noise, seen, batch)[0]

    clean = jax.eval_shape(lambda: interact.windows(config, params, batch).session.clean)
    noises = [interact.draw_noise(jax.random.key(i), clean) for i in range(2)]
    times = [interact.draw_times(jax.random.key(9 + i), config.flow, (2, U), coupled=0.5) for i in range(2)]
    both = [
        jax.tree.map(lambda a, b: jnp.stack([a, b], 2).reshape(2, 2 * U, *a.shape[2:]), *x) for x in (noises, times)
    ]
    expected = jax.tree.map(
        lambda a, b: (a + b) / 2, *(terms(params, batch, *drawn) for drawn in zip(noises, times, strict=True))
    )
    assert_close(terms(params, batch, *both), expected, 1e-5)


def test_what_moves_counts_more_and_the_picture_as_a_whole_as_much():
    video = jnp.zeros((1, 3, 2, 4, 5)).at[0, 1:, 0, 1].set(1.0)  # in unit 1 one place of eight moves
    np.testing.assert_array_equal(interact.motion_shares(video, 0.0), 1.0)
    shares = np.asarray(interact.motion_shares(video, 3.0))[0, ..., 0]
    np.testing.assert_allclose(shares.mean(axis=(1, 2)), 1.0, rtol=1e-6)
    np.testing.assert_allclose(shares[[0, 2]], 1.0)
    assert shares[1, 0, 1] > 10 * shares[1, 1, 1] > 0


def test_senses_that_stay_leave_the_rest_of_the_gradient_as_it_is():
    config, batch = agent_config(), batch_of(U)
    params = small.small_params(config)
    trees = {interact.AGENT: {name: params[name] for name in interact.TRAINED}}, params
    updates = []
    for senses in (1.0, 0.0):
        training = Training(weights=SessionWeights(units=U), optimizer=OptimizerConfig(senses=senses), remat="nothing")
        program = Program(interact.stage, config, training, make_mesh(MeshShape(data=1)))
        run = small.quick_jit(functools.partial(program.differentiate, *interact.objectives(training)))
        updates.append(run(*trees, batch, jax.random.key(0)).gradient)
    assert_close(updates[1]["transformer"], updates[0]["transformer"], 1e-6)
    norms = [sum(float(jnp.sum(jnp.abs(x))) for x in jax.tree.leaves(g["perception"])) for g in updates]
    assert norms[0] > 0 == norms[1]


def test_streams_that_are_not_there_weigh_nothing():
    batch = batch_of(U)
    params = small.small_params(agent_config())
    trainees = {"agent": {name: params[name] for name in interact.TRAINED}}
    loss = small.quick_jit(
        lambda b: interact.interaction(agent_config(), SessionWeights(), trainees, params, b, jax.random.key(0))[1]
    )
    silent = batch | {"loss_audio": jnp.zeros_like(batch["loss_audio"])}
    full, without = loss(batch), loss(silent)
    assert without["audio"] == 0
    assert (without["video"], without["text"]) == (full["video"], full["text"])
    halved = loss(batch | {"loss_video": batch["loss_video"] / 2})
    np.testing.assert_allclose(halved["video"], full["video"] / 2, rtol=1e-6)


def test_a_noisy_past_changes_what_is_written_and_nothing_of_what_is_to_be_made():
    batch = batch_of(U)
    params = small.small_params(agent_config())
    trainees = {"agent": {name: params[name] for name in interact.TRAINED}}

    def terms(history_noise):
        weights = SessionWeights(alone=1.0, history_noise=history_noise)  # latents see the world only
        return interact.interaction(agent_config(), weights, trainees, params, batch, jax.random.key(0))[1]

    exactly, noisily = (small.quick_jit(functools.partial(terms, latest))() for latest in (0.0, 0.5))
    assert (noisily["audio"], noisily["video"]) == (exactly["audio"], exactly["video"])
    assert noisily["text"] != exactly["text"]


def test_times_are_the_solvers_or_separate():
    flow = dataclasses.replace(CONFIG.flow, audio_shift=1.0, video_shift=3.0)
    tau = interact.draw_times(jax.random.key(0), flow, (4000, 1), coupled=0.25)
    on_solver = np.isclose(tau.video, 3 * tau.audio / (1 + 2 * tau.audio), atol=1e-6)
    assert abs(on_solver.mean() - 0.25) < 0.03
    assert min(tau.audio.min(), tau.video.min()) >= 0
    assert max(tau.audio.max(), tau.video.max()) <= 1


# ---- On meshes


def update_on(shape):
    program = program_on(shape)
    params = small.small_params(agent_config())
    frozen = {name: params[name] for name in interact.FROZEN}
    trainees = {"agent": {name: params[name] for name in interact.TRAINED}}
    batch = put_batch(session_batch(n_units=U), jax.NamedSharding(program.mesh, jax.P(interact.stage.batch_axes)))
    run = small.quick_jit(lambda t, f, b: program.accumulate(program.objectives[0], t, f, b, jax.random.key(1)))
    return jax.tree.map(np.asarray, run(trainees, frozen, batch))


@functools.cache
def update_on_one_device():
    return update_on((1, 1, 1))


@pytest.mark.parametrize("shape", MESHES)
def test_loss_and_gradients_are_the_same_on_every_mesh(shape):
    expected, actual = update_on_one_device(), update_on(shape)
    np.testing.assert_allclose(actual.metrics["loss"], expected.metrics["loss"], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(actual.gradient), jax.tree.leaves(expected.gradient), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * max(np.linalg.norm(b), 1e-3)


# ---- It learns


def test_interact_learns_a_small_set():
    _, _, logged = learned(interact.stage, SessionWeights(units=U), batch_of(U), n_steps=150, rate=1e-2)
    first, last = (np.mean([m["agent/loss"] for m in part]) for part in (logged[:5], logged[-5:]))
    assert last < first / 3
    assert np.mean([m["agent/text"] for m in logged[-5:]]) < 1.0
