"""Public checkpoints with random weights, as directories that the public implementations write, and their models.

Sizes are those of `configs/tiny.py` or smaller. Nothing is at its initial value: norms, gains, layer scales and biases
are noise too, so that a tensor in the wrong place is seen.
"""

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.numpy import save_file

from wanstreamer_jax.convert.container import StoredTensor, read_header
from wanstreamer_jax.convert.families import FAMILIES
from wanstreamer_jax.convert.table import check, give, shapes_of, take
from wanstreamer_jax.tokens import byte_tokenizer

NORM = re.compile(r".*(norm\w*\.weight|gamma)")
POOL = 8_000_009  # numbers that are drawn; a prime, so that rows of a matrix differ when they are used again


def qwen3(
    directory: Path,
    dtype: str = "float32",
    *,
    tied: bool = True,
    head_copy: bool = False,
    sharded: bool = False,
    **sizes,
) -> transformers.Qwen3ForCausalLM:
    """A language model with GQA beside a tokenizer of bytes. `head_copy`: a tied one that holds its head as well."""
    config = transformers.Qwen3Config(
        **{
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 16,
            "rope_theta": 1e4,
            "tie_word_embeddings": tied,
        }
        | sizes
    )
    model = _drawn(transformers.Qwen3ForCausalLM(config), dtype)
    model.save_pretrained(directory, max_shard_size="64KB" if sharded else "5GB")
    byte_tokenizer().save(directory / "tokenizer.json")
    if head_copy:
        path = directory / "model.safetensors"
        tensors = safetensors.torch.load_file(path)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return model


def wan_vae(directory: Path, dtype: str = "float32", *, original: bool = False, **sizes) -> diffusers.AutoencoderKLWan:
    """A video VAE. `original`: one file under Wan's own names, without a config.json."""
    model = _drawn(diffusers.AutoencoderKLWan(**{"base_dim": 8, "z_dim": 16} | sizes), dtype)
    model.save_pretrained(directory)
    if original:
        shutil.rmtree(directory)
        directory.mkdir()
        tensors = {original_names()[name]: x for name, x in model.state_dict().items()}
        safetensors.torch.save_file(tensors, directory / "wan_2.1_vae.safetensors")
    return model


def mimi(directory: Path, dtype: str = "float32", **sizes) -> transformers.MimiModel:
    """An audio codec with a small quantiser."""
    config = transformers.MimiConfig(
        **{
            "hidden_size": 32,
            "num_filters": 4,
            "num_residual_layers": 2,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 48,
            "sliding_window": 5,
            "upsample_groups": 32,
            "num_quantizers": 2,
            "codebook_size": 4,
        }
        | sizes
    )
    model = _drawn(transformers.MimiModel(config), dtype)
    model.save_pretrained(directory)
    return model


def siglip2(directory: Path, dtype: str = "float32", *, whole: bool = True, **sizes) -> transformers.SiglipVisionModel:
    """A vision tower with its pooling head, beside its text tower if `whole`."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 16,
    } | sizes
    text = {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2} | {
        key: value for key, value in vision.items() if key not in ("image_size", "patch_size")
    }
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    model = _drawn(transformers.SiglipModel(config), dtype)
    tower = model.vision_model
    (model if whole else tower).save_pretrained(directory)
    return tower


def tensors_in(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of a directory's files."""
    files = sorted(directory.glob("*.safetensors"))
    return {name: x for path in files for name, x in read_header(path).tensors.items()}


def config_in(directory: Path) -> dict[str, Any]:
    """Its config.json; empty where there is none."""
    path = directory / "config.json"
    return json.loads(path.read_text()) if path.exists() else {}


