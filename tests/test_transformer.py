"""On text the Transformer is the same with latents beside it or without; and what adaLN and positions do."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import small
from tests.contract import assert_close
from wanstreamer_jax.layers import rope_angles, rope_frequencies, rotate
from wanstreamer_jax.model import Latents, wan_streamer
from wanstreamer_jax.stream.world import pack_world, prefill
from wanstreamer_jax.transformer import NOT_LATENT, Conditioning, FlowTime


def text_prefill(config, params, world):
    model = wan_streamer(config, params)
    (h, w), batch = config.picture.latent_grid, world.n_text.shape[0]
    nothing = Latents(
        jnp.zeros((batch, config.world.max_voice, config.audio_vae.latent_channels)),
        jnp.zeros((batch, h, w, config.video_vae.latent_channels)),
    )
    return prefill(model, pack_world(model, world, nothing))[0]


def test_text_is_not_touched_by_what_latents_are_given():
    config = small.small_config()
    params = small.small_params(config)
    n_text = (5, 3)
    without = small.a_world(config, n_text, n_voice=(0, 0), has_portrait=(False, False))
    beside = small.a_world(config, n_text, n_voice=(2, 3), has_portrait=(True, True))
    a, b = (text_prefill(config, params, world)[:, :3] for world in (without, beside))
    assert_close(a, b, 1e-6)


def test_adaln_moves_latents_of_its_kind_only():
    config = small.small_config()
    t = wan_streamer(config, small.small_params(config)).transformer
    x = jax.random.normal(jax.random.key(0), (1, 3, config.transformer.width))
    angles = jnp.zeros((1, 3, config.transformer.head_size // 2))
    kind = jnp.array([[NOT_LATENT, 1, 2]])

    def run(audio, video):
        rows = t.flow_rows(FlowTime(jnp.array([audio]), jnp.array([video])))
        return t(x, angles, Conditioning(rows, kind), lambda _, q, k, v: jnp.zeros_like(q))[0][0]

    moved = [
        [bool(jnp.any(a != b)) for a, b in zip(run(0.2, 0.3), run(*tau), strict=True)]
        for tau in [(0.9, 0.3), (0.2, 0.9)]
    ]
    assert moved == [[False, True, False], [False, False, True]]


def test_positions_of_hours_keep_the_angles_of_the_first_minute():
    cfg = small.small_config().transformer
    frequencies = rope_frequencies(cfg.head_size, cfg.rope_theta)
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, cfg.head_size))

    def score(start):
        angles = [
            jnp.asarray(
                rope_angles(np.array([[start + t, start + t + 2, start + t + 3]]), frequencies, cfg.rope_sections)
            )
            for t in (0, 17)
        ]
        return jnp.sum(rotate(q, angles[0][None]) * rotate(k, angles[1][None]))

    np.testing.assert_allclose(score(12_345_678), score(0), rtol=2e-6)
