"""The video VAE: the streaming contract, and equality with diffusers' AutoencoderKLWan on the same weights."""

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
from wanstreamer_jax.convert.wan_vae import from_diffusers, to_diffusers
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, Picture
from wanstreamer_jax.vae.video import RMSNorm, VideoVAE, _silu

SIZES = {
    "narrow": (VideoVAEConfig(base=8, res_blocks=1, latent_channels=4), Picture(32, 16)),
    "normalised": (
        VideoVAEConfig(
            base=16,
            multipliers=(1, 2, 2, 4),
            latent_channels=3,
            latent_mean=(0.5, -1.0, 2.0),
            latent_std=(1.5, 0.5, 3.0),
        ),
        Picture(16, 32),
    ),
}
PARTS = ["encoder", "decoder"]
N_PUBLISHED_PARAMETERS = 126_892_531  # of Wan-AI/Wan2.1-T2V-1.3B-Diffusers/vae


class Faces(NamedTuple):
    """The faces of an encoder or decoder, jitted."""

    call: Callable[[Any], Any]
    init_state: Callable[[int], Any]
    first: Callable[[Any, Any], Any]
    step: Callable[[Any, Any], Any]


@functools.cache
def reference(size: str) -> Any:
    """Diffusers' VAE with random weights and, unlike a fresh one, random gains and biases."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    cfg, _ = SIZES[size]
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLWan(
        base_dim=cfg.base,
        z_dim=cfg.latent_channels,
        dim_mult=list(cfg.multipliers),
        num_res_blocks=cfg.res_blocks,
        latents_mean=list(cfg.latent_mean),
        latents_std=list(cfg.latent_std),
    )
    for name, parameter in vae.named_parameters():
        if parameter.squeeze().ndim <= 1:
            torch.nn.init.normal_(parameter, mean=float(name.endswith("gamma")), std=0.2)
    return vae.eval().requires_grad_(requires_grad=False)


def weights(size: str) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in reference(size).state_dict().items()}


@functools.cache
def abstract(size: str) -> tuple[Any, dict[str, Any]]:
    """The VAE's graph, and its params without their values."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: VideoVAE(*SIZES[size], rngs=nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(params)


@functools.cache
def faces(size: str, part: str) -> Faces:
    graphdef, _ = abstract(size)
    params = jax.tree.map(jnp.asarray, from_diffusers(weights(size), *SIZES[size]))

    def jitted(face: str) -> Callable[..., Any]:
        run = jax.jit(
            lambda params, *args: getattr(getattr(nnx.merge(graphdef, params), part), face)(*args),
            compiler_options={"xla_backend_optimization_level": 0},  # compiles in a third of the time
        )
        return functools.partial(run, params)

    module = getattr(nnx.merge(graphdef, params), part)
    return Faces(jitted("__call__"), module.init_state, jitted("first"), jitted("step"))


def latents(size: str, n: int, batch: int = 1) -> jax.Array:
    cfg, picture = SIZES[size]
    return jax.random.normal(jax.random.key(1), (batch, n, *picture.latent_grid, cfg.latent_channels))


def frames(size: str, n: int, batch: int = 1) -> jax.Array:
    _, picture = SIZES[size]
    return jax.random.uniform(jax.random.key(2), (batch, n, picture.height, picture.width, 3), minval=-1)


def clip(size: str, part: str, n_units: int, batch: int = 1) -> jax.Array:
    """What a part reads: a portrait and so many units."""
    if part == "encoder":
        return frames(size, 1 + FRAMES_PER_UNIT * n_units, batch)
    return latents(size, 1 + n_units, batch)


def units(part: str, x: jax.Array) -> list[jax.Array]:
    """The units of a clip, without its portrait."""
    n_units = (x.shape[1] - 1) // FRAMES_PER_UNIT if part == "encoder" else x.shape[1] - 1
    return jnp.split(x[:, 1:], n_units, axis=1) if n_units else []


def stream(size: str, part: str, x: jax.Array) -> Any:
    """A clip, run as it is live: the portrait, then unit by unit."""
    run = faces(size, part)
    y, state = run.first(x[:, :1], run.init_state(x.shape[0]))
    outputs = [y]
    for unit in units(part, x):
        y, state = run.step(unit, state)
        outputs.append(y)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *outputs)


@pytest.mark.parametrize("part", PARTS)
def test_contract_after_the_portrait(part):
    run = faces("narrow", part)
    x = clip("narrow", part, n_units=4, batch=2)
    portrait = x[:, :1]

    def after_portrait(batch: int) -> Any:
        return run.first(portrait[:batch], run.init_state(batch))[1]

    def call(rest: jax.Array) -> Any:
        return run.step(rest, after_portrait(rest.shape[0]))[0]

    verify_contract(Part(call, after_portrait, run.step), units(part, x))


