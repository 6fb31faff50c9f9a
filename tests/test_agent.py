"""Laws of an agent directory: what is opened is what was saved, or one error that names the file and the reason."""

import dataclasses
import hashlib
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wanstreamer_jax import agent as agent_module
from wanstreamer_jax.agent import FILES, MANIFEST, PARTS, Agent, AgentError, load_agent, save_agent
from wanstreamer_jax.config import Config, TextConfig, from_json, to_json
from wanstreamer_jax.model import init_params
from wanstreamer_jax.presets import load_preset
from wanstreamer_jax.tokens import byte_tokenizer

TINY = load_preset("tiny")


def small_params(config: Config, seed: int) -> dict[str, Any]:
    """Parameters of every kind that a part has: nested, listed, scalar, bfloat16."""
    del config
    keys = jax.random.split(jax.random.key(seed), 4)
    kernel = jax.random.normal(keys[0], (2, 3, 5), jnp.bfloat16)
    return {
        "transformer": {"blocks": {0: {"kernel": kernel, "scale": jnp.ones(())}, 1: {"kernel": -kernel}}},
        "perception": {"vision": {"patch": {"bias": jax.random.normal(keys[1], (4,))}}},
        "video_vae": {"conv": {"kernel": jax.random.normal(keys[2], (3, 3))}},
        "audio_vae": {"empty": jnp.zeros((0, 3)), "mean": jax.random.normal(keys[3], (7,))},
    }


@pytest.fixture(autouse=True)
def _small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "init_params", small_params)


@pytest.fixture(scope="module")
def agent() -> Agent:
    training = {"stage": "interact", "steps": 12, "loss": 0.25}
    return Agent(TINY, small_params(TINY, 0), byte_tokenizer(), trained=True, training=training)


@pytest.fixture
def directory(agent: Agent, tmp_path: Path) -> Path:
    save_agent(tmp_path / "agent", agent)
    return tmp_path / "agent"


def assert_same(loaded: Agent, saved: Agent) -> None:
    assert (loaded.config, loaded.trained, loaded.training) == (saved.config, saved.trained, saved.training)
    assert loaded.tokenizer.encode("é") == saved.tokenizer.encode("é")
    assert jax.tree.structure(loaded.params) == jax.tree.structure(saved.params)
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(saved.params), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, np.asarray(b))


# ---- What is saved is what is opened


def test_what_is_opened_is_what_was_saved(agent: Agent, directory: Path) -> None:
    assert_same(load_agent(directory), agent)
    assert {path.name for path in directory.iterdir()} == {*FILES, MANIFEST}


def test_saving_what_was_opened_gives_the_same_files(directory: Path, tmp_path: Path) -> None:
    save_agent(tmp_path / "again", load_agent(directory))
    for name in (*FILES, MANIFEST):
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()


def test_memory_order_does_not_matter(agent: Agent, tmp_path: Path) -> None:
    strided = jax.tree.map(lambda x: np.asarray(np.asarray(x).T.copy().T), agent.params)
    save_agent(tmp_path / "agent", dataclasses.replace(agent, params=strided))
    assert_same(load_agent(tmp_path / "agent"), agent)


def test_bfloat16_stays_bfloat16(directory: Path) -> None:
    assert load_agent(directory).params["transformer"]["blocks"][0]["kernel"].dtype == ml_dtypes.bfloat16


def test_float32_may_be_stored_in_half_its_bits(agent: Agent, tmp_path: Path) -> None:
    def narrow(x, kind):
        return np.asarray(x).astype(kind) if x.dtype == np.float32 else x

    for kind in (ml_dtypes.bfloat16, np.float16):
        params = jax.tree.map(lambda x, kind=kind: narrow(x, kind), agent.params)
        save_agent(tmp_path / kind.__name__, dataclasses.replace(agent, params=params))
        widened = jax.tree.map(lambda x, like: np.asarray(x).astype(like.dtype), params, agent.params)
        assert_same(load_agent(tmp_path / kind.__name__), dataclasses.replace(agent, params=widened))


@pytest.mark.usefixtures("_real_model")
def test_the_real_model_survives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(TINY, 0))
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32).astype(x.dtype), shapes)
    untrained = Agent(TINY, params, byte_tokenizer(), trained=False)
    save_agent(tmp_path / "agent", untrained)
    assert_same(load_agent(tmp_path / "agent"), untrained)


@pytest.fixture
def _real_model(_small_model: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "init_params", init_params)


def test_a_seed_makes_one_untrained_agent() -> None:
    first, again, other = (agent_module.init_agent(TINY, seed) for seed in (3, 3, 4))
    assert not first.trained
    assert_same(again, first)
    with pytest.raises(AssertionError):
        assert_same(other, first)


