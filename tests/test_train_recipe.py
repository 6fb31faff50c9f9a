"""Laws of a recipe: stages in order, each from the last one's agent; what has ended is not done again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from wanstreamer_jax.presets import load_recipe, load_training
from wanstreamer_jax.training import recipe
from wanstreamer_jax.training.config import Phase
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.overrides import override, parse_overrides
from wanstreamer_jax.training.stages import STAGES

PHASES = (Phase("first", "video_vae", ("--steps=7",)), Phase("second", "audio_vae"), Phase("third", "hearing"))
PROGRAM = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
folder.mkdir(parents=True, exist_ok=True)
with (folder.parent / "told.jsonl").open("a") as told:
    told.write(json.dumps(sys.argv[1:]) + "\\n")
action = (folder.parent / "actions" / folder.name)
if action.exists():
    exec(action.read_text())
gate = {"measure": "loss", "value": 3.0, "passed": not (folder.parent / "fails" / folder.name).exists()}
(folder / "summary.json").write_text(json.dumps({"gates": [gate], "passed": gate["passed"]}))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the recipe; gives the exit code and what each process was told."""
    monkeypatch.setattr(recipe, "load_recipe", lambda _: PHASES)
    (tmp_path / "program.py").write_text(PROGRAM)

    def go():
        code = recipe.run_recipe("p", tmp_path, [sys.executable, str(tmp_path / "program.py")])
        return code, [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]

    return go


def act(tmp_path: Path, phase: str, script: str) -> None:
    (tmp_path / "actions").mkdir(exist_ok=True)
    (tmp_path / "actions" / phase).write_text(script)


def test_stages_follow_on_each_other_and_are_done_once(run, tmp_path):
    expected = [
        ["p", "--stage", "video_vae", "--workdir", f"{tmp_path}/1_first", "--steps=7"],
        ["p", "--stage", "audio_vae", "--workdir", f"{tmp_path}/2_second", "--agent", f"{tmp_path}/1_first/agent"],
        ["p", "--stage", "hearing", "--workdir", f"{tmp_path}/3_third", "--agent", f"{tmp_path}/2_second/agent"],
    ]
    assert run() == (0, expected)
    assert run() == (0, expected)  # nothing was left to do


@pytest.mark.parametrize(("script", "code"), [("sys.exit(0)", 0), ("sys.exit(2)", 2)])
def test_a_stage_that_was_cut_off_goes_on(run, tmp_path, script, code):
    act(tmp_path, "2_second", script)
    stopped, told = run()
    assert (stopped, len(told)) == (code, 2)
    (tmp_path / "actions" / "2_second").unlink()
    finished, told = run()
    assert (finished, [words[2] for words in told]) == (0, ["video_vae", "audio_vae", "audio_vae", "hearing"])


def test_nothing_is_built_on_a_gate_that_was_not_reached(run, tmp_path):
    (tmp_path / "fails").mkdir()
    (tmp_path / "fails" / "2_second").touch()
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"2_second: ended with gates .*loss is 3.0.*remove"):
            run()
    assert len((tmp_path / "told.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_stage_once(tmp_path, name):
    counting = """
import signal, time
n = []
for name in (signal.SIGINT, signal.SIGTERM): signal.signal(name, lambda number, _: n.append(number))
(folder / "ready").touch()
while not n: time.sleep(0.01)
time.sleep(0.3)
(folder.parent / "heard").write_text(str(len(n)))
sys.exit(0)
"""
    act(tmp_path, "1_first", counting)
    (tmp_path / "program.py").write_text(PROGRAM)
    script = (
        "import sys; from pathlib import Path; from tests.test_train_recipe import PHASES; "
        "from wanstreamer_jax.training import recipe; recipe.load_recipe = lambda _: PHASES; "
        f"sys.exit(recipe.run_recipe('p', Path({str(tmp_path)!r}), [sys.executable, {str(tmp_path / 'program.py')!r}]))"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1]) as process:
        began = time.monotonic()
        while not (tmp_path / "1_first" / "ready").exists():
            assert time.monotonic() - began < 60
            time.sleep(0.02)
        os.kill(process.pid, name)
        assert process.wait(20) == 0
    assert (tmp_path / "heard").read_text() == "1"
    assert not (tmp_path / "2_second").exists()


def test_every_phase_of_tiny_is_a_stage_with_fields_that_there_are():
    phases, training = load_recipe("tiny"), load_training("tiny")
    assert list(dict.fromkeys(phase.stage for phase in phases)) == list(STAGES)
    assert len({phase.name for phase in phases}) == len(phases)
    for phase in phases:
        fields = parse_overrides(phase.fields)
        override(training[phase.stage], {k: v for k, v in fields.items() if not k.startswith("agent.")})
    assert [phase.name for phase in load_recipe("v01_192p")] == list(load_training("v01_192p"))


def test_fields_of_one_stage_do_not_go_with_all(monkeypatch, tmp_path, capsys):
    for more in (["--steps", "3"], ["--agent", "x"], ["--tensorboard"]):
        monkeypatch.setattr(sys, "argv", ["train.py", "tiny", "--stage", "all", "--workdir", str(tmp_path), *more])
        assert train.main() == 2
        assert f"{more[0]} goes with one stage" in capsys.readouterr().err
