"""`python -m wanstreamer_jax.evaluate`: closed loop, reports that come out the same, failures that are named."""

import dataclasses
import json

import numpy as np
import pytest

from tests import world_preset
from wanstreamer_jax import evaluate
from wanstreamer_jax.agent import init_agent, load_agent, save_agent
from wanstreamer_jax.data.clips import world_fields
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.world import Kind, Split, World, make_session
from wanstreamer_jax.data.world_source import from_world
from wanstreamer_jax.evaluation.baselines import BASELINES
from wanstreamer_jax.evaluation.chances import Share
from wanstreamer_jax.evaluation.closed_loop import ClosedLoop, setting_of
from wanstreamer_jax.evaluation.figures import FIGURES
from wanstreamer_jax.evaluation.report import AGENT
from wanstreamer_jax.evaluation.run import FIRST_SEED, SEEDS
from wanstreamer_jax.serving.world_file import make_start
from wanstreamer_jax.stream.worker import StepError
from wanstreamer_jax.training.clips import HELDOUT_SEED

CONFIG = world_preset.config
SECONDS = 3.2
SHORT = ("--sessions", "3", "--batch", "2", "--seconds", str(SECONDS), "--long-minutes", "0")


@pytest.fixture(scope="module")
def agent_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("agents") / "small"
    save_agent(directory, init_agent(CONFIG, seed=0))
    return directory


def run(*args) -> int:
    """Exit code of the command."""
    try:
        return evaluate.main([str(arg) for arg in args])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(scope="module")
