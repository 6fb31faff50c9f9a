"""Bad checkpoints and bad places: one clear error, exit code 2, and nothing left behind."""

import errno
import json
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import public
from tests.test_container import mutate, replace_a_value
from wanstreamer_jax.convert import progress
from wanstreamer_jax.convert.__main__ import main
from wanstreamer_jax.convert.checkpoint import Checkpoint
from wanstreamer_jax.convert.families import FAMILIES
from wanstreamer_jax.convert.table import check, shapes_of

ROOT = Path(__file__).parents[1]
INDEX = "model.safetensors.index.json"
N_MUTANTS = 800


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("good")
    public.qwen3(root / "qwen3", "bfloat16", sharded=True, num_hidden_layers=2)
    public.siglip2(root / "siglip2", whole=False)
    return root


@pytest.fixture
def source(good, tmp_path) -> Path:
    """A sharded Qwen3 of one's own, to be damaged."""
    return Path(shutil.copytree(good / "qwen3", tmp_path / "qwen3"))


@pytest.fixture
def refused(source, tmp_path, capsys):
    """`refused(message, command, path)`: the command is refused with the message and leaves nothing."""

    def run(message: str, command: str = "qwen3", path: Path = source) -> None:
        before = sorted(tmp_path.rglob("*"))
        assert main([command, "--input", str(path), "--output", str(tmp_path / "part")]) == 2
        error = capsys.readouterr().err.splitlines()
        assert any(line.startswith("convert: ") for line in error)
        assert message in "\n".join(error)
        assert sorted(tmp_path.rglob("*")) == before

    return run


def first_shard(source: Path) -> Path:
    return min(source.glob("*.safetensors"))


# ---- Files


@pytest.mark.parametrize("name", ["pytorch_model.bin", "Wan2.1_VAE.pth", "model.safetensors", "weights.txt"])
@pytest.mark.parametrize("as_torch", [True, False])
def test_a_pickle_of_any_suffix(tmp_path, refused, name, as_torch):
    folder = tmp_path / "published"
    folder.mkdir()
    if as_torch:
        torch.save({"x": torch.zeros(2)}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps({"x": 1}))
    for path in (folder, folder / name):
        refused(f"{name}: a pickle, which can run code when it is opened", "wan-vae", path)
        refused("The safetensors version is at Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "wan-vae", path)


def test_a_pickle_among_shards(source, refused):
    first_shard(source).write_bytes(pickle.dumps({}) + b" " * 20)
    refused("a pickle, which can run code when it is opened; refused, whatever its name. The safetensors version is at")


def test_a_truncated_shard(source, refused):
    first_shard(source).write_bytes(first_shard(source).read_bytes()[:-2])
    refused(f"{first_shard(source)}: damaged header: ")


def test_overlapping_tensors(source, refused):
    raw = first_shard(source).read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n])
    next(x for name, x in header.items() if name != "__metadata__")["data_offsets"] = [0, 4]
    text = json.dumps(header).encode()
    first_shard(source).write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + n :])
    refused("damaged header")


def test_an_absurd_header(source, refused):
    first_shard(source).write_bytes((2**60).to_bytes(8, "little") + b"{}")
    refused("its header would be 1,152,921,504,606,846,976 bytes")