@pytest.mark.parametrize("part", PARTS)
def test_whole_clip_is_portrait_then_units(part):
    x = clip("narrow", part, n_units=3, batch=2)
    assert_close(stream("narrow", part, x), faces("narrow", part).call(x), rtol=2e-5)


@pytest.mark.parametrize("part", PARTS)
def test_portrait_keeps_the_shape_of_the_state(part):
    run = faces("narrow", part)
    before = run.init_state(2)
    _, after = run.first(clip("narrow", part, n_units=0, batch=2), before)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, before)


@pytest.mark.parametrize("n_units", [0, 1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_decode_equals_diffusers(size, n_units):
    torch = pytest.importorskip("torch")
    cfg, _ = SIZES[size]
    z = clip(size, "decoder", n_units, batch=2)
    raw = np.asarray(z) * (cfg.latent_std or 1) + np.asarray(cfg.latent_mean or 0)
    theirs = reference(size).decode(torch.tensor(channels_first(raw))).sample.numpy()
    assert_close(stream(size, "decoder", z), channels_last(theirs), rtol=1e-5)


@pytest.mark.parametrize("n_units", [0, 1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_encode_equals_diffusers(size, n_units):
    torch = pytest.importorskip("torch")
    cfg, _ = SIZES[size]
    x = clip(size, "encoder", n_units, batch=2)
    theirs = reference(size).encode(torch.tensor(channels_first(x))).latent_dist
    mean = (channels_last(theirs.mean.numpy()) - (cfg.latent_mean or 0)) / (cfg.latent_std or 1)
    log_variance = channels_last(theirs.logvar.numpy()) - 2 * np.log(cfg.latent_std or 1)
    assert_close(tuple(stream(size, "encoder", x)), (mean, log_variance), rtol=1e-5)


def channels_first(x: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(x, np.float32), -1, 1)


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def test_published_size():
    vae = nnx.eval_shape(lambda: VideoVAE(VideoVAEConfig(), Picture(336, 192), rngs=nnx.Rngs(0)))
    assert sum(p.size for p in jax.tree.leaves(nnx.state(vae))) == N_PUBLISHED_PARAMETERS


def test_frames_must_fill_units():
    run = faces("narrow", "encoder")
    with pytest.raises(ValueError, match="3 is no multiple of 4"):
        run.step(frames("narrow", 3), run.init_state(1))


def test_pixel_out_of_range_is_clamped_and_still_learns():
    graphdef, _ = abstract("narrow")
    params = from_diffusers(weights("narrow"), *SIZES["narrow"])
    head = params["decoder"]["trunk"]["layers"][max(params["decoder"]["trunk"]["layers"])]["conv_out"]

    def decode(bias: jax.Array) -> jax.Array:
        head["bias"] = bias
        return nnx.merge(graphdef, jax.tree.map(jnp.asarray, params)).decoder(latents("narrow", 1)).mean()

    brightness, gradient = jax.jit(jax.value_and_grad(decode))(jnp.full(3, 100.0))
    np.testing.assert_allclose(brightness, 1, rtol=1e-5)
    np.testing.assert_allclose(gradient, 1 / 3, rtol=1e-5)


@pytest.mark.parametrize("pixel", [0.0, 1e4, -1e4])
def test_gradients_are_finite_at_blank_and_extreme_pixels(pixel):
    x = jnp.full(4, pixel)
    for f in (RMSNorm(4), _silu):
        assert jnp.isfinite(jax.grad(lambda x, f=f: f(x).sum())(x)).all()


def test_weights_there_and_back_are_the_same_bits():
    cfg, picture = SIZES["normalised"]
    theirs = weights("normalised")
    back = to_diffusers(from_diffusers(theirs, cfg, picture), cfg, picture)
    assert back.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(back[name], tensor, strict=True)


def test_weights_have_the_structure_of_the_module():
    _, params = abstract("narrow")
    loaded = from_diffusers(weights("narrow"), *SIZES["narrow"])
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, params)


def test_every_wrong_tensor_is_named_in_one_error():
    theirs = weights("narrow")
    theirs["decoder.surplus.weight"] = theirs.pop("decoder.conv_in.weight")
    theirs["quant_conv.bias"] = theirs["quant_conv.bias"][:-1]
    with pytest.raises(ValueError, match="not of this configuration") as error:
        from_diffusers(theirs, *SIZES["narrow"])
    for offender in ("unknown decoder.surplus.weight", "missing decoder.conv_in.weight", "quant_conv.bias: shape"):
        assert offender in str(error.value)
