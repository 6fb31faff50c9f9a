"""The command line of checkpoints: in and out bit for bit, an agent of four parts, that streams."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import transformers

from tests import public
from wanstreamer_jax.agent import Agent, init_agent, load_agent, save_agent
from wanstreamer_jax.convert.__main__ import main
from wanstreamer_jax.convert.checkpoint import Checkpoint
from wanstreamer_jax.convert.families import FAMILIES
from wanstreamer_jax.convert.part import read_part
from wanstreamer_jax.presets import load_preset

ROOT = Path(__file__).parents[1]
CACHED = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax")}
PRESET = str(ROOT / "tests" / "public_preset.py")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """One directory for each public checkpoint, as they are published or found: several dtypes and layouts."""
    root = tmp_path_factory.mktemp("checkpoints")
    public.qwen3(root / "qwen3", "bfloat16", sharded=True)
    public.qwen3(root / "qwen3-untied", tied=False)
    public.qwen3(root / "qwen3-with-head", "bfloat16", head_copy=True)
    public.wan_vae(root / "wan-vae")
    public.wan_vae(root / "wan-vae-original", "bfloat16", original=True)
    public.mimi(root / "mimi")
    public.siglip2(root / "siglip2", "bfloat16")
    public.siglip2(root / "siglip2-tower", whole=False)
    return root


@pytest.fixture(scope="module")
def parts(checkpoints, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for name in FAMILIES:
        assert main([name, "--input", str(checkpoints / name), "--output", str(root / name)]) == 0
    return root


@pytest.fixture(scope="module")
def agent(parts, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("agents") / "agent"
    assert assemble(parts, directory) == 0
    return directory


def assemble(parts, output, *more) -> int:
    roles = {"transformer": "qwen3", "video-vae": "wan-vae", "audio-vae": "mimi", "vision": "siglip2"}
    options = [word for role, name in roles.items() for word in (f"--{role}", str(parts / name))]
    return main(["assemble", *options, "--preset", PRESET, "--output", str(output), *more])


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# ---- In and out


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("qwen3", "qwen3"),
        ("qwen3-untied", "qwen3"),
        ("qwen3-with-head", "qwen3"),
        ("wan-vae", "wan-vae"),
        ("wan-vae-original", "wan-vae"),
        ("mimi", "mimi"),
        ("siglip2", "siglip2"),
        ("siglip2-tower", "siglip2"),
    ],
)
def test_in_and_out_is_bit_for_bit(checkpoints, tmp_path, name, family):
    original, part, back = checkpoints / name, tmp_path / "part", tmp_path / "back"
    assert main([family, "--input", str(original), "--output", str(part)]) == 0
    assert main(["export", family, "--input", str(part), "--rest", str(original), "--output", str(back)]) == 0
    assert files_of(back) == files_of(original)


def test_a_header_goes_out_as_it_was_written(checkpoints, tmp_path):
    """However somebody's tool laid it out."""
    own = Path(shutil.copytree(checkpoints / "siglip2-tower", tmp_path / "own"))
    raw = (own / "model.safetensors").read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = json.dumps(dict(reversed(json.loads(raw[8 : 8 + n]).items())), indent=1).encode() + b"\n"
    (own / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + n :])
    assert main(["siglip2", "--input", str(own), "--output", str(tmp_path / "part")]) == 0
    out = ["--rest", str(own), "--output", str(tmp_path / "back")]
    assert main(["export", "siglip2", "--input", str(tmp_path / "part"), *out]) == 0
    assert files_of(tmp_path / "back") == files_of(own)


@pytest.mark.parametrize("name", FAMILIES)
def test_out_of_an_agent_is_bit_for_bit(checkpoints, agent, tmp_path, name):
    back = tmp_path / "back"
    rest = checkpoints / name
    assert main(["export", name, "--input", str(agent), "--rest", str(rest), "--output", str(back)]) == 0
    assert files_of(back) == files_of(rest)


