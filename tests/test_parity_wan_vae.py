"""Our video VAE, stepped unit by unit, is diffusers' AutoencoderKLWan on whole clips, under either set of names."""

import functools
import inspect
import json
from typing import Any, NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from flax import nnx

from tests import public
from wanstreamer_jax.config import VideoVAEConfig
from wanstreamer_jax.convert.table import nested
from wanstreamer_jax.convert.wan_vae import FAMILY, from_diffusers, to_diffusers
from wanstreamer_jax.presets import WAN_VAE
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, Picture
from wanstreamer_jax.vae.video import VideoVAE

BOUND = 1e-4
PICTURE = Picture(32, 16)
OTHER_SIZE = {
    "base_dim": 16,
    "z_dim": 3,
    "dim_mult": [1, 2, 2, 4],
    "num_res_blocks": 1,
    "latents_mean": [0.5, -1.0, 2.0],
    "latents_std": [1.5, 0.5, 3.0],
}
VARIANTS = {"diffusers' names": {}, "Wan's names": {"original": True}, "another size": OTHER_SIZE}
N_FRAMES = [1, 5, 13]


class Pair(NamedTuple):
    """Diffusers' VAE, and ours with its weights."""

    theirs: Any
    config: VideoVAEConfig
    params: dict[str, Any]


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def pair(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("wan-vae")
    theirs = public.wan_vae(directory, **request.param)
    loaded = public.load("wan-vae", directory)
    if "original" in request.param:  # their converter has the last word, on another model than wrote the file
        theirs = as_diffusers_reads_it(loaded.tensors)
    return Pair(theirs, loaded.config, nested(loaded.params))


def as_diffusers_reads_it(tensors):
    """A model from tensors under Wan's own names, by diffusers' own converter."""
    model = diffusers.AutoencoderKLWan(base_dim=8)
    state = convert_wan_vae_to_diffusers({name: torch.tensor(np.asarray(x)) for name, x in tensors.items()})
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(requires_grad=False)


@functools.cache
def face(cfg, part, name):
    """A jitted face of the encoder or decoder; it takes the VAE's params first."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: VideoVAE(cfg, PICTURE, rngs=nnx.Rngs(0))))
    return jax.jit(
        lambda params, *args: getattr(getattr(nnx.merge(graph, params), part), name)(*args),
        compiler_options={"xla_backend_optimization_level": 0},  # compiles in a third of the time
    )


def stream(cfg, params, part, x):
    """A clip, run as it is live: the portrait, then unit by unit."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: VideoVAE(cfg, PICTURE, rngs=nnx.Rngs(0))))
    state = getattr(nnx.merge(graph, params), part).init_state(len(x))
    y, state = face(cfg, part, "first")(params, x[:, :1], state)
    outputs, size = [y], FRAMES_PER_UNIT if part == "encoder" else 1
    for start in range(1, x.shape[1], size):
        y, state = face(cfg, part, "step")(params, x[:, start : start + size], state)
        outputs.append(y)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *outputs)


def clip(n_frames):
    return jax.random.uniform(jax.random.key(2), (1, n_frames, PICTURE.height, PICTURE.width, 3), minval=-1)


def latents(cfg, n_frames):
    n = 1 + (n_frames - 1) // FRAMES_PER_UNIT
    return jax.random.normal(jax.random.key(1), (1, n, *PICTURE.latent_grid, cfg.latent_channels))


def channels_first(x):
    return torch.from_numpy(np.moveaxis(np.asarray(x, np.float32), -1, 1).copy())


def channels_last(x):
    return np.moveaxis(x.numpy(), 1, -1)


@pytest.mark.parametrize("n_frames", N_FRAMES)
def test_decode(pair, n_frames):
    """Our latents are normalised; theirs are not."""
    z = latents(pair.config, n_frames)
    raw = np.asarray(z) * pair.theirs.config.latents_std + pair.theirs.config.latents_mean
    expected = channels_last(pair.theirs.decode(channels_first(raw)).sample)
    assert expected.shape[1] == n_frames
    assert public.error(stream(pair.config, pair.params, "decoder", z), expected) <= BOUND


@pytest.mark.parametrize("n_frames", N_FRAMES)
def test_encode(pair, n_frames):
    """As above: what the published statistics normalise is the mean; the deviation is scaled with it."""
    x = clip(n_frames)
    theirs, settings = pair.theirs.encode(channels_first(x)).latent_dist, pair.theirs.config
    ours = stream(pair.config, pair.params, "encoder", x)
    mean = (channels_last(theirs.mean) - settings.latents_mean) / settings.latents_std
    assert public.error(ours.mean, mean) <= BOUND
    assert public.error(np.exp(0.5 * ours.log_variance), channels_last(theirs.std) / settings.latents_std) <= BOUND


