"""Streaming a session unit by unit gives what one full-sequence pass gives: velocities, text, pixels and sound."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.contract import assert_close
from wanstreamer_jax.config import FlowConfig, HistoryConfig
from wanstreamer_jax.model import Latents, init_params, part, wan_streamer
from wanstreamer_jax.session import Noisy, Predicted, Session, forward
from wanstreamer_jax.stream import steps
from wanstreamer_jax.stream.types import Rendered, SessionState, Thought
from wanstreamer_jax.stream.world import encode_world, pack_world, to_float, world_tokens
from wanstreamer_jax.transformer import FlowTime
from wanstreamer_jax.vae.causal import reset_sessions

U = 7
ENDS = (11, 8)  # where the two worlds end in time
RTOL = 3e-5

# One solver step from noise: y = noise - velocity, so that streaming shows the velocity it used.
CONFIG = small.small_config(flow=FlowConfig(solver_steps=1))


class Streamed(NamedTuple):
    thoughts: list[Thought]
    noises: list[Latents]
    latents: list[Latents]
    rendered: list[Rendered]
    observed: list[Any]
    state: SessionState


def bound(config, step):
    return small.quick_jit(functools.partial(step, config))


@functools.cache
def jitted(config):
    return {f: bound(config, getattr(steps, f)) for f in steps.__all__}


def stream(config, seen, world, state=None, restart_at=None) -> Streamed:
    """Run the steps over units; at unit `restart_at` the second session ends and begins afresh."""
    run, params = jitted(config), small.small_params(config)
    fresh = run["begin"](params, world)
    state = fresh
    out = Streamed([], [], [], [], [], state)
    first = np.zeros(2, int)
    for k, u in enumerate(seen):
        if k == restart_at:
            ended = jnp.array([False, True])
            state = reset_sessions(state, fresh, ended)
            first[1] = k
        beat = merged_beats(config, k - first)
        observed, hearing = run["observe"](params, state.hearing, u)
        thought = run["think"](params, state.history, observed, state.response, beat)
        noise = run["unit_noise"](beat)
        response, history = run["perform"](params, state.history, thought.new, noise, beat)
        rendered, voice, face = run["render"](params, state.voice, state.face, response)
        state = SessionState(history, hearing, voice, face, response)
        for into, value in zip(out, (thought, noise, response, rendered, observed), strict=False):
            into.append(value)
    return out._replace(state=state)


def merged_beats(config, units):
    beats = [small.beat(config, int(k), ENDS) for k in units]
    return jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b[1:]]), *beats)


def in_one_pass(config, world, seen, streamed) -> Predicted:
    """The training forward over the session that was streamed, with its noise at flow time 1."""

    def run(params, world, session, noisy):
        model = wan_streamer(config, params)
        packed = pack_world(model, world, encode_world(config, params, world))
        tau = FlowTime(*(jnp.ones(session.n_user_text.shape) for _ in range(2)))
        alone = jnp.zeros(session.n_user_text.shape, bool)
        return forward(model, (packed, world_tokens(config, packed)), session, Noisy(noisy, tau, alone))

    session = Session(
        user_text=jnp.stack([u.text for u in seen], 1),
        n_user_text=jnp.stack([u.n_text for u in seen], 1),
        user_media=jnp.stack([o.media for o in streamed.observed], 1),
        agent_text=jnp.stack([t.text for t in streamed.thoughts], 1),
        n_agent_text=jnp.stack([t.n_text for t in streamed.thoughts], 1),
        clean=small.stacked(streamed.latents),
        start=jnp.stack([small.beat(config, k, ENDS).start for k in range(len(seen))], 1),
    )
    return small.quick_jit(run)(small.small_params(config), world, session, small.stacked(streamed.noises))


def log_probs_of(config, predicted, streamed):
    """Log-probability of each written token, masked where nothing was written."""
    ids = jnp.stack([t.text for t in streamed.thoughts], 1)
    written = jnp.arange(ids.shape[2]) < jnp.stack([t.n_text for t in streamed.thoughts], 1)[..., None]
    allowed = jnp.arange(predicted.text_logits.shape[-1]) <= config.text.unit_end
    scores = jax.nn.log_softmax(jnp.where(allowed, predicted.text_logits, -jnp.inf))
    return jnp.where(written, jnp.take_along_axis(scores, ids[..., None], -1)[..., 0], 0.0)


@pytest.mark.parametrize("n_tokens", [400, 60], ids=["nothing forgotten", "window wraps around"])
def test_streaming_equals_one_pass(n_tokens):
    config = dataclasses.replace(CONFIG, history=HistoryConfig(n_tokens=n_tokens))
    world, seen = small.a_world(config), small.observations(config, U)
    streamed = stream(config, seen, world)
    assert (int(jnp.max(streamed.state.history.n_committed)) > n_tokens) == (n_tokens == 60)
    predicted = in_one_pass(config, world, seen, streamed)
    velocities = jax.tree.map(jnp.subtract, small.stacked(streamed.noises), small.stacked(streamed.latents))
    assert_close(velocities, predicted.velocities, RTOL)
    assert_close(
        jnp.stack([t.log_probs for t in streamed.thoughts], 1), log_probs_of(config, predicted, streamed), RTOL
    )
    lengths = np.stack([t.n_text for t in streamed.thoughts])
    assert lengths.min() < lengths.max()  # units of different lengths were tried


def test_rendering_equals_decoding_whole():
    world, seen = small.a_world(CONFIG), small.observations(CONFIG, U)
    streamed = stream(CONFIG, seen, world)
    params = small.small_params(CONFIG)
    portrait = encode_world(CONFIG, params, world).video[:, None]
    video = jnp.concatenate([portrait, *[y.video[:, None] for y in streamed.latents]], axis=1)
    frames = part(CONFIG, params, "video_vae").decoder(video)[:, 1:]
    audio = jnp.concatenate([y.audio for y in streamed.latents], axis=1)
    samples = part(CONFIG, params, "audio_vae").decoder(audio)
    shown = to_float(jnp.concatenate([r.frames for r in streamed.rendered], axis=1))
    np.testing.assert_allclose(shown, jnp.clip(frames, -1, 1), atol=1.01 / 127.5)
    heard = jnp.concatenate([r.samples for r in streamed.rendered], axis=1)
    assert_close(heard, jnp.clip(samples, -1, 1), RTOL)


def test_future_may_be_nan():
    world, seen = small.a_world(CONFIG), small.observations(CONFIG, U)
    streamed = stream(CONFIG, seen, world)
    expected = in_one_pass(CONFIG, world, seen, streamed)
    middle = U // 2

    def poison(tree):
        return jax.tree.map(lambda x: x * jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    future = streamed._replace(
        observed=streamed.observed[:middle] + poison(streamed.observed[middle:]),
        latents=streamed.latents[:middle] + poison(streamed.latents[middle:]),
        noises=streamed.noises[:middle] + poison(streamed.noises[middle:]),
    )
    actual = in_one_pass(CONFIG, world, seen, future)
    past = jax.tree.map(lambda x: x[:, :middle], (actual, expected))
    assert_close(past[0], past[1], RTOL)
    assert not np.isfinite(actual.text_logits[:, middle:]).any()


def test_a_session_that_ends_does_not_touch_the_other():
    world, seen = small.a_world(CONFIG), small.observations(CONFIG, U)
    whole, middle = stream(CONFIG, seen, world), U // 2
    restarted = stream(CONFIG, seen, world, restart_at=middle)
    fresh = stream(CONFIG, seen[middle:], world)
    for k in range(U):
        assert_close(session(restarted.latents[k], 0), session(whole.latents[k], 0), RTOL)
    for k in range(middle, U):
        assert_close(session(restarted.latents[k], 1), session(fresh.latents[k - middle], 1), RTOL)
        np.testing.assert_array_equal(restarted.thoughts[k].text[1], fresh.thoughts[k - middle].text[1])


def test_two_runs_with_one_seed_are_equal_bit_for_bit():
    world, seen = small.a_world(CONFIG), small.observations(CONFIG, 3)
    a, b = (stream(CONFIG, seen, world) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, (a.latents, a.rendered), (b.latents, b.rendered))


def test_attention_never_copies_the_history():
    config = dataclasses.replace(CONFIG, history=HistoryConfig(n_tokens=60_000))
    params = jax.eval_shape(lambda: init_params(config, 0))
    state = jax.eval_shape(functools.partial(steps.begin, config), params, small.a_world(config))
    n_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.history))
    beat, seen = small.beat(config, 1, ENDS), small.observations(config, 1)[0]
    observed, _ = jax.eval_shape(functools.partial(steps.observe, config), params, state.hearing, seen)
    thought = jax.eval_shape(
        functools.partial(steps.think, config), params, state.history, observed, state.response, beat
    )
    think = jax.jit(functools.partial(steps.think, config)).lower(params, state.history, observed, state.response, beat)
    perform = jax.jit(functools.partial(steps.perform, config), donate_argnums=1)
    perform = perform.lower(params, state.history, thought.new, state.response, beat)
    for program in (think, perform):
        assert program.compile().memory_analysis().temp_size_in_bytes < n_bytes / 8
    assert perform.compile().memory_analysis().alias_size_in_bytes >= n_bytes  # given back where it was


def test_guidance_of_a_teacher_leaves_the_history_out():
    """With guidance g: velocity = unconditional + g (conditional - unconditional), the latter seeing the world."""
    world, seen = small.a_world(CONFIG), small.observations(CONFIG, 3)
    params = small.small_params(CONFIG)
    before = stream(CONFIG, seen, world)
    beat = small.beat(CONFIG, 3, ENDS)
    noise = jitted(CONFIG)["unit_noise"](beat)
    nothing = jax.tree.map(jnp.zeros_like, before.thoughts[-1].new)

    def velocity(guidance, history):
        config = dataclasses.replace(CONFIG, flow=dataclasses.replace(CONFIG.flow, guidance=guidance))
        latents, _ = bound(config, steps.perform)(params, history, nothing, noise, beat)
        return jax.tree.map(jnp.subtract, noise, latents)

    history = before.state.history
    conditional = velocity(1.0, history)
    unconditional = velocity(1.0, history._replace(n_committed=jnp.zeros(2, jnp.int32)))
    expected = jax.tree.map(lambda c, u: u + 3.0 * (c - u), conditional, unconditional)
    assert_close(velocity(3.0, history), expected, RTOL)


def session(tree, b):
    return jax.tree.map(lambda x: x[b : b + 1], tree)
