"""`serve.py --record` and `serve.py --replay`: one file, and an exit code that says whether all is equal."""

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import serve
from tests import small, small_preset
from tests.replay_cases import lines_of, place, the, write_lines
from wanstreamer_jax.agent import Agent
from wanstreamer_jax.media.writer import MediaWriter
from wanstreamer_jax.serving import media_file
from wanstreamer_jax.serving.replay import run as replay_module
from wanstreamer_jax.stream.unified import Unified
from wanstreamer_jax.timeline import SAMPLES_PER_FRAME, Picture
from wanstreamer_jax.tokens import byte_tokenizer

PRESET = str(Path(__file__).parent / "small_preset.py")
N_FRAMES = 18  # the last unit is a partial one
AGENT = Agent(small_preset.config, small.small_params(small_preset.config), byte_tokenizer(), trained=False)


def run(monkeypatch, *args, agent=AGENT, preset=PRESET):
    """Exit code of `serve.py` with an agent of the small preset."""
    monkeypatch.setattr(serve, "init_agent", lambda config, seed: agent)
    for module in (media_file, replay_module):
        monkeypatch.setattr(module, "place_agent", place)
    monkeypatch.setattr(sys, "argv", ["serve.py", *map(str, args), "--preset", preset])
    return serve.main()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder with what `--record` wrote, and its reply."""
    folder, size = tmp_path_factory.mktemp("recorded"), Picture(64, 48)
    rng = np.random.default_rng(0)
    with MediaWriter(folder / "user.mp4", size) as writer:
        frames = rng.integers(0, 256, (N_FRAMES, size.height, size.width, 3), np.uint8)
        writer.write(frames, rng.normal(size=N_FRAMES * SAMPLES_PER_FRAME).astype(np.float32) / 9)
    options = ["--input", folder / "user.mp4", "--output", folder / "reply.mp4", "--record", folder / "session.json"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(monkeypatch, *options, "--solver-steps", 1, "--seed", 3, "--placement", "unified") == 0
    return folder


def test_a_media_file_is_replayed_to_the_bit(monkeypatch, recorded, tmp_path, capsys):
    session, again = tmp_path / "session.json", tmp_path / "again.json"
    session.write_bytes((recorded / "session.json").read_bytes())  # one file is enough
    assert run(monkeypatch, "--replay", session, "--output", tmp_path / "reply.mp4", "--report", again) == 0
    said = json.loads(again.read_text())
    assert (said["units"], said["bit_equal"], said["cut_off"], said["recorded_elsewhere"]) == (5, True, False, [])
    assert "all 5 units are bit-equal" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.json", "reply.mp4", "session.json"]


def test_what_differs_is_exit_code_1(monkeypatch, recorded, tmp_path, capsys):
    lines = lines_of(recorded / "session.json")
    the(lines, "reply", 2)["samples"] = "0" * 64
    assert run(monkeypatch, "--replay", write_lines(tmp_path / "session.json", lines)) == 1
    assert "unit 2 differs, the sound" in capsys.readouterr().err


def test_a_recording_that_breaks_off_holds_the_unit_that_it_broke_off_in(monkeypatch, recorded, tmp_path, capsys):
    performed, perform = [], Unified._perform

    def broken(self, *args):
        performed.append(args)
        if len(performed) == 4:  # the first is the warm-up
            raise RuntimeError("out of order")
        return perform(self, *args)

    session = tmp_path / "session.json"
    options = ["--input", recorded / "user.mp4", "--output", tmp_path / "reply.mp4", "--record", session]
    with monkeypatch.context() as breaking:
        breaking.setattr(Unified, "_perform", broken)
        with pytest.raises(RuntimeError):
            run(monkeypatch, *options, "--solver-steps", 1, "--placement", "unified")
    assert [path.name for path in tmp_path.iterdir()] == ["session.json"]
    assert run(monkeypatch, "--replay", session) == 0
    assert "the next one, whose reply is not there, does not fail" in capsys.readouterr().err


def test_bad_input_is_exit_code_2_and_one_sentence(monkeypatch, recorded, tmp_path, capsys):
    session, film, text = recorded / "session.json", recorded / "user.mp4", tmp_path / "text.json"
    text.write_text("hello")
    params = jax.tree.map(lambda x: x * 2, AGENT.params)
    cases = [
        (["--replay", text], AGENT, "is no replay file"),
        (["--replay", recorded / "reply.mp4"], AGENT, "is no replay file"),
        (["--replay", session, "--solver-steps", 2], AGENT, "--solver-steps does not go with --replay"),
        (["--replay", session, "--record", session], AGENT, "--record does not go with --replay"),
        (["--replay", session, "--report", session], AGENT, "is the input too"),
        (["--replay", session], Agent(AGENT.config, params, AGENT.tokenizer, trained=False), "another agent"),
        (["--input", film, "--output", tmp_path / "a.mp4", "--record", recorded], AGENT, "is a folder"),
        (["--record", text], AGENT, "--record goes with --input"),
    ]
    for options, agent, message in cases:
        assert run(monkeypatch, *options, agent=agent) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("serve.py: ")
        assert message in said
    assert [path.name for path in tmp_path.iterdir()] == ["text.json"]


def test_the_placement_is_the_recorded_one_unless_another_is_asked_for():
    auto = argparse.Namespace(placement="auto", performer_ranks=None, devices=None)
    unified = argparse.Namespace(placement="unified", performer_ranks=None, devices=None)
    assert len(serve.place_again(auto, {"performer_ranks": 2}, 8).performer) == 2
    assert serve.place_again(unified, {"performer_ranks": 2}, 8) is None
    for recorded in ({"performer_ranks": 0}, {"performer_ranks": "two"}, {}):
        assert serve.place_again(auto, recorded, 8) is None
    with pytest.raises(ValueError, match="do not divide"):
        serve.place_again(auto, {"performer_ranks": 3}, 8)
