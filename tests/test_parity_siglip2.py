"""Our sight is Transformers' SigLIP2 vision tower of fixed resolution, patch by patch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from einops import rearrange
from flax import nnx

from tests import public
from wanstreamer_jax.config import VisionConfig
from wanstreamer_jax.convert import siglip2
from wanstreamer_jax.convert.siglip2 import FAMILY, vision_from_siglip2, vision_to_siglip2
from wanstreamer_jax.convert.table import nested
from wanstreamer_jax.perception import VisionTower
from wanstreamer_jax.timeline import Picture

BOUND = 1e-5
WIDTH = 24
LEFT_BEHIND = ("vision_model.head.", "head.", "text_model.", "logit_")


@pytest.fixture(scope="module", params=[True, False], ids=["whole", "tower alone"])
def pair(request, tmp_path_factory):
    """Their tower, and its checkpoint: names begin with vision_model. in that of a whole SigLIP2."""
    directory = tmp_path_factory.mktemp("siglip2")
    theirs = public.siglip2(directory, whole=request.param, patch_size=8)
    return theirs, public.load("siglip2", directory)


def features(cfg, tower_params, frames):
    graph, _ = nnx.split(nnx.eval_shape(lambda: VisionTower(cfg, rngs=nnx.Rngs(0))))
    return jax.jit(lambda params, x: nnx.merge(graph, params)(x))(tower_params, frames)


def noise(cfg, n_frames):
    shape = (n_frames, cfg.picture.height, cfg.picture.width, 3)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def their_features(model, frames):
    with torch.no_grad():
        return model(pixel_values=torch.tensor(np.moveaxis(frames, -1, 1))).last_hidden_state.numpy()


def test_patch_features(pair):
    theirs, loaded = pair
    frames = noise(loaded.config, 2)
    ours = features(loaded.config, nested(loaded.params)["tower"], frames)
    assert public.error(ours, their_features(theirs, frames)) <= BOUND


def test_positions_are_resampled_for_another_picture(pair):
    loaded = pair[1]
    wide = dataclasses.replace(loaded.config, picture=Picture(64, 32))
    square = torch.tensor(rearrange(loaded.params["tower.positions"], "(h w) D -> 1 D h w", h=8))
    theirs = torch.nn.functional.interpolate(square, size=(4, 8), mode="bilinear", align_corners=False, antialias=True)
    ours = vision_from_siglip2(loaded.tensors, wide, WIDTH, seed=0)["tower"]["positions"]
    assert public.error(ours, rearrange(theirs.numpy(), "1 D h w -> (h w) D")) <= BOUND


def test_the_projector_is_all_that_is_drawn(pair):
    first, second = (vision_from_siglip2(pair[1].tensors, pair[1].config, WIDTH, seed=seed) for seed in (0, 1))
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), first, second)
    paths = [jax.tree_util.keystr(path) for path, c in jax.tree.leaves_with_path(changed) if c]
    assert paths == ["['projector']['down']['kernel']", "['projector']['up']['kernel']"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("whole", [True, False])
def test_there_and_back_is_the_same_bits(tmp_path, dtype, whole):
    public.siglip2(tmp_path, dtype, whole=whole)
    loaded = public.load("siglip2", tmp_path)
    assert {str(x.dtype) for x in loaded.params.values()} == {dtype}
    kept = {name: x for name, x in loaded.tensors.items() if not name.startswith(LEFT_BEHIND)}
    public.assert_same_bits(public.given_back("siglip2", loaded), kept)
    back = vision_to_siglip2(vision_from_siglip2(loaded.tensors, loaded.config, WIDTH, seed=0), loaded.config)
    prefix = "" if whole else siglip2.PREFIX
    public.assert_same_bits(back, {prefix + name: x for name, x in kept.items()})


def test_resampled_positions_keep_their_dtype():
    cfg = VisionConfig(picture=Picture(64, 32), patch=8)
    assert siglip2.resample(np.ones((64, 4), jnp.bfloat16), cfg).dtype == jnp.bfloat16


def test_theirs_reads_the_config_that_we_write(pair, tmp_path):
    """Without the pooling head, which stayed behind."""
    theirs, loaded = pair
    again = public.rewritten("siglip2", loaded, tmp_path / "again", transformers.SiglipVisionModel)
    frames = noise(loaded.config, 1)
    np.testing.assert_array_equal(their_features(again, frames), their_features(theirs, frames))


def test_all_offenders_are_in_one_error(pair):
    loaded = pair[1]
    prefix = siglip2.prefix_of(loaded.tensors.keys())
    tensors = dict(loaded.tensors) | {
        f"{prefix}encoder.layers.7.mlp.fc1.bias": np.zeros(3, np.float32),
        f"{prefix}post_layernorm.bias": np.zeros(3, np.float32),
        f"{prefix}post_layernorm.weight": np.zeros(32, np.int64),
    }
    del tensors[f"{prefix}encoder.layers.0.layer_norm1.bias"]
    assert public.offenders("siglip2", loaded, tensors, (f"{prefix}post_layernorm.bias",)) == [
        f"duplicate {prefix}post_layernorm.bias",
        f"unknown {prefix}encoder.layers.7.mlp.fc1.bias",
        f"missing {prefix}encoder.layers.0.layer_norm1.bias",
        f"{prefix}post_layernorm.bias: shape (3,), expected (32,)",
        f"{prefix}post_layernorm.weight: int64, expected float32, bfloat16 or float16",
    ]


def read_config(raw):
    return FAMILY.read_config(raw, {str(i): np.zeros(1, np.float32) for i in range(400)})


def test_sizes_of_a_whole_model_or_a_tower_written_out_or_not():
    tower = transformers.SiglipVisionConfig(image_size=256).to_dict()
    assert read_config(tower) == VisionConfig()
    assert read_config({"model_type": "siglip", "vision_config": tower}) == VisionConfig()
    assert read_config({"model_type": "siglip", "vision_config": {"image_size": 256}}) == VisionConfig()
    assert read_config(FAMILY.write_config(VisionConfig())) == VisionConfig()


def test_variable_resolution_is_refused():
    with pytest.raises(ValueError, match="google/siglip2-base-patch16-256"):
        read_config({"model_type": "siglip2", "vision_config": {"num_patches": 256}})


def test_patches_that_do_not_pair_up_are_refused():
    so400m = {"image_size": 384, "patch_size": 14, "hidden_size": 1152, "num_attention_heads": 16}
    with pytest.raises(ValueError, match=r"vision_config\.image_size: 384 pixels are 27\.43 patches of 14"):
        read_config({"model_type": "siglip", "vision_config": so400m})


def test_what_we_do_not_have_is_refused_all_at_once():
    refused = {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "num_channels": 1, "num_attention_heads": 7}
    with pytest.raises(ValueError, match="not supported") as wrong:
        read_config(FAMILY.write_config(VisionConfig()) | refused)
    said = [line.strip().split(":")[0] for line in str(wrong.value).splitlines()[1:]]
    assert said == ["hidden_act", "layer_norm_eps", "num_channels", "hidden_size"]


def test_a_tower_that_sees_no_square_has_no_public_config():
    with pytest.raises(ValueError, match="sees squares, not 64x32"):
        FAMILY.write_config(VisionConfig(picture=Picture(64, 32)))


def test_published_size():
    """SigLIP2 base of 256 pixels, every layer of it, on one frame."""
    model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(image_size=256)).eval()
    public.draw(model)
    frames = noise(VisionConfig(), 1)
    expected = their_features(model, frames)
    tensors = {f"vision_model.{name}": x.numpy() for name, x in model.state_dict().items()}
    loaded = public.loaded("siglip2", model.config.to_dict(), tensors)
    assert loaded.config == VisionConfig()
    assert public.error(features(loaded.config, nested(loaded.params)["tower"], frames), expected) <= BOUND
