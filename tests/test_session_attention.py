"""Attention of a session: blocks change nothing, cost follows what is visible, without condition only the world is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.contract import assert_close
from wanstreamer_jax import session_attention
from wanstreamer_jax.attention import Tokens
from wanstreamer_jax.config import HistoryConfig
from wanstreamer_jax.model import Latents, wan_streamer
from wanstreamer_jax.session import Noisy, Session, forward
from wanstreamer_jax.session_attention import HERE, Spans, reach_of_window
from wanstreamer_jax.session_attention import session_attention as attention
from wanstreamer_jax.stream.world import pack_world, world_tokens
from wanstreamer_jax.transformer import FlowTime

U = 5


def config_of(window=60):
    base = small.small_config()
    return dataclasses.replace(base, history=HistoryConfig(n_tokens=window))


def a_session(config, n_units=U, seed=0) -> tuple[Session, Noisy]:
    rng = np.random.default_rng(seed)
    layout, (h, w) = config.layout, config.picture.latent_grid

    def normal(*shape):
        return jnp.asarray(rng.normal(size=(2, n_units, *shape)), jnp.float32)

    def latents():
        audio = normal(layout.n_agent_audio, config.audio_vae.latent_channels)
        return Latents(audio, normal(h, w, config.video_vae.latent_channels))

    def ids(most):
        return jnp.asarray(rng.integers(0, config.text.unit_end, (2, n_units, most)), jnp.int32)

    session = Session(
        user_text=ids(layout.max_user_text),
        n_user_text=jnp.asarray(rng.integers(0, layout.max_user_text + 1, (2, n_units)), jnp.int32),
        user_media=normal(layout.n_user_media, config.transformer.width),
        agent_text=ids(layout.max_agent_text),
        n_agent_text=jnp.asarray(rng.integers(1, layout.max_agent_text + 1, (2, n_units)), jnp.int32),
        clean=latents(),
        start=jnp.stack([small.beat(config, k, (5, 3)).start for k in range(n_units)], 1),
    )
    tau = FlowTime(*(jnp.asarray(rng.uniform(size=(2, n_units)), jnp.float32) for _ in range(2)))
    return session, Noisy(latents(), tau, jnp.zeros((2, n_units), bool))


def run(config, remat, params, session, noisy):
    model = wan_streamer(config, params)
    world = small.a_world(config)
    (h, w), max_voice = config.picture.latent_grid, config.world.max_voice
    voice = jnp.ones((2, max_voice, config.audio_vae.latent_channels))
    packed = pack_world(model, world, Latents(voice, jnp.ones((2, h, w, config.video_vae.latent_channels))))
    return forward(model, (packed, world_tokens(config, packed)), session, noisy, remat=remat)


def predict(config, session, noisy):
    return small.quick_jit(functools.partial(run, config, False))(small.small_params(config), session, noisy)


@pytest.mark.parametrize("block", [1, 200])
@pytest.mark.parametrize("window", [60, 400])
def test_blocks_change_nothing(monkeypatch, block, window):
    config = config_of(window)
    inputs = a_session(config)
    whole = predict(config, *inputs)
    monkeypatch.setattr(session_attention, "BLOCK", block)
    assert_close(predict(config, *inputs), whole, 2e-6)


@pytest.mark.parametrize("n_units", [3, 9])
def test_the_window_reaches_no_further_than_said(n_units):
    """However few tokens its commits hold, a window of W tokens ends within `reach` commits."""
    layout = small.small_config().layout
    fewest = layout.n_agent_media + layout.n_user_media + 1
    for window in range(1, 4 * fewest):
        reach = reach_of_window(layout, window)
        commits = [fewest - layout.n_agent_media] + [fewest] * (n_units - 1)  # the first has no response
        before = np.cumsum([0, *commits])
        for k in range(n_units):
            oldest = max(0, before[k] - window)
            assert np.searchsorted(before, oldest, side="right") - 1 >= k - reach


def test_gradients_are_the_same_when_layers_are_computed_again():
    config = config_of()
    inputs = a_session(config)

    def loss(params, remat):
        return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(run(config, remat, params, *inputs)))

    params = {"transformer": small.small_params(config)["transformer"]}
    kept, again = (small.quick_jit(jax.grad(loss), static_argnums=1)(params, remat) for remat in (False, True))
    assert_close(again, kept, 1e-5)


def test_alone_sees_the_world_and_itself():
    config = config_of()
    session, noisy = a_session(config)
    other, _ = a_session(config, seed=1)
    other = other._replace(start=session.start)
    alone = noisy._replace(alone=jnp.ones((2, U), bool).at[0, 2].set(False))  # all units but one
    a, b = (predict(config, x, alone).velocities for x in (session, other))
    differs = [np.max(np.abs(x - y), axis=tuple(range(2, x.ndim))) > 1e-6 for x, y in zip(a, b, strict=True)]
    for moved in differs:
        assert moved[0, 2]
        assert moved.sum() == 1
    neighbour = noisy._replace(latents=jax.tree.map(lambda z: z.at[:, 1].add(1.0), noisy.latents), alone=alone.alone)
    c = predict(config, session, neighbour).velocities
    for x, y in zip(a, c, strict=True):
        np.testing.assert_array_equal(x[:, [0, 2, 3, 4]], y[:, [0, 2, 3, 4]])


@pytest.mark.parametrize("block", [1, 200])
def test_noisy_copies_of_a_unit_are_as_if_each_were_alone(monkeypatch, block):
    monkeypatch.setattr(session_attention, "BLOCK", block)
    config = config_of()
    session, _ = a_session(config)
    each = [a_session(config, seed=seed)[1] for seed in range(3)]
    each[1] = each[1]._replace(alone=each[1].alone.at[:, 2].set(True))
    together = jax.tree.map(lambda *x: jnp.stack(x, axis=2).reshape(2, 3 * U, *x[0].shape[2:]), *each)
    predicted = predict(config, session, together)
    for i, one in enumerate(each):
        expected = predict(config, session, one)
        assert_close(jax.tree.map(lambda x, i=i: x[:, i::3], predicted.velocities), expected.velocities, 2e-6)
        assert_close(predicted.text_logits, expected.text_logits, 2e-6)


def test_more_units_cost_the_same_each_once_the_window_is_full(monkeypatch):
    monkeypatch.setattr(session_attention, "BLOCK", 1)
    base = small.small_config()
    config = dataclasses.replace(base, history=HistoryConfig(n_tokens=base.layout.n_slice))

    def cost(n_units):
        spans = Spans(config.n_world, config.layout.n_slice, config.layout.n_agent_media, n_units)
        ones = jnp.ones((1, spans.n_slots), jnp.int32)
        rule = Tokens(ones, ones, ones, 0 * ones, ones > 0, ones)
        see = attention(spans, rule, ones > 1, config, HERE, cut=False)
        x = jnp.ones((1, 2, spans.n_slots, 16))
        loss = jax.grad(lambda q, k, v: jnp.sum(see(0, q.swapaxes(1, 2), k, v)), argnums=(0, 1, 2))
        program = jax.jit(loss).lower(x, x, x).compile()
        return np.array([program.cost_analysis()["flops"], program.memory_analysis().temp_size_in_bytes])

    few, more, most = cost(6), cost(12), cost(18)
    assert np.all(most - more < 1.05 * (more - few))
