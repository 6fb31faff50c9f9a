"""The published sizes: token counts, parameter counts, and one unit at the full picture size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import small
from wanstreamer_jax.config import FlowConfig, HistoryConfig, WorldConfig
from wanstreamer_jax.convert import qwen3
from wanstreamer_jax.model import init_params
from wanstreamer_jax.presets import QWEN3, load_preset
from wanstreamer_jax.stream import steps
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT
from wanstreamer_jax.transformer import Transformer

# Parameters of the language models as published, without what the agent adds.
QWEN3_PARAMETERS = {"0.6b": 596_049_920, "1.7b": 1_720_574_976, "4b": 4_022_468_096, "8b": 8_190_735_360}


@pytest.mark.parametrize(("name", "n_video_tokens"), [("v01_192p", 252), ("v02_640x368", 920)])
def test_token_counts(name, n_video_tokens):
    config = load_preset(name)
    assert config.picture.n_tokens == n_video_tokens
    assert config.layout.n_agent_media == n_video_tokens + 2


@pytest.mark.parametrize("size", QWEN3)
def test_the_language_model_has_the_published_number_of_parameters(size):
    config = dataclasses.replace(load_preset("v02_640x368"), transformer=QWEN3[size])
    sizes = sizes_of(nnx.eval_shape(lambda: nnx.to_pure_dict(nnx.state(Transformer(config, rngs=nnx.Rngs(0))))))
    assert sum(sizes[entry.ours] for entry in qwen3.table(config.transformer)) == QWEN3_PARAMETERS[size]


def test_parts_have_the_published_sizes_and_dtypes():
    params = jax.eval_shape(lambda: init_params(load_preset("v01_192p"), 0))
    millions = {name: round(sum(sizes_of(tree).values()) / 1e6) for name, tree in params.items()}
    assert millions == {"transformer": 1753, "perception": 140, "video_vae": 127, "audio_vae": 80}
    assert {x.dtype for x in jax.tree.leaves(params["transformer"])} == {jnp.dtype(jnp.bfloat16)}


def sizes_of(tree) -> dict[str, int]:
    """Dotted path -> number of elements."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(str(k.key) for k in path): x.size for path, x in leaves}


@pytest.mark.parametrize("name", ["v01_192p", "v02_640x368"])
def test_one_unit_at_full_picture_size(name):
    full = load_preset(name)
    few = {"layers": 1, "width": 64, "mlp": 64}
    config = dataclasses.replace(
        full,
        video_vae=dataclasses.replace(full.video_vae, base=4, res_blocks=1),
        audio_vae=dataclasses.replace(full.audio_vae, filters=2, layers=1, width=64, mlp=64, latent_channels=8),
        hearing=dataclasses.replace(full.hearing, filters=2, layers=1, width=64, mlp=64, latent_channels=8),
        vision=dataclasses.replace(full.vision, heads=4, **few),
        transformer=dataclasses.replace(full.transformer, dtype="float32", vocab=151_680, **few),
        history=HistoryConfig(n_tokens=3000),
        world=WorldConfig(max_text=4, max_voice=2),
        flow=FlowConfig(solver_steps=1),
    )
    params = small.small_params(config)
    run = {f: jax.jit(functools.partial(getattr(steps, f), config)) for f in steps.__all__}
    world = small.a_world(config, n_text=(2,), n_voice=(1,), has_portrait=(True,))
    state = run["begin"](params, world)
    beat = small.beat(config, 0, (3,))
    observed, _ = run["observe"](params, state.hearing, small.observations(config, 1, batch=1)[0])
    thought = run["think"](params, state.history, observed, state.response, beat)
    latents, history = run["perform"](params, state.history, thought.new, run["unit_noise"](beat), beat)
    shown, _, _ = run["render"](params, state.voice, state.face, latents)
    assert shown.frames.shape == (1, FRAMES_PER_UNIT, full.picture.height, full.picture.width, 3)
    assert shown.samples.shape == (1, SAMPLES_PER_UNIT)
    assert np.isfinite(np.asarray(shown.samples)).all()
    assert int(history.n_committed[0]) == config.layout.n_user_media + int(thought.n_text[0])
