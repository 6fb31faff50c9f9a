"""Laws of a session on disk: complete or absent, and what was made is what is read."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from wanstreamer_jax.data.world import Kind, Session, Who, World, folder, make_session, write_session, write_sessions
from wanstreamer_jax.media import open_media
from wanstreamer_jax.presets import load_preset
from wanstreamer_jax.serving.world_file import read_setting
from wanstreamer_jax.timeline import SAMPLES_PER_UNIT, Picture

WORLD = World(seconds=9.6, mixture={Kind.COLOUR: 1.0, Kind.TYPED: 1.0, Kind.COUNT: 1.0})


@pytest.fixture(scope="module")
def session() -> Session:
    return make_session(6, WORLD)


@pytest.fixture(scope="module")
def written(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "one"
    write_session(session, path)
    return path


def read(path: Path, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    with open_media(path, picture) as media:
        units = list(media)
    return np.concatenate([u.frames for u in units]), np.concatenate([u.samples for u in units])


@pytest.mark.parametrize("who", ["user", "agent"])
def test_films_are_the_session(session: Session, written: Path, who: str) -> None:
    frames, samples = getattr(session, f"{who}_frames"), getattr(session, f"{who}_samples")
    seen, heard = read(written / f"{who}.mp4", Picture(frames.shape[2], frames.shape[1]))
    assert len(seen) == len(frames)
    assert len(heard) == session.n_units * SAMPLES_PER_UNIT
    assert np.abs(seen.astype(int) - frames).mean() < 8
    assert np.corrcoef(heard, samples)[0, 1] > 0.97  # to the sample: nothing is late


def test_words_are_written_in_order(session: Session, written: Path) -> None:
    words = [json.loads(line) for line in (written / "words.jsonl").read_text().splitlines()]
    assert all(list(word) == ["who", "start_ms", "end_ms", "text"] for word in words)
    assert words == [
        {"who": w.who, "start_ms": w.start_ms, "end_ms": w.end_ms, "text": w.text} for w in session.labels.words
    ]
    assert [w["start_ms"] for w in words] == sorted(w["start_ms"] for w in words)
    assert {w["who"] for w in words} <= set(Who)


def test_the_description_says_what_is_true(session: Session, written: Path) -> None:
    about = json.loads((written / "session.json").read_text())
    assert about["licence"] == "CC0-1.0"
    assert about["rates"] == {"video_fps": 25, "sample_rate_hz": 24_000, "unit_ms": 160}
    assert about["units"] == session.n_units
    assert about["labels"]["seed"] == 6
    assert about["labels"]["mouth_opening"] == session.labels.mouth_opening
    assert [t["expected"] for t in about["labels"]["turns"]] == [t.expected for t in session.labels.turns]


def test_its_world_can_be_served(session: Session, written: Path) -> None:
    about = json.loads((written / "session.json").read_text())
    world_file = written / "world.json"
    world_file.write_text(json.dumps(about["world"]))
    setting = read_setting(world_file, load_preset("tiny"))
    assert setting.persona.startswith("You are Wanda.")
    assert setting.portrait is not None
    assert setting.voice is not None
    assert np.abs(setting.portrait.astype(int) - session.portrait).mean() < 4
    with wave.open(str(written / "voice.wav")) as voice:
        assert voice.getnframes() / voice.getframerate() > 2


def test_a_folder_is_never_overwritten(session: Session, written: Path) -> None:
    before = sorted(path.name for path in written.iterdir())
    with pytest.raises(FileExistsError, match="is there already"):
        write_session(session, written)
    assert sorted(path.name for path in written.iterdir()) == before


def test_what_cannot_be_completed_is_not_there(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_wav", full)
    with pytest.raises(OSError, match="No space left"):
        write_session(session, tmp_path / "one")
    assert list(tmp_path.iterdir()) == []


def test_many_are_written_once_each(tmp_path: Path) -> None:
    world = World(seconds=0.64)
    paths = list(write_sessions(tmp_path, range(3), world))
    assert [path.name for path in paths] == ["train-00000000", "train-00000001", "train-00000002"]
    stamp = (paths[1] / "session.json").stat().st_mtime_ns
    assert list(write_sessions(tmp_path, range(3), world)) == paths
    assert (paths[1] / "session.json").stat().st_mtime_ns == stamp
