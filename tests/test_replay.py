"""A conversation in which units came late, were skipped and had fewer solver steps is lived again, bit for bit."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.replay_cases import (
    AGENT,
    CONFIG,
    LateSlot,
    a_setting,
    converse,
    lines_of,
    meanwhile,
    place,
    the,
    write_lines,
)
from wanstreamer_jax.agent import Agent
from wanstreamer_jax.media import open_media
from wanstreamer_jax.serving import slots as slots_module
from wanstreamer_jax.serving.recording import FolderRecorder
from wanstreamer_jax.serving.replay import run as run_module
from wanstreamer_jax.serving.replay.arrays import pack_samples, unpack_samples
from wanstreamer_jax.serving.replay.lines import ReplayError
from wanstreamer_jax.serving.replay.reading import open_recording
from wanstreamer_jax.serving.replay.run import ReplayJob, replay
from wanstreamer_jax.serving.slots import PlacementSlot
from wanstreamer_jax.timeline import SAMPLES_PER_UNIT
from wanstreamer_jax.tokens import word_tokenizer

N_LIVED = 12


@pytest.fixture(scope="module")
def slot():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots_module, "place_agent", place)
        slot = PlacementSlot(AGENT, None)
    yield slot
    slot.close()


@pytest.fixture(scope="module")
def recorded(slot, tmp_path_factory):
    """A replay file, what was shown, and what the file said while the conversation lasted."""
    directory = tmp_path_factory.mktemp("recordings")
    recorder = FolderRecorder(directory, "CC0-1.0", AGENT, a_setting(), 11)
    tape = recorder.folder.with_name(f"{recorder.folder.name}.json")
    said = []
    shown, _ = converse(LateSlot(slot), recorder, N_LIVED, lambda: said.append(meanwhile(tape)))
    return tape, shown, said[0]


@pytest.fixture(autouse=True)
def placed(monkeypatch, slot):
    """Replays live in the slot's placement, which is compiled."""
    monkeypatch.setattr(slot.session, "close", lambda: None)
    monkeypatch.setattr(run_module, "place_agent", lambda agent, devices: slot.session)
    yield
    monkeypatch.undo()


def again(path, agent=AGENT, **job):
    return replay(agent, open_recording(path), ReplayJob(**job))


def lived(lines):
    """The units that were."""
    return [line["seen"] for line in lines if "seen" in line]


def reported(path, tmp_path):
    """Whether all is equal, and the report."""
    equal = again(path, report=tmp_path / "report.json")
    return equal, json.loads((tmp_path / "report.json").read_text())


def test_what_was_late_skipped_and_reduced_comes_out_to_the_bit(recorded, tmp_path, capsys):
    path, shown, _ = recorded
    lines = lines_of(path)
    counters = shown[-1].counters
    assert min(counters.late, counters.skipped, counters.reduced, counters.missed) > 0
    assert any(line["text"] for line in lines if "seen" in line)
    film, report = tmp_path / "reply.mp4", tmp_path / "report.json"
    assert again(path, reply=film, report=report)
    said = json.loads(report.read_text())
    assert said["units"] == len(lived(lines)) >= N_LIVED
    assert (said["bit_equal"], said["cut_off"], said["differences"], said["failed"]) == (True, False, [], "")
    assert f"all {said['units']} units are bit-equal" in capsys.readouterr().err
    with open_media(film, CONFIG.picture) as media:
        assert media.n_units == len(shown)


def test_the_file_is_there_while_the_conversation_lasts(recorded):
    path, _, then = recorded
    assert then.is_cut_off
    assert 0 < then.n_replies <= open_recording(path).n_replies
    assert not open_recording(path).is_cut_off


@pytest.mark.parametrize("nth", [0, 3])
def test_one_other_sample_is_found_in_its_unit(recorded, tmp_path, capsys, nth):
    lines = lines_of(recorded[0])
    unit = lived(lines)[nth]
    seen = the(lines, "seen", unit)
    samples = unpack_samples(seen["samples"], SAMPLES_PER_UNIT)
    samples[100] += 0.25
    seen["samples"] = pack_samples(samples)
    equal, said = reported(write_lines(tmp_path / "other.json", lines), tmp_path)
    assert not equal
    assert said["differences"][0]["unit"] == unit
    assert 1 < said["replies_that_differ"] <= said["units"]  # what is lived is remembered
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"unit {unit} differs, the " in message
    assert "by up to" in message or "in none of" in message


