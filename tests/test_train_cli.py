"""Laws of the command line: fields by name and type, one sentence for whatever is wrong, several hosts as one."""

import dataclasses
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import train as program
from tests import small_preset
from tests import train_toy as toy
from wanstreamer_jax.agent import init_agent, save_agent
from wanstreamer_jax.config import Config
from wanstreamer_jax.presets import load_preset, load_training, preset_names
from wanstreamer_jax.training import hosts
from wanstreamer_jax.training.config import Gate, MeshShape, Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.origin import open_origin
from wanstreamer_jax.training.overrides import describe, override, parse_overrides
from wanstreamer_jax.training.sharding import check_batch, make_mesh
from wanstreamer_jax.training.stages import STAGES, find_stage

ROOT = Path(__file__).parents[1]


def change(*arguments: str, root=None):
    return override(root or load_training("tiny")["video_vae"], parse_overrides(arguments))


def test_fields_are_replaced_in_their_types():
    changed = change("--optimizer.learning_rate", "1", "--steps=1e3", "--compute", "bfloat16", "--weights.kl", "0.5")
    assert changed.optimizer.learning_rate == 1.0
    assert type(changed.optimizer.learning_rate) is float
    assert (changed.steps, type(changed.steps)) == (1000, int)
    assert changed.compute == "bfloat16"
    assert changed.weights.kl == 0.5
    gates = change('--gates=[{"measure": "a", "at_most": 1}, {"measure": "b", "at_least": null}]').gates
    assert gates == (Gate("a", at_most=1.0), Gate("b"))
    assert change() == load_training("tiny")["video_vae"]
    tiny: Config = change("--picture.width", "128", "--video_vae.multipliers", "[1,1,1,1]", root=load_preset("tiny"))
    assert tiny.picture.width == 128
    assert tiny.video_vae.multipliers == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--optimiser.clip", "1"), "Training has no field 'optimiser'; did you mean 'optimizer'"),
        (("--optimizer.clipp", "1"), "OptimizerConfig has no field 'clipp'; did you mean 'clip'"),
        (("--steps", "many"), "--steps: expected int, not 'many'"),
        (("--steps", "1.5"), "--steps: expected int, not 1.5"),
        (("--compute", "float16"), "--compute: 'float16' is not one of"),
        (('--gates=[{"measure": "a", "at_most": "low"}]',), "--gates.at_most: expected float, not 'low'"),
        (("--steps.more", "1"), "'steps' has no fields of its own"),
        (("--steps",), "cannot read '--steps'"),
        (("steps", "3"), "cannot read 'steps 3'"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(arguments, words):
    with pytest.raises(TrainingError, match=words):
        change(*arguments)


def test_a_field_that_does_not_fit_others_says_so():
    with pytest.raises(TrainingError, match=r"--picture.width 100: picture 100x64: no multiple of 16"):
        change("--picture.width", "100", root=load_preset("tiny"))


def test_an_agent_goes_on_with_other_fields_if_its_parameters_fit(tmp_path):
    config = small_preset.config
    save_agent(tmp_path / "agent", init_agent(config, 0))
    origin = open_origin(tmp_path / "agent", config, seed=0)
    wider = origin.changed(change("--picture.width", "64", root=config))
    assert wider.config.picture.width == 64
    assert wider.directory == origin.directory
    with pytest.raises(TrainingError, match=r"--agent.FIELD: .*agent has other shapes of transformer.layers.0.mlp"):
        origin.changed(change("--transformer.mlp", "24", root=config))


def test_every_field_is_described():
    lines = list(describe(load_training("tiny")["video_vae"]))
    assert len(lines) > 30
    assert any(line.split() == ["--save_every_s", "300.0", "seconds", "between", "checkpoints"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny", "--stage", "vidio_vae"), "no stage 'vidio_vae': did you mean 'video_vae'?"),
        (("tinyy", "--stage", "video_vae"), "no preset 'tinyy': did you mean 'tiny'?"),
        (("served.py", "--stage", "video_vae"), "served.py: cannot be trained"),
        (("tiny", "--stage", "video_vae", "--agent", "nowhere"), "nowhere: no such directory"),
        (("tiny", "--stage", "video_vae", "--mesh.fsdp", "2"), "9 devices do not divide by fsdp 2"),
        (("tiny", "--stage", "video_vae", "--batch", "7"), "batch 7 does not divide by accumulation 1 x 9 devices"),
        (
            ("tiny", "--stage", "video_vae", "--coordinator", "x:1"),
            "--coordinator, --processes and --process go together",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("served.py").write_text("from wanstreamer_jax.presets import load_preset\n\nconfig = load_preset('tiny')\n")
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, "--workdir", str(tmp_path / "run")])
    assert program.main() == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_an_export_in_the_way_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no manifest"):
        toy.train(dataclasses.replace(toy.job(tmp_path / "run"), export=tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", preset_names())
def test_every_stage_of_every_preset_is_there(preset):
    recipe = load_training(preset)
    # Large presets have the ears of a public checkpoint.
    assert list(recipe) == [name for name in STAGES if preset == "tiny" or name not in ("hearing", "seeing")]
    for name, training in recipe.items():
        assert isinstance(training, Training)
        assert find_stage(name).name == name
        assert training.gates


@pytest.mark.parametrize("preset", [name for name in preset_names() if name != "tiny"])
def test_large_presets_fill_a_node(preset):
    """What docs/pods.md writes: 8 GPUs of a host share a copy."""
    for name, training in load_training(preset).items():
        mesh = make_mesh(MeshShape(data=1, fsdp=8))
        check_batch(training, mesh, find_stage(name).batch_axes)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}, ()),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ()),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "3"},
            ("a:1", 4, 3),
        ),
    ],
)
def test_other_processes_are_met_when_the_environment_says_so(environment, expected, monkeypatch):
    met = []
    monkeypatch.setattr(hosts.jax.distributed, "initialize", lambda *address: met.append(address))
    hosts.connect(None, environment)
    assert met == ([] if expected is None else [expected])


def test_two_processes_are_one_run(tmp_path):
    """Each with one device and half of every batch: the same losses as one process, and one set of files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.train_toy", str(tmp_path / "run"), "--mesh.data", "2", "--steps", "4"]
    processes = [
        subprocess.Popen([*command, f"127.0.0.1:{port}", "2", str(i)], cwd=ROOT, stderr=subprocess.PIPE)
        for i in range(2)
    ]
    errors = [process.communicate(timeout=240)[1].decode()[-2000:] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    toy.train(toy.job(tmp_path / "one", steps=4))
    two, one = ([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("run", "one"))
    for a, b in zip(two, one, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert (tmp_path / "run" / "agent" / "manifest.json").is_file()