def original_names() -> dict[str, str]:
    """Diffusers' name -> Wan's own, for all that Wan's own may be, according to diffusers' converter."""
    residual = [f"residual.{x}" for x in ("0.gamma", "2.weight", "2.bias", "3.gamma", "6.weight", "6.bias")]
    affine = [f"{x}.{y}" for x in ("shortcut", "resample.1", "time_conv", "to_qkv", "proj") for y in ("weight", "bias")]
    blocks = [f"encoder.downsamples.{i}" for i in range(11)] + [f"decoder.upsamples.{i}" for i in range(15)]
    blocks += [f"{part}.middle.{i}" for part in ("encoder", "decoder") for i in range(3)]
    names = [f"{block}.{x}" for block in blocks for x in [*residual, *affine, "norm.gamma"]]
    names += [f"{x}conv1.{y}" for x in ("", "encoder.", "decoder.") for y in ("weight", "bias")]
    names += [f"{x}.head.{y}" for x in ("encoder", "decoder") for y in ("0.gamma", "2.weight", "2.bias")]
    names += ["conv2.weight", "conv2.bias"]
    return convert_wan_vae_to_diffusers({name: name for name in names})


def _drawn(model: Any, dtype: str) -> Any:
    """The model with noise for parameters, of which each layer keeps the variance of what it reads."""
    draw(model)
    return model.to(getattr(torch, dtype)).eval().requires_grad_(requires_grad=False)


@functools.cache
def _pool() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(POOL, np.float32))


@torch.no_grad()
def draw(model: torch.nn.Module) -> None:
    """Replace every parameter of a model by noise."""
    start = 0
    for name, p in model.named_parameters():
        stop = start + p.numel()
        noise = (_pool() if stop <= POOL else _pool().repeat(-(-stop // POOL)))[start:stop].view(p.shape)
        start = stop % POOL
        if p.squeeze().ndim <= 1:
            p.copy_(float(NORM.fullmatch(name) is not None) + 0.2 * noise)
        else:
            p.copy_(noise).mul_(p[0].numel() ** -0.5)


class Loaded(NamedTuple):
    """A checkpoint as we take it: our sizes, our parameters by dotted path, and its tensors."""

    config: Any
    params: dict[str, np.ndarray]
    tensors: dict[str, StoredTensor]


def load(family: str, directory: Path) -> Loaded:
    """Take a directory through its family's reader and table."""
    return loaded(family, config_in(directory), tensors_in(directory))


def loaded(family: str, raw: dict[str, Any], tensors: dict[str, Any]) -> Loaded:
    """Take tensors and the config.json beside them through their family's reader and table."""
    f = FAMILIES[family]
    config = f.read_config(raw, tensors)
    entries = f.table(config, tensors.keys())
    check(entries, tensors, shapes_of(lambda: f.init(config)), f.unused)
    return Loaded(config, dict(take(entries, tensors)), tensors)


def given_back(family: str, ours: Loaded) -> dict[str, np.ndarray]:
    """What we took, under the names that it had."""
    entries = FAMILIES[family].table(ours.config, ours.tensors.keys())
    return {entry.theirs: give(entry, ours.params[entry.ours]) for entry in entries}


def assert_same_bits(actual: dict[str, np.ndarray], expected: dict[str, StoredTensor]) -> None:
    """Assert that tensors have the same names, dtypes and bits."""
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        assert actual[name].dtype == x.dtype
        assert actual[name].tobytes() == np.asarray(x).tobytes()


def error(actual: Any, expected: Any) -> float:
    """Relative L2 error."""
    a, e = (np.asarray(x, np.float64) for x in (actual, expected))
    assert a.shape == e.shape
    return float(np.linalg.norm(a - e) / np.linalg.norm(e))


def offenders(family: str, ours: Loaded, tensors: dict[str, Any], duplicates: tuple[str, ...] = ()) -> list[str]:
    """What a family's strict table says of tensors."""
    f = FAMILIES[family]
    shapes = shapes_of(lambda: f.init(ours.config))
    with pytest.raises(ValueError, match="not of this configuration") as wrong:
        check(f.table(ours.config, tensors.keys()), tensors, shapes, f.unused, duplicates)
    return [line.strip() for line in str(wrong.value).splitlines()[1:]]


def rewritten(family: str, ours: Loaded, directory: Path, model: Any) -> Any:
    """What the public `model` makes of the tensors that we give back and of the config.json that we write."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(FAMILIES[family].write_config(ours.config)))
    name = "diffusion_pytorch_model" if family == "wan-vae" else "model"
    save_file(given_back(family, ours), directory / f"{name}.safetensors", metadata={"format": "pt"})
    return model.from_pretrained(directory).eval().requires_grad_(requires_grad=False)