def test_what_was_left_behind_is_told_and_nothing_else_is_missing(checkpoints, parts, tmp_path, capsys):
    assert main(["export", "mimi", "--input", str(parts / "mimi"), "--output", str(tmp_path / "back")]) == 0
    original = public.tensors_in(checkpoints / "mimi")
    left = [name for name in original if name.startswith("quantizer.")]
    assert f"{len(left)} tensors were left behind" in capsys.readouterr().out
    back = safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == original.keys() - set(left)
    assert all(np.array_equal(x, np.asarray(original[name])) for name, x in back.items())


@pytest.mark.parametrize(("name", "dtype"), [("qwen3", "bfloat16"), ("siglip2", "bfloat16"), ("mimi", "float32")])
def test_dtypes_stay(parts, name, dtype):
    part = read_part(parts / name, FAMILIES[name])
    assert {x.dtype.name for x in part.tensors.values()} == {dtype}


def test_a_file_and_an_index_are_what_their_directory_is(checkpoints, tmp_path):
    for path in ("qwen3", "qwen3/model.safetensors.index.json"):
        out = tmp_path / path.replace("/", "-")
        assert main(["qwen3", "--input", str(checkpoints / path), "--output", str(out)]) == 0
    assert (tmp_path / "qwen3" / "weights.safetensors").read_bytes() == (out / "weights.safetensors").read_bytes()
    file = checkpoints / "wan-vae-original" / "wan_2.1_vae.safetensors"
    assert main(["wan-vae", "--input", str(file), "--output", str(tmp_path / "wan")]) == 0


# ---- Assemble


def test_an_agent_holds_what_came_in_and_new_layers_of_the_seed(parts, agent, tmp_path):
    loaded = load_agent(agent)
    part = read_part(parts / "qwen3", FAMILIES["qwen3"])
    np.testing.assert_array_equal(loaded.params["transformer"]["embedding"], np.asarray(part.tensors["embedding"]))
    vision = read_part(parts / "siglip2", FAMILIES["siglip2"])
    kernel = np.asarray(vision.tensors["tower.embed.kernel"]).astype(np.float32)
    np.testing.assert_array_equal(loaded.params["perception"]["vision"]["tower"]["embed"]["kernel"], kernel)
    trunk = read_part(parts / "mimi", FAMILIES["mimi"]).tensors["encoder.trunk.downsample.kernel"]
    for where in (loaded.params["perception"]["hearing"]["trunk"], loaded.params["audio_vae"]["encoder"]["trunk"]):
        np.testing.assert_array_equal(where["downsample"]["kernel"], np.asarray(trunk))
    assert not np.any(loaded.params["transformer"]["layers"][0]["adaln"])
    assert (loaded.config.transformer.dtype, loaded.trained) == ("bfloat16", False)
    assert assemble(parts, tmp_path / "same") == assemble(parts, tmp_path / "other", "--seed", "1") == 0
    same, other = files_of(tmp_path / "same"), files_of(tmp_path / "other")
    assert same == files_of(agent)
    assert same["transformer.safetensors"] != other["transformer.safetensors"]
    assert same["video_vae.safetensors"] == other["video_vae.safetensors"]


def test_the_summary_counts_every_parameter_once(parts, tmp_path, capsys):
    capsys.readouterr()
    assert assemble(parts, tmp_path / "agent") == 0
    *table, last = capsys.readouterr().out.splitlines()
    counts = [int(line.split()[-1].replace(",", "")) for line in table[1:]]
    total = sum(np.size(x) for x in jax.tree.leaves(load_agent(tmp_path / "agent").params))
    assert sum(counts) == total
    assert f"an agent of {total:,} parameters" in last
    assert any(line.split()[:2] == ["vision", "siglip2:"] for line in table)
    assert any(line.startswith("transformer: layers.adaln") and " new " in line for line in table)


def test_the_bottleneck_is_the_identity_on_mimis_latents(agent):
    params = load_agent(agent).params["audio_vae"]
    z = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    mean = z @ params["encoder"]["mean"]["kernel"] + params["encoder"]["mean"]["bias"]
    back = mean @ params["decoder"]["unproject"]["kernel"] + params["decoder"]["unproject"]["bias"]
    np.testing.assert_allclose(back, z, atol=1e-6)


