"""`serve.py`: a media file in, a media file of the same length out; bad input is one sentence and leaves nothing."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

import serve
from tests import small_preset
from wanstreamer_jax.agent import init_agent, save_agent
from wanstreamer_jax.config import HistoryConfig
from wanstreamer_jax.media.writer import MediaWriter
from wanstreamer_jax.serving.world_file import read_setting
from wanstreamer_jax.stream.placement import STEPS
from wanstreamer_jax.stream.unified import Unified
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, UNIT_MS, VIDEO_FPS, Picture

PRESET = str(Path(__file__).parent / "small_preset.py")
SMALL = small_preset.config
N_FRAMES = 27  # the last unit is a partial one


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """1.08 s of a moving picture and a tone."""
    path, size = tmp_path_factory.mktemp("clip") / "user.mp4", Picture(64, 48)
    rng = np.random.default_rng(0)
    frames = np.cumsum(rng.integers(0, 9, (N_FRAMES, size.height, size.width, 3)), axis=0).astype(np.uint8)
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(N_FRAMES * SAMPLES_PER_FRAME) / SAMPLE_RATE_HZ)
    with MediaWriter(path, size) as writer:
        writer.write(frames, tone.astype(np.float32))
    return path


def run(monkeypatch, *args, preset=PRESET) -> int:
    """Exit code of `serve.py`."""
    options = [*map(str, args), *(["--preset", preset] if preset and "--agent" not in args else [])]
    if "--placement" not in options and "--performer-ranks" not in options:
        options += ["--placement", "unified"]
    monkeypatch.setattr(sys, "argv", ["serve.py", *options])
    try:
        return serve.main()
    except SystemExit as stop:
        return stop.code


def decoded(path):
    """Frames and samples of a media file, and what its streams say of themselves."""
    with av.open(str(path)) as media:
        video, audio = media.streams.video[0], media.streams.audio[0]
        facts = (video.width, video.height, video.average_rate, audio.rate)
    with av.open(str(path)) as media:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in media.decode(video=0)])
    with av.open(str(path)) as media:
        samples = np.concatenate([f.to_ndarray()[0] for f in media.decode(audio=0)])
    return frames, samples, facts


def test_reply_is_as_long_as_the_input_and_the_report_is_complete(monkeypatch, clip, tmp_path, capsys):
    reply, report, subtitles = tmp_path / "reply.mp4", tmp_path / "report.json", tmp_path / "reply.vtt"
    options = ["--report", report, "--record-text", subtitles, "--solver-steps", 1]
    assert run(monkeypatch, "--input", clip, "--output", reply, *options) == 0
    frames, samples, facts = decoded(reply)
    assert facts == (SMALL.picture.width, SMALL.picture.height, VIDEO_FPS, SAMPLE_RATE_HZ)
    assert len(frames) == N_FRAMES
    assert abs(len(samples) - N_FRAMES * SAMPLES_PER_FRAME) <= SAMPLES_PER_FRAME
    said = json.loads(report.read_text())
    assert said["units"] == -(-N_FRAMES // 4)
    assert abs(said["seconds"] - N_FRAMES / VIDEO_FPS) < UNIT_MS / 1000
    assert said["picture"] == [SMALL.picture.width, SMALL.picture.height]
    assert (said["placement"], said["solver_steps"], said["concealed"]) == ("unified", 1, 0)
    assert said["compiles_after_warmup"] == 0
    assert said["history_tokens"] > 0
    assert said["bytes_per_session"] > 0
    assert said["late_units"] >= 0
    for step in (*STEPS, "signal_to_signal"):
        assert 0 < said["latency_ms"][step]["p50"] <= said["latency_ms"][step]["max"]
    assert all(set(entry) == {"unit", "text"} for entry in said["text"])
    assert subtitles.read_text().startswith("WEBVTT")
    assert "untrained" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["reply.mp4", "reply.vtt", "report.json"]


def test_the_bundled_agent_and_its_world_are_the_default(capsys):
    args = serve.parse_args([])
    agent, world = serve.open_agent(args), serve.world_file(args)
    assert agent.trained
    assert "Wanda" in read_setting(world, agent.config).persona
    untrained = serve.parse_args(["--preset", PRESET])
    assert not serve.open_agent(untrained).trained
    assert serve.world_file(untrained) is None
    with pytest.raises(ValueError, match="leave out --preset"):
        serve.open_agent(serve.parse_args(["--preset", PRESET, "--agent", "x"]))


def test_one_seed_is_one_conversation(monkeypatch, clip, tmp_path):
    replies = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run(monkeypatch, "--input", clip, "--output", tmp_path / f"{name}.mp4", "--seed", seed) == 0
        replies.append(decoded(tmp_path / f"{name}.mp4")[:2])
    for x, y in zip(replies[0], replies[1], strict=True):
        np.testing.assert_array_equal(x, y)
    assert np.any(replies[0][0] != replies[2][0])


def test_a_world_changes_the_reply(monkeypatch, clip, tmp_path):
    world = tmp_path / "world.json"
    world.write_text(json.dumps({"persona": "kind", "portrait": str(clip), "voice": str(clip)}))
    assert run(monkeypatch, "--input", clip, "--output", tmp_path / "a.mp4") == 0
    assert run(monkeypatch, "--input", clip, "--output", tmp_path / "b.mp4", "--world", world) == 0
    assert np.any(decoded(tmp_path / "a.mp4")[0] != decoded(tmp_path / "b.mp4")[0])


def test_interrupt_leaves_a_playable_reply(monkeypatch, clip, tmp_path):
    performed, perform = [], Unified._perform

    def interrupted(self, *args):
        performed.append(args)
        if len(performed) == 6:  # the first is the warm-up; it comes in unit 4, before unit 3 is given
            signal.raise_signal(signal.SIGINT)
        return perform(self, *args)

    monkeypatch.setattr(Unified, "_perform", interrupted)
    report = tmp_path / "report.json"
    assert run(monkeypatch, "--input", clip, "--output", tmp_path / "reply.mp4", "--report", report) == 130
    assert len(decoded(tmp_path / "reply.mp4")[0]) == 4 * 4
    assert json.loads(report.read_text())["units"] == 4


def test_ctrl_c_leaves_a_playable_reply(tmp_path):
    root = Path(__file__).parents[1]
    sample, reply = root / "wanstreamer_jax" / "assets" / "sample.mp4", tmp_path / "reply.mp4"
    many = 32  # steps: so slow that it can be met on its way
    options = ["--input", sample, "--output", reply, "--preset", PRESET, "--placement", "unified"]
    options += ["--solver-steps", many]
    environment = {**os.environ, "PYTHONPATH": str(root), "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "serve.py", *map(str, options)]
    with subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE) as process:
        seen = b""
        while not re.search(rb" [1-9]\d?/100", seen) and (chunk := os.read(process.stderr.fileno(), 4096)):
            seen += chunk
        process.send_signal(signal.SIGINT)
        seen += process.stderr.read()
    assert process.returncode == 130, seen.decode()
    assert 4 <= len(decoded(reply)[0]) < 400
    assert [p.name for p in tmp_path.glob("*.mp4")] == ["reply.mp4"]


def test_a_full_history_ends_the_session_cleanly(monkeypatch, clip, tmp_path, capsys):
    preset = tmp_path / "full.py"
    preset.write_text(
        "import dataclasses\nfrom tests.small_preset import config as small\n"
        "from wanstreamer_jax.config import HistoryConfig\n"
        "config = dataclasses.replace(small, history=HistoryConfig(policy='full', n_tokens=60))\n"
    )
    reply = tmp_path / "reply.mp4"
    assert run(monkeypatch, "--input", clip, "--output", reply, preset=str(preset)) == 0
    assert 0 < len(decoded(reply)[0]) < N_FRAMES
    assert "history.policy full" in capsys.readouterr().err


def test_a_damaged_frame_is_concealed_and_counted(monkeypatch, clip, tmp_path):
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as media:
        packets = [p for p in media.demux(video=0) if p.size]
    at, size = packets[9].pos, packets[9].size
    data[at + 4 : at + size] = bytes(size - 4)
    damaged, report = tmp_path / "damaged.mp4", tmp_path / "report.json"
    damaged.write_bytes(bytes(data))
    assert run(monkeypatch, "--input", damaged, "--output", tmp_path / "reply.mp4", "--report", report) == 0
    assert json.loads(report.read_text())["concealed"] > 0
    assert len(decoded(tmp_path / "reply.mp4")[0]) == N_FRAMES


def damaged_agent(folder, damage):
    """An agent directory of the small preset with one thing wrong."""
    save_agent(folder, init_agent(SMALL, 0))
    damage(folder)
    return folder


def flip_a_bit(folder):
    path = folder / "transformer.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))


def make_a_pickle(folder):
    (folder / "transformer.safetensors").write_bytes(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.")


@pytest.mark.parametrize("damage", [flip_a_bit, make_a_pickle, lambda folder: (folder / "config.json").unlink()])
def test_a_damaged_agent_is_refused(monkeypatch, clip, tmp_path, capsys, damage):
    agent = damaged_agent(tmp_path / "agent", damage)
    assert run(monkeypatch, "--input", clip, "--output", tmp_path / "reply.mp4", "--agent", agent) == 2
    assert str(agent) in capsys.readouterr().err
    assert not (tmp_path / "reply.mp4").exists()


def test_a_saved_agent_answers_like_the_one_in_memory(monkeypatch, clip, tmp_path):
    save_agent(tmp_path / "agent", init_agent(SMALL, 0))
    assert run(monkeypatch, "--input", clip, "--output", tmp_path / "a.mp4") == 0
    assert (
        run(monkeypatch, "--input", clip, "--output", tmp_path / "b.mp4", "--agent", tmp_path / "agent", preset=None)
        == 0
    )
    np.testing.assert_array_equal(decoded(tmp_path / "a.mp4")[0], decoded(tmp_path / "b.mp4")[0])


def bad_inputs(tmp_path, clip):
    """Name -> (options, what the message must contain)."""
    text, truncated, empty = tmp_path / "text.mp4", tmp_path / "truncated.mp4", tmp_path / "empty.mp4"
    text.write_text("hello")
    truncated.write_bytes(clip.read_bytes()[:900])
    empty.touch()
    world = tmp_path / "world.json"
    world.write_text('{"person": "kind"}')
    reply = tmp_path / "out" / "reply.mp4"
    (tmp_path / "out").mkdir()
    good = ["--input", clip, "--output", reply]
    return {
        "missing": (["--input", tmp_path / "no.mp4", "--output", reply], "no.mp4"),
        "empty": (["--input", empty, "--output", reply], "empty.mp4"),
        "not media": (["--input", text, "--output", reply], "text.mp4"),
        "truncated": (["--input", truncated, "--output", reply], "truncated.mp4"),
        "unwritable": (["--input", clip, "--output", tmp_path / "nowhere" / "reply.mp4"], "nowhere"),
        "onto itself": (["--input", clip, "--output", clip], "input too"),
        "unknown option": ([*good, "--sead", "1"], "--sead"),
        "no number": ([*good, "--seed", "one"], "--seed"),
        "ranks that do not divide": ([*good, "--placement", "ulysses", "--performer-ranks", "3"], "do not divide"),
        "ranks without ulysses": ([*good, "--performer-ranks", "2"], "--placement ulysses"),
        "a device that is not there": ([*good, "--placement", "split", "--devices", "0,99"], "[99] are missing"),
        "no steps": ([*good, "--solver-steps", "0"], "solver_steps"),
        "unwritable report": ([*good, "--report", tmp_path / "nowhere" / "r.json"], "nowhere"),
        "unknown field in the world": ([*good, "--world", world], "person"),
        "no agent": ([*good, "--agent", tmp_path / "no-agent"], "no-agent"),
    }


@pytest.mark.parametrize("placement", [["split"], ["ulysses", "--performer-ranks", 4]])
def test_another_placement_is_the_same_conversation(monkeypatch, clip, tmp_path, placement):
    outputs, shown, write = {}, [], MediaWriter.write
    monkeypatch.setattr(
        MediaWriter, "write", lambda self, frames, samples: (shown.append(frames), write(self, frames, samples))[1]
    )
    for name, options in (("a", ["unified"]), ("b", placement)):
        reply, report, trace = (tmp_path / f"{name}.{suffix}" for suffix in ("mp4", "json", "trace"))
        files = ["--output", reply, "--report", report, "--trace", trace]
        assert run(monkeypatch, "--input", clip, *files, "--placement", *options) == 0
        outputs[name] = json.loads(report.read_text()), decoded(reply)[0].astype(int)
        assert {e["ph"] for e in json.loads(trace.read_text())["traceEvents"]} == {"M", "X"}
    assert outputs["b"][0]["placement"] == placement[0]
    assert outputs["a"][0]["text"] == outputs["b"][0]["text"]
    one, other = np.split(np.concatenate(shown).astype(int), 2)
    assert np.max(np.abs(one - other)) <= 1  # of 255: what is written
    assert np.mean(np.abs(outputs["a"][1] - outputs["b"][1])) < 2  # of 255, after H.264; two seeds differ by 46


CASES = ["missing", "empty", "not media", "truncated", "unwritable", "onto itself", "unknown option", "no number"]
CASES += ["ranks that do not divide", "ranks without ulysses", "a device that is not there"]
CASES += ["no steps", "unwritable report", "unknown field in the world", "no agent"]


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_sentence_and_leaves_nothing(monkeypatch, clip, tmp_path, capsys, name):
    options, said = bad_inputs(tmp_path, clip)[name]
    before = clip.read_bytes()
    assert run(monkeypatch, *options) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in message
    assert message.startswith("serve.py: ")
    assert list((tmp_path / "out").iterdir()) == []
    assert clip.read_bytes() == before


def test_unknown_preset_names_the_nearest(monkeypatch, clip, tmp_path, capsys):
    assert run(monkeypatch, "--input", clip, "--output", tmp_path / "reply.mp4", preset="tinny") == 2
    assert "'tiny'" in capsys.readouterr().err


def test_the_last_window_of_history_is_reported(monkeypatch, clip, tmp_path):
    assert SMALL.history == HistoryConfig(policy="window", n_tokens=60)
    report = tmp_path / "report.json"
    assert run(monkeypatch, "--input", clip, "--output", tmp_path / "reply.mp4", "--report", report) == 0
    assert json.loads(report.read_text())["history_tokens"] == 60  # the window is full; there is no persona