def test_the_published_statistics_are_those_of_diffusers():
    settings = inspect.signature(diffusers.AutoencoderKLWan.__init__).parameters
    assert WAN_VAE.latent_mean == tuple(settings["latents_mean"].default)
    assert WAN_VAE.latent_std == tuple(settings["latents_std"].default)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("original", [False, True])
def test_there_and_back_is_the_same_bits(tmp_path, dtype, original):
    public.wan_vae(tmp_path / "x", dtype, original=original)
    loaded = public.load("wan-vae", tmp_path / "x")
    assert {str(x.dtype) for x in loaded.params.values()} == {dtype}
    public.assert_same_bits(public.given_back("wan-vae", loaded), loaded.tensors)
    if not original:
        params = from_diffusers(loaded.tensors, loaded.config, PICTURE)
        public.assert_same_bits(to_diffusers(params, loaded.config, PICTURE), loaded.tensors)


def test_theirs_reads_the_config_that_we_write(tmp_path):
    theirs = public.wan_vae(tmp_path / "x", **OTHER_SIZE)
    loaded = public.load("wan-vae", tmp_path / "x")
    again = public.rewritten("wan-vae", loaded, tmp_path / "again", diffusers.AutoencoderKLWan)
    x = channels_first(clip(5))
    assert torch.equal(again.encode(x).latent_dist.mean, theirs.encode(x).latent_dist.mean)
    assert torch.equal(again.decode(x[:, :, :1, :4, :4]).sample, theirs.decode(x[:, :, :1, :4, :4]).sample)
    assert all(theirs.config[name] == again.config[name] for name in ("latents_mean", "latents_std", "z_dim"))


@pytest.mark.parametrize("original", [False, True])
def test_all_offenders_are_in_one_error(tmp_path, original):
    public.wan_vae(tmp_path / "x", original=original)
    loaded = public.load("wan-vae", tmp_path / "x")
    conv_in, quant = ("encoder.conv1", "conv1") if original else ("encoder.conv_in", "quant_conv")
    tensors = dict(loaded.tensors)
    tensors["decoder.surplus.weight"] = tensors.pop(f"{conv_in}.weight")
    tensors |= {f"{quant}.bias": np.zeros(31, np.float32), f"{conv_in}.bias": np.zeros(8, np.int8)}
    assert public.offenders("wan-vae", loaded, tensors, (f"{quant}.weight",)) == [
        f"duplicate {quant}.weight",
        "unknown decoder.surplus.weight",
        f"missing {conv_in}.weight",
        *sorted(
            [
                f"{conv_in}.bias: int8, expected float32, bfloat16 or float16",
                f"{quant}.bias: shape (31,), expected (32,)",
            ]
        ),
    ]


def test_what_we_do_not_have_is_refused_all_at_once():
    tensors = {str(i): np.zeros(1, np.float32) for i in range(194)}
    raw = json.loads(json.dumps(FAMILY.write_config(WAN_VAE)))
    assert FAMILY.read_config(raw, tensors) == WAN_VAE
    wan22 = raw | {
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "decoder_base_dim": 256,
        "latents_std": [-1.0] * 16,
        "temperal_downsample": [True, True, True],
    }
    with pytest.raises(ValueError, match="not supported") as wrong:
        FAMILY.read_config(wan22, tensors)
    said = {line.strip().split(":")[0] for line in str(wrong.value).splitlines()[1:]}
    assert said == {name for name in wan22 if wan22[name] != raw.get(name)}


@pytest.mark.parametrize("lost", ["encoder.conv1.weight", "conv2.weight", "encoder.downsamples.2.resample.1.weight"])
def test_sizes_that_shapes_do_not_tell(lost):
    """A file alone, without what tells its sizes."""
    tensors = {entry.theirs: np.zeros((8, 1), np.float32) for entry in FAMILY.table(WAN_VAE, ["encoder.downsamples."])}
    del tensors[lost]
    with pytest.raises(ValueError, match=r"no Wan2\.1-VAE"):
        FAMILY.read_config({}, tensors)


def test_published_size():
    """Wan2.1-VAE: every channel of it on a tiny picture, a portrait and a unit."""
    model = diffusers.AutoencoderKLWan().eval().requires_grad_(requires_grad=False)
    public.draw(model)
    z = latents(WAN_VAE, 5)
    raw = np.asarray(z) * WAN_VAE.latent_std + WAN_VAE.latent_mean
    expected = channels_last(model.decode(channels_first(raw)).sample)
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    loaded = public.loaded("wan-vae", dict(model.config), tensors)
    assert loaded.config == WAN_VAE
    params = jax.tree.map(jnp.asarray, nested(loaded.params))
    assert public.error(stream(WAN_VAE, params, "decoder", z), expected) <= BOUND