def test_another_seed_or_world_is_another_conversation(recorded, tmp_path):
    for change in ({"seed": 12}, {"world": lines_of(recorded[0])[0]["world"] | {"persona": "cruel"}}):
        lines = lines_of(recorded[0])
        lines[0] |= change
        assert not again(write_lines(tmp_path / "other.json", lines))


@pytest.mark.parametrize("stream", ["text", "picture", "sound", "shown", "order"])
def test_each_stream_is_compared(recorded, tmp_path, stream):
    lines = lines_of(recorded[0])
    reply = the(lines, "reply", lived(lines)[1])
    if stream == "text":
        reply["text"] = [104, 105]
    elif stream == "picture":
        reply["frames"] = "0" * 64
    elif stream == "sound":
        reply["samples"] = "0" * 64
    else:
        shown = next(line for line in lines if line.get("concealed") is (stream == "order"))
        shown["sha256"] = "0" * 64
    equal, said = reported(write_lines(tmp_path / "other.json", lines), tmp_path)
    assert not equal
    assert [d["stream"] for d in said["differences"]] == ["shown" if stream == "order" else stream]
    if stream == "text":
        assert "in place of 'hi'" in said["differences"][0]["words"]


def test_what_was_cut_off_is_replayed_up_to_there(recorded, tmp_path, capsys):
    data = recorded[0].read_bytes()
    cut = tmp_path / "cut.json"
    cut.write_bytes(data[: data.index(b'{"seen"', len(data) // 2) + 500])
    equal, said = reported(cut, tmp_path)
    assert (equal, said["cut_off"]) == (True, True)
    assert 1 < said["units"] < open_recording(recorded[0]).n_units
    assert "cut off" in capsys.readouterr().err


def test_a_unit_that_failed_fails_again(slot, tmp_path, capsys):
    recorder = FolderRecorder(tmp_path, "CC0-1.0", AGENT, a_setting(), 11)
    _, endings = converse(LateSlot(slot, fails_at=1), recorder, 9)
    assert endings[0].name == "failed"
    (path,) = tmp_path.glob("*.json")
    recording = open_recording(path)
    assert (recording.n_units, recording.n_replies) == (2, 1)
    equal, said = reported(path, tmp_path)
    assert (equal, said["units"], said["unanswered_units"], said["failed"]) == (True, 1, 1, "")
    assert "does not fail" in capsys.readouterr().err


def other_weights():
    params = jax.tree.map(np.array, AGENT.params)
    jax.tree.leaves(params)[3].reshape(-1)[0] += 1e-3
    return Agent(AGENT.config, params, AGENT.tokenizer, trained=False)


OTHERS = {
    "weights": (other_weights, "its weights"),
    "tokenizer": (lambda: Agent(CONFIG, AGENT.params, word_tokenizer(), trained=False), "its tokenizer"),
    "configuration": (
        lambda: Agent(dataclasses.replace(CONFIG, name="x"), AGENT.params, AGENT.tokenizer, trained=False),
        "differs in name",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_agent_is_refused(recorded, tmp_path, name):
    make, said = OTHERS[name]
    with pytest.raises(ReplayError, match=f"another agent: .*{said}.*--agent") as refused:
        again(recorded[0], agent=make(), reply=tmp_path / "reply.mp4")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_other_solver_steps_of_the_agent_do_not_matter(recorded):
    assert again(recorded[0], agent=AGENT.with_solver_steps(1))


def test_another_backend_is_a_warning(recorded, tmp_path, capsys):
    lines = lines_of(recorded[0])
    lines[0]["machine"] |= {"backend": "tpu", "jax": "0.1.0"}
    equal, said = reported(write_lines(tmp_path / "other.json", lines), tmp_path)
    assert equal
    newer = f"jax was '0.1.0' and is {jax.__version__!r}"
    assert said["recorded_elsewhere"][:2] == [newer, "backend was 'tpu' and is 'cpu'"]
    assert "warning: it may not come out to the bit, for jax was" in capsys.readouterr().err