@pytest.mark.parametrize("outside", ["../qwen3-secret/x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_an_index_that_names_files_outside(source, refused, outside):
    index = json.loads((source / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = outside
    (source / INDEX).write_text(json.dumps(index))
    refused(f"names files outside its directory: {outside!r}; refused")


def test_a_missing_shard(source, refused):
    name = first_shard(source).name
    first_shard(source).unlink()
    refused(f"missing shards {name}")


def test_an_index_that_does_not_fit_its_shards(source, refused):
    index = json.loads((source / INDEX).read_text())
    shards = sorted(set(index["weight_map"].values()))
    index["weight_map"].pop("model.norm.weight")
    index["weight_map"]["model.extra.weight"] = shards[0]
    (source / INDEX).write_text(json.dumps(index))
    refused("model.norm.weight: in ")
    refused(f"model.extra.weight: not in {shards[0]}")


@pytest.mark.parametrize("text", ["[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_that_is_none(source, refused, text):
    (source / INDEX).write_text(text)
    refused(INDEX)


def test_files_that_are_not_there(tmp_path, refused):
    refused("no such file or directory", path=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("0 safetensors files and 0 indexes", path=tmp_path / "empty")


# ---- Configurations and tensors


def test_the_wrong_type_of_model(source, good, refused):
    refused("config.json: of a model of type 'qwen3'; mimi reads mimi", "mimi")
    refused("siglip_vision_model'; wan-vae reads AutoencoderKLWan", "wan-vae", good / "siglip2")


def test_no_configuration(source, refused):
    (source / "config.json").unlink()
    refused("config.json")


def test_every_offending_tensor_in_one_error(good):
    family = FAMILIES["qwen3"]
    checkpoint = Checkpoint(good / "qwen3", family)
    config = family.read_config(checkpoint.config, checkpoint)
    tensors = {name: np.asarray(x) for name, x in checkpoint.items()}
    tensors["model.layers.7.surprise"] = np.zeros(1, np.float32)
    tensors["model.norm.weight"] = np.zeros(3, np.float32)
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].astype(np.int8)
    del tensors["model.embed_tokens.weight"]
    shapes = shapes_of(lambda: family.init(config))
    with pytest.raises(ValueError, match="not of this configuration") as caught:
        check(family.table(config, tensors), tensors, shapes, family.unused, duplicates=["model.twice"])
    assert str(caught.value).splitlines()[1:] == [
        "  duplicate model.twice",
        "  unknown model.layers.7.surprise",
        "  missing model.embed_tokens.weight",
        "  model.layers.0.mlp.up_proj.weight: int8, expected float32, bfloat16 or float16",
        "  model.norm.weight: shape (3,), expected (64,)",
    ]


def test_a_tensor_in_two_shards(source, refused):
    first, second = sorted(source.glob("*.safetensors"))[-2:]
    second.write_bytes(first.read_bytes())
    index = json.loads((source / INDEX).read_text())
    kept = {name: file for name, file in index["weight_map"].items() if file != second.name}
    twice = [name for name, file in kept.items() if file == first.name]
    (source / INDEX).write_text(json.dumps({"weight_map": kept | {twice[0]: second.name}}))
    refused(f"duplicate {twice[0]}")
    refused("missing model.norm.weight")


def test_a_head_that_is_not_the_embedding_it_is_tied_to(tmp_path, refused):
    model = public.qwen3(tmp_path / "tied", tied=False)
    del model
    config = json.loads((tmp_path / "tied" / "config.json").read_text())
    (tmp_path / "tied" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    refused("lm_head.weight: differs from model.embed_tokens.weight", path=tmp_path / "tied")


# ---- Places


def test_what_exists_is_kept_without_overwrite(good, tmp_path, capsys):
    command = ["qwen3", "--input", str(good / "qwen3"), "--output", str(tmp_path / "part")]
    assert main(command) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "part").iterdir()}
    assert main(command) == 2
    assert "exists already; choose another place or say --overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "part").iterdir()} == before
    assert main([*command, "--overwrite"]) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "part").iterdir()} == before


def test_overwrite_replaces_its_own_kind_only(good, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    command = ["qwen3", "--input", str(good / "qwen3"), "--output", str(tmp_path / "thesis"), "--overwrite"]
    assert main(command) == 2
    assert "holds no part.json, so it is something else; not overwritten" in capsys.readouterr().err
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_a_disk_that_becomes_full(good, tmp_path):
    """A limit on the size of files stands for it: the operating system refuses a write in the middle."""
    convert = [sys.executable, "-m", "wanstreamer_jax.convert", "qwen3", "--input", good / "qwen3"]
    command = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *convert, "--output", tmp_path / "part"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "convert: [Errno 27] File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small(refused, monkeypatch):
    free = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(progress.shutil, "disk_usage", lambda _: free)
    refused("its disk has 0.00 GB free")


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "No space left"), 2)])
def test_an_interrupted_conversion_leaves_nothing(good, tmp_path, monkeypatch, error, code):
    def stop(*_):
        raise error

    monkeypatch.setattr(progress, "write_file", stop)
    assert main(["qwen3", "--input", str(good / "qwen3"), "--output", str(tmp_path / "part")]) == code
    assert list(tmp_path.iterdir()) == []


# ---- Fuzzing: no crash, no hang, nothing but a CheckpointError or ValueError


def test_mutated_checkpoints_are_read_or_refused(source):
    rng = random.Random(1)
    family = FAMILIES["qwen3"]
    names = [INDEX, "config.json", first_shard(source).name]
    originals = {name: (source / name).read_bytes() for name in names}
    n_refused = 0
    for i in range(N_MUTANTS):
        name = names[i % len(names)]
        (source / name).write_bytes(mutate_any(originals[name], rng))
        n_refused += not is_read(source, family)
        (source / name).write_bytes(originals[name])
    assert n_refused > N_MUTANTS / 2
    assert is_read(source, family)


def mutate_any(original: bytes, rng: random.Random) -> bytes:
    if not original.startswith(b"{"):
        return mutate(original, rng)
    if rng.random() < 0.3:
        damaged = bytearray(original)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        return bytes(damaged)
    tree = json.loads(original)
    replace_a_value(tree, rng)
    return json.dumps(tree).encode()


def is_read(source: Path, family) -> bool:
    """Whether it is accepted; anything but a ValueError is a bug."""
    try:
        checkpoint = Checkpoint(source, family)
        config = family.read_config(checkpoint.config, checkpoint)
        entries = family.table(config, checkpoint.keys())
        check(entries, checkpoint, shapes_of(lambda: family.init(config)), family.unused, checkpoint.duplicates)
    except ValueError:
        return False
    return True