def evaluated(agent_directory, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    layout = folder.parent / "clips"
    options = ("--keep", 1, "--layout", "full-duplex-bench", layout)
    assert run("--agent", agent_directory, "--output", folder, *SHORT, *options) == 0
    return folder


def test_an_evaluation_holds_what_it_should(evaluated) -> None:
    films = [f"heldout-{FIRST_SEED}.mp4"]
    files = {"report.json", "report.md", "latency.png", "yield_hold.png", "sync.png", *films}
    assert {path.name for path in evaluated.iterdir()} == files
    report = json.loads((evaluated / "report.json").read_text())
    assert report["settings"]["sessions"] == 3
    assert report["failures"] == []
    assert list(report["found"]) == [AGENT, *BASELINES]
    for found in report["found"].values():
        assert list(found["figures"]) == [figure.name for figure in FIGURES]
    table = (evaluated / "report.md").read_text()
    assert all(figure.words in table for figure in FIGURES)
    assert any((evaluated.parent / "clips" / "smooth_turn_taking").iterdir())


def test_the_same_seeds_give_the_same_report_to_the_byte(evaluated, agent_directory, tmp_path) -> None:
    report = tmp_path / "report.json"
    assert run("--agent", agent_directory, "--output", report, *SHORT) == 0
    assert report.read_bytes() == (evaluated / "report.json").read_bytes()
    assert list(tmp_path.iterdir()) == [report]


def test_sessions_are_none_of_training_nor_of_its_heldout_batches() -> None:
    assert FIRST_SEED > HELDOUT_SEED + 10**6
    assert FIRST_SEED + 3 * SEEDS < 2**63


# ---- The closed loop


def test_the_agent_is_given_what_training_gives_it(agent_directory) -> None:
    """Its world, and text, sound and pictures of every unit, as records have them."""
    agent = load_agent(agent_directory)
    pictures = {"user_picture": CONFIG.vision.picture, "agent_picture": CONFIG.picture}
    session = make_session(HELDOUT_SEED, World(Split.HELDOUT, {Kind.TYPED: 1.0}, 8.0, **pictures))
    layout = Layout.of(CONFIG, agent.tokenizer)
    record = from_world(session, agent.tokenizer, layout)
    with ClosedLoop(agent, 1, lambda _n: None) as loop:
        seen = list(loop.observations([session]))
    assert len(seen) == session.n_units
    assert record.n_user_text.any()
    for unit, u in enumerate(seen):
        assert np.array_equal(u.text[0], record.user_text[unit])
        assert int(u.n_text[0]) == record.n_user_text[unit]
        assert np.array_equal(u.frames[0], record.user_frames[unit])
        assert np.abs(np.asarray(u.samples[0]) - record.user_samples[unit] / 32767).max() < 1e-4
    given, fields = make_start(CONFIG, agent.tokenizer, [setting_of(session)], [0]).world, world_fields(record, layout)
    assert np.array_equal(given.text[0], fields["persona"])
    assert int(given.n_voice[0]) == fields["n_voice"]
    assert np.abs(np.asarray(given.voice[0]) - fields["voice"]).max() < 1e-4
    assert np.array_equal(given.portrait[0], fields["portrait"])


def test_its_own_outputs_are_its_history_and_go_on(agent_directory) -> None:
    """Two pieces without a beginning between them are one session; a beginning forgets."""
    agent = load_agent(agent_directory)
    pictures = {"user_picture": CONFIG.vision.picture, "agent_picture": CONFIG.picture}
    session = make_session(HELDOUT_SEED, World(Split.HELDOUT, seconds=1.6, **pictures))
    twice = dataclasses.replace(
        session,
        user_frames=np.tile(session.user_frames, (2, 1, 1, 1)),
        user_samples=np.tile(session.user_samples, 2),
        agent_frames=np.tile(session.agent_frames, (2, 1, 1, 1)),
        agent_samples=np.tile(session.agent_samples, 2),
        labels=dataclasses.replace(session.labels, words=[]),
    )
    once = dataclasses.replace(session, labels=twice.labels)
    with ClosedLoop(agent, 2, lambda _n: None) as loop:
        loop.begin([session], 0)
        first, second = loop.live([once]), loop.live([once])
        loop.begin([session], 0)
        (whole,) = loop.live([twice])
        loop.begin([session], 0)
        (again,) = loop.live([once])
    assert len(first) == len(second) == 1
    assert np.array_equal(np.concatenate([first[0].frames, second[0].frames]), whole.frames)
    assert np.array_equal(np.concatenate([first[0].samples, second[0].samples]), whole.samples)
    assert np.array_equal(first[0].samples, again.samples)
    assert not np.array_equal(first[0].samples, second[0].samples)


# ---- What goes wrong


def test_sessions_that_cannot_be_run_are_named_and_count_as_failures(
    evaluated, agent_directory, tmp_path, monkeypatch
) -> None:
    live = ClosedLoop.live

    def break_the_second_batch(loop, sessions):
        if len(sessions) == 1:
            raise StepError("think of unit 3 failed: no memory")
        return live(loop, sessions)

    monkeypatch.setattr(ClosedLoop, "live", break_the_second_batch)
    output = tmp_path / "report.json"
    assert run("--agent", agent_directory, "--output", output, *SHORT) == 0
    report = json.loads(output.read_text())
    (failure,) = report["failures"]
    assert failure == {"session": f"heldout-{FIRST_SEED + 2}", "reason": "think of unit 3 failed: no memory"}
    whole = json.loads((evaluated / "report.json").read_text())
    broken, unbroken = (r["found"][AGENT]["figures"] for r in (report, whole))
    for share in (Share.IN_TIME, Share.UNASKED, Share.ANSWER_OTHER):
        assert broken[share]["n"] == unbroken[share]["n"] > 0
    assert broken["identity"]["value"] < unbroken["identity"]["value"]
    assert report["found"]["world"] == whole["found"]["world"]


def test_a_long_run_that_breaks_has_failed_from_there_on(agent_directory, tmp_path, monkeypatch) -> None:
    live, n_lived = ClosedLoop.live, []

    def break_later(loop, sessions):
        n_lived.append(len(sessions))
        if len(n_lived) > 2:
            raise StepError("perform of unit 9 has not ended")
        return live(loop, sessions)

    monkeypatch.setattr("wanstreamer_jax.evaluation.run.MINUTE_S", SECONDS)
    monkeypatch.setattr(ClosedLoop, "live", break_later)
    output = tmp_path / "out"
    options = ("--sessions", 2, "--batch", 2, "--seconds", SECONDS, "--long-minutes", 3, "--long-runs", 2)
    assert run("--agent", agent_directory, "--output", output, *options) == 0
    report = json.loads((output / "report.json").read_text())
    assert [f["session"] for f in report["failures"]] == ["long runs, from minute 2 on"]
    assert n_lived == [2, 2, 2]
    minutes = report["found"][AGENT]["minutes"]
    assert [minute["identity"]["value"] == 0 for minute in minutes] == [False, True, True]
    assert report["found"][AGENT]["drifts"]["identity_change"]["value"] == -1
    assert (output / "drift.png").exists()


def test_ctrl_c_leaves_nothing(agent_directory, tmp_path, monkeypatch) -> None:
    def stop(loop, sessions):
        raise KeyboardInterrupt

    monkeypatch.setattr(ClosedLoop, "live", stop)
    for output in ("out", "report.json"):
        places = ("--output", tmp_path / output, "--layout", "videofdb", tmp_path / "clips")
        assert run("--agent", agent_directory, *places, *SHORT) == 130
    assert list(tmp_path.iterdir()) == []


def test_an_agent_without_room_for_the_persona_is_refused(agent_directory, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("wanstreamer_jax.evaluation.closed_loop.PERSONA", 129 * "x")
    assert run("--agent", agent_directory, "--output", tmp_path / "out", *SHORT) == 2
    assert "a world holds 128 (world.max_text)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--sessions", 0), "--sessions 0: from 1"),
        (("--seconds", 0.5), "--seconds 0.5: at least 1"),
        (("--seconds", "nan"), "--seconds nan: at least 1"),
        (("--batch", 0), "--batch 0: from 1"),
        (("--long-minutes", -1), "--long-minutes -1: from 0"),
        (("--keep", 1, "--output", "report.json"), "report.json is a file"),
        (("--layout", "wav", "there"), "there are full-duplex-bench, videofdb"),
        (("--layout", "videofdb", "."), "exists already"),
        (("--output", "."), "exists already"),
        (("--output", ".", "--overwrite"), "holds no report.json"),
        (("--agent", "nowhere"), "no such directory"),
        (("--solver-steps", 0), "solver_steps"),
    ],
)
def test_bad_input_is_one_sentence(options, sentence, agent_directory, tmp_path, monkeypatch, assert_refused) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(run("--agent", agent_directory, *SHORT, *options), sentence)
    assert list(tmp_path.iterdir()) == []


def test_help_names_units(capsys) -> None:
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert "whole units of 160 ms" in said
    assert "--long-minutes" in said
