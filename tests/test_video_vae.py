"""The video VAE: the streaming contract, and pixels and gradients at their bounds."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.contract import Part, assert_close, verify_contract
from wanstreamer_jax.config import VideoVAEConfig
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, Picture
from wanstreamer_jax.vae.video import RMSNorm, VideoVAE, _silu

CFG, PICTURE = VideoVAEConfig(base=8, res_blocks=1, latent_channels=4), Picture(32, 16)
PARTS = ["encoder", "decoder"]
N_PUBLISHED_PARAMETERS = 126_892_531  # of Wan-AI/Wan2.1-T2V-1.3B-Diffusers/vae


class Faces(NamedTuple):
    """The faces of an encoder or decoder, jitted."""

    call: Callable[[Any], Any]
    init_state: Callable[[int], Any]
    first: Callable[[Any, Any], Any]
    step: Callable[[Any, Any], Any]


def weights() -> dict[str, Any]:
    """Noise for every parameter, gains and biases included."""
    rng = np.random.default_rng(0)

    def draw(path: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.standard_normal(like.shape, np.float32)
        if len(like.shape) == 1:
            return jnp.asarray(float(path[-1].key == "gain") + 0.2 * noise)
        return jnp.asarray(noise * np.prod(like.shape[:-1]) ** -0.5)

    return jax.tree_util.tree_map_with_path(draw, abstract()[1])


@functools.cache
def abstract() -> tuple[Any, dict[str, Any]]:
    """The VAE's graph, and its params without their values."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: VideoVAE(CFG, PICTURE, rngs=nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(params)


@functools.cache
def faces(part: str) -> Faces:
    graphdef, _ = abstract()
    params = weights()

    def jitted(face: str) -> Callable[..., Any]:
        run = jax.jit(
            lambda params, *args: getattr(getattr(nnx.merge(graphdef, params), part), face)(*args),
            compiler_options={"xla_backend_optimization_level": 0},  # compiles in a third of the time
        )
        return functools.partial(run, params)

    module = getattr(nnx.merge(graphdef, params), part)
    return Faces(jitted("__call__"), module.init_state, jitted("first"), jitted("step"))


def latents(n: int, batch: int = 1) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (batch, n, *PICTURE.latent_grid, CFG.latent_channels))


def frames(n: int, batch: int = 1) -> jax.Array:
    return jax.random.uniform(jax.random.key(2), (batch, n, PICTURE.height, PICTURE.width, 3), minval=-1)


def clip(part: str, n_units: int, batch: int = 1) -> jax.Array:
    """What a part reads: a portrait and so many units."""
    if part == "encoder":
        return frames(1 + FRAMES_PER_UNIT * n_units, batch)
    return latents(1 + n_units, batch)


def units(part: str, x: jax.Array) -> list[jax.Array]:
    """The units of a clip, without its portrait."""
    n_units = (x.shape[1] - 1) // FRAMES_PER_UNIT if part == "encoder" else x.shape[1] - 1
    return jnp.split(x[:, 1:], n_units, axis=1) if n_units else []


def stream(part: str, x: jax.Array) -> Any:
    """A clip, run as it is live: the portrait, then unit by unit."""
    run = faces(part)
    y, state = run.first(x[:, :1], run.init_state(x.shape[0]))
    outputs = [y]
    for unit in units(part, x):
        y, state = run.step(unit, state)
        outputs.append(y)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *outputs)


@pytest.mark.parametrize("part", PARTS)
def test_contract_after_the_portrait(part):
    run = faces(part)
    x = clip(part, n_units=4, batch=2)
    portrait = x[:, :1]

    def after_portrait(batch: int) -> Any:
        return run.first(portrait[:batch], run.init_state(batch))[1]

    def call(rest: jax.Array) -> Any:
        return run.step(rest, after_portrait(rest.shape[0]))[0]

    verify_contract(Part(call, after_portrait, run.step), units(part, x))


@pytest.mark.parametrize("part", PARTS)
def test_whole_clip_is_portrait_then_units(part):
    x = clip(part, n_units=3, batch=2)
    assert_close(stream(part, x), faces(part).call(x), rtol=2e-5)


@pytest.mark.parametrize("part", PARTS)
def test_portrait_keeps_the_shape_of_the_state(part):
    run = faces(part)
    before = run.init_state(2)
    _, after = run.first(clip(part, n_units=0, batch=2), before)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, before)


def test_published_size():
    vae = nnx.eval_shape(lambda: VideoVAE(VideoVAEConfig(), Picture(336, 192), rngs=nnx.Rngs(0)))
    assert sum(p.size for p in jax.tree.leaves(nnx.state(vae))) == N_PUBLISHED_PARAMETERS


def test_frames_must_fill_units():
    run = faces("encoder")
    with pytest.raises(ValueError, match="3 is no multiple of 4"):
        run.step(frames(3), run.init_state(1))


def test_pixel_out_of_range_is_clamped_and_still_learns():
    graphdef, _ = abstract()
    params = weights()
    head = params["decoder"]["trunk"]["layers"][max(params["decoder"]["trunk"]["layers"])]["conv_out"]

    def decode(bias: jax.Array) -> jax.Array:
        head["bias"] = bias
        return nnx.merge(graphdef, params).decoder(latents(1)).mean()

    brightness, gradient = jax.jit(jax.value_and_grad(decode))(jnp.full(3, 100.0))
    np.testing.assert_allclose(brightness, 1, rtol=1e-5)
    np.testing.assert_allclose(gradient, 1 / 3, rtol=1e-5)


@pytest.mark.parametrize("pixel", [0.0, 1e4, -1e4])
def test_gradients_are_finite_at_blank_and_extreme_pixels(pixel):
    x = jnp.full(4, pixel)
    for f in (RMSNorm(4), _silu):
        assert jnp.isfinite(jax.grad(lambda x, f=f: f(x).sum())(x)).all()