def test_latent_statistics_are_wans(agent):
    vae = load_agent(agent).config.video_vae
    assert vae.latent_mean[:2] == (-0.7571, -0.7089)
    assert vae.latent_std[-1] == 1.916


def test_an_agent_of_public_checkpoints_streams_a_file(agent, tmp_path):
    clip, reply, report = ROOT / "wanstreamer_jax/assets/sample.mp4", tmp_path / "reply.mp4", tmp_path / "report.json"
    command = [sys.executable, "serve.py", "--agent", agent, "--input", clip, "--output", reply, "--report", report]
    done = subprocess.run(command, cwd=ROOT, env=CACHED, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["units"] == 100
    assert reply.stat().st_size > 1000


# ---- Out of what was trained here


def test_what_was_trained_since_goes_out_in_the_original_files_and_dtypes(checkpoints, agent, tmp_path):
    trained = load_agent(agent)
    vision = trained.params["perception"]["vision"]
    vision["tower"] = jax.tree.map(lambda x: x + 0.25, vision["tower"])
    save_agent(tmp_path / "trained", trained)
    out = tmp_path / "out"
    assert main(["export", "siglip2", "--input", str(tmp_path / "trained"), "--output", str(out)]) == 0
    after, before = public.tensors_in(out), public.tensors_in(checkpoints / "siglip2")
    assert {name: x.dtype for name, x in after.items()} == {name: before[name].dtype for name in after}
    name = next(name for name in after if name.endswith("fc1.bias"))
    moved = np.asarray(before[name]).astype(np.float32) + 0.25
    np.testing.assert_allclose(np.asarray(after[name]).astype(np.float32), moved, rtol=1e-2)


def test_an_agent_that_never_was_public_opens_in_the_public_library(tmp_path):
    config = load_preset(PRESET)
    fresh = init_agent(config, seed=0)
    save_agent(tmp_path / "agent", fresh)
    assert main(["export", "qwen3", "--input", str(tmp_path / "agent"), "--output", str(tmp_path / "out")]) == 0
    model = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "out")
    embedding = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(embedding, fresh.params["transformer"]["embedding"])
    part = tmp_path / "part"
    assert main(["qwen3", "--input", str(tmp_path / "out"), "--output", str(part)]) == 0
    kernel = read_part(part, FAMILIES["qwen3"]).tensors["layers.1.mlp.up.kernel"]
    np.testing.assert_array_equal(kernel, fresh.params["transformer"]["layers"][1]["mlp"]["up"]["kernel"])


def test_sources_survive_training(agent, tmp_path):
    loaded = load_agent(agent)
    assert loaded.sources["qwen3"]["origin"] == "qwen3"
    save_agent(tmp_path / "again", Agent(loaded.config, loaded.params, loaded.tokenizer, True, {}, loaded.sources))
    assert load_agent(tmp_path / "again").sources == loaded.sources


def test_pictures_of_another_shape_need_the_original_positions(checkpoints, parts, tmp_path, capsys):
    wide = tmp_path / "wide.py"
    wide.write_text(
        "import dataclasses\n"
        "from tests.public_preset import config as base\n"
        "from wanstreamer_jax.timeline import Picture\n"
        "config = dataclasses.replace(base, vision=dataclasses.replace(base.vision, picture=Picture(128, 32)))\n"
    )
    assert assemble(parts, tmp_path / "agent", "--preset", str(wide)) == 0
    out = ["--input", str(tmp_path / "agent"), "--output", str(tmp_path / "out")]
    assert main(["export", "siglip2", *out]) == 2
    assert "position_embedding.weight: no longer (16, 32) as in the original" in capsys.readouterr().err
    rest = ["--rest", str(checkpoints / "siglip2")]
    assert main(["export", "siglip2", *out, *rest]) == 0
    assert files_of(tmp_path / "out") == files_of(checkpoints / "siglip2")


def test_a_checkpoint_is_read_when_it_is_asked_for(checkpoints):
    checkpoint = Checkpoint(checkpoints / "qwen3", FAMILIES["qwen3"])
    assert checkpoint.keys() == public.tensors_in(checkpoints / "qwen3").keys()