def test_notes_beside_the_weights_are_ignored(directory: Path) -> None:
    (directory / "README.md").write_text("What this agent is.")
    (directory / ".gitattributes").write_text("")
    load_agent(directory)


# ---- Saving: all or nothing


def test_an_existing_directory_is_kept_unless_told(agent: Agent, directory: Path) -> None:
    with pytest.raises(AgentError, match="agent: exists already"):
        save_agent(directory, agent)
    other = dataclasses.replace(agent, params=small_params(TINY, 1))
    save_agent(directory, other, overwrite=True)
    assert_same(load_agent(directory), other)
    assert [path.name for path in directory.parent.iterdir()] == ["agent"]


def test_a_directory_that_is_no_agent_is_never_overwritten(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(AgentError, match=r"holds no manifest\.json, so it is something else"):
        save_agent(tmp_path, agent, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_a_save_that_fails_leaves_nothing_and_keeps_the_old_one(
    agent: Agent, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        save_agent(directory, agent, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        save_agent(directory.parent / "new", agent)
    assert [path.name for path in directory.parent.iterdir()] == ["agent"]
    assert_same(load_agent(directory), agent)


@pytest.mark.parametrize(
    ("part", "tree", "reason"),
    [
        ("video_vae", {"conv": {}}, "video_vae.safetensors: conv.kernel: missing"),
        ("video_vae", {"conv": {"kernel": np.zeros((3, 3))}}, "conv.kernel: float64 [3, 3], expected F32 [3, 3]"),
        ("extra", {}, "needs exactly the parts transformer, perception, video_vae, audio_vae"),
    ],
)
def test_what_could_not_be_opened_is_not_saved(
    agent: Agent, tmp_path: Path, part: str, tree: dict[str, Any], reason: str
) -> None:
    broken = dataclasses.replace(agent, params=agent.params | {part: tree})
    with pytest.raises(AgentError, match=re.escape(reason)):
        save_agent(tmp_path / "agent", broken)
    assert not list(tmp_path.iterdir())


# ---- Opening: every damage is one error that names its file


def assert_refused(directory: Path, *reasons: str) -> None:
    with pytest.raises(AgentError) as caught:
        load_agent(directory)
    for reason in reasons:
        assert reason in str(caught.value)


def sign(directory: Path) -> None:
    """Make the manifest agree with the files as they are now, as whoever made them on purpose would."""
    manifest = json.loads((directory / MANIFEST).read_text())
    for name in FILES:
        data = (directory / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_manifest(directory, manifest)


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    seal = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    (directory / MANIFEST).write_text(json.dumps(manifest | {"sha256": seal}))


def test_no_directory(directory: Path) -> None:
    assert_refused(directory / "absent", "absent: no such directory")
    assert_refused(directory / "config.json", "config.json: not a directory")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file(directory: Path, name: str) -> None:
    (directory / name).unlink()
    assert_refused(directory, f"missing {name}")
    (directory / name).mkdir()
    assert_refused(directory, f"{name}: not a file")


def test_a_surplus_file(directory: Path) -> None:
    (directory / "performer.safetensors").write_bytes(b"")
    assert_refused(directory, "surplus performer.safetensors")


@pytest.fixture(scope="module")
def reference(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reference") / "agent"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_module, "init_params", small_params)
        save_agent(directory, agent)
    return directory


@given(name=st.sampled_from([*FILES, MANIFEST]), where=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
def test_any_flipped_bit(reference: Path, name: str, where: int, bit: int) -> None:
    path = reference / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[where % len(whole)] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        assert_refused(reference, name)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("change", [{"trained": False}, {"training": {"steps": 13}}, {"versions": {"jax": "0.1"}}])
def test_a_manifest_changed_by_hand(directory: Path, change: dict[str, Any]) -> None:
    path = directory / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert_refused(directory, "manifest.json: its sha256 is not the one it holds")


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short(directory: Path, name: str) -> None:
    path = directory / name
    path.write_bytes(path.read_bytes()[:-2])
    assert_refused(directory, f"{name}: ", "cut short or changed")
    sign(directory)
    assert_refused(directory, f"{name}: ")


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1, 2, 3]))


@pytest.mark.parametrize("name", ["transformer.safetensors", "config.json", "weights.bin"])
@pytest.mark.parametrize(
    "write",
    [
        _zip,
        *[lambda path, p=p: path.write_bytes(pickle.dumps({"kernel": [1.0] * 99}, protocol=p)) for p in (2, 3, 4, 5)],
    ],
    ids=["zip", "protocol 2", "protocol 3", "protocol 4", "protocol 5"],
)
def test_a_pickle_of_any_name(directory: Path, name: str, write: Callable[[Path], None]) -> None:
    write(directory / name)
    assert_refused(directory, f"{name}: a pickle, which can run code")


def test_a_header_whose_length_looks_like_a_pickle_is_none(directory: Path) -> None:
    path = directory / "video_vae.safetensors"
    header = (0x0280).to_bytes(8, "little")  # 640, the first bytes of a pickle of protocol 2
    entry = json.dumps({"conv.kernel": {"dtype": "F32", "shape": [3, 3], "data_offsets": [0, 36]}}).ljust(0x0280)
    path.write_bytes(header + entry.encode() + bytes(36))
    sign(directory)
    assert load_agent(directory).params["video_vae"]["conv"]["kernel"].shape == (3, 3)


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\xff" * 8 + b"{}",  # a header of 16 exabytes
        (50).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}" + b"surplus",
    ],
)
def test_an_absurd_header(directory: Path, contents: bytes) -> None:
    (directory / "perception.safetensors").write_bytes(contents)
    sign(directory)
    assert_refused(directory, "perception.safetensors: Error while deserializing header")


def _retensor(directory: Path, part: str, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    path = directory / f"{part}.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)
    sign(directory)


def half_of(x: np.ndarray) -> np.ndarray:
    """In half the bits, which may be, and with half the rows, which may not."""
    return x.astype(np.float16)[: len(x) // 2].copy()


def test_all_wrong_tensors_are_in_one_error(directory: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        del tensors["blocks.0.scale"]
        tensors["blocks.2.kernel"] = np.zeros(3, np.float32)
        tensors["blocks.0.kernel"] = tensors["blocks.0.kernel"].reshape(3, 2, 5).copy()
        tensors["blocks.1.kernel"] = tensors["blocks.1.kernel"].astype(np.float32)

    _retensor(directory, "transformer", change)
    _retensor(directory, "audio_vae", dict.popitem)
    _retensor(directory, "video_vae", lambda tensors: tensors.update({name: half_of(x) for name, x in tensors.items()}))
    assert_refused(
        directory,
        "video_vae.safetensors: ",
        "transformer.safetensors: blocks.0.kernel: BF16 [3, 2, 5], expected BF16 [2, 3, 5]",
        "transformer.safetensors: blocks.0.scale: missing",
        "transformer.safetensors: blocks.1.kernel: F32 [2, 3, 5], expected BF16 [2, 3, 5]",
        "transformer.safetensors: blocks.2.kernel: surplus",
        "audio_vae.safetensors: ",
    )


def test_no_array_is_read_before_everything_is_checked(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(agent_module, "_read_part", lambda path, _: read.append(path))
    _retensor(directory, PARTS[-1], dict.popitem)
    assert_refused(directory, PARTS[-1])
    assert not read


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("config.json", "{", "config.json: Expecting property name"),
        ("config.json", "[" * 100_000, "config.json: maximum recursion depth"),
        ("config.json", '{"colour": "red"}', "config.json: config: unknown field colour"),
        ("config.json", "\udcff", "config.json: 'utf-8' codec can't decode"),
        ("tokenizer.json", "{", "tokenizer.json: no tokenizer"),
        ("manifest.json", "{", "manifest.json: Expecting property name"),
        ("manifest.json", "3", "manifest.json: no manifest of an agent"),
        ("manifest.json", '{"format": "1"}', "manifest.json: no manifest of an agent"),
        ("manifest.json", '{"format": 1}', "manifest.json: no manifest of an agent: needs exactly format, files"),
        ("manifest.json", '{"format": 2}', "manifest.json: written in format 2 by a newer wanstreamer_jax; this one"),
    ],
)
def test_text_that_is_something_else(directory: Path, name: str, text: str, reason: str) -> None:
    (directory / name).write_text(text, errors="surrogateescape")
    if name != MANIFEST:
        sign(directory)
    assert_refused(directory, reason)


@pytest.mark.parametrize("files", [{}, {"../../etc/passwd": {}}, dict.fromkeys(FILES, 3), {name: {} for name in FILES}])
def test_a_manifest_that_lists_something_else(directory: Path, files: dict[str, Any]) -> None:
    write_manifest(directory, json.loads((directory / MANIFEST).read_text()) | {"files": files})
    assert_refused(directory, "manifest.json: ")


def test_a_tokenizer_too_large_for_the_model(directory: Path) -> None:
    config = dataclasses.replace(TINY, text=TextConfig(unit_end=255))
    (directory / "config.json").write_text(to_json(config))
    sign(directory)
    assert_refused(directory, "tokenizer.json: the tokenizer has 256 entries")


def test_a_configuration_for_other_tensors(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "init_params", init_params)
    assert from_json((directory / "config.json").read_text()) == TINY
    assert_refused(directory, "blocks.0.kernel: surplus", "missing")


def test_a_copy_is_as_good(directory: Path, agent: Agent, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "copy")
    assert_same(load_agent(str(tmp_path / "link")), agent)
