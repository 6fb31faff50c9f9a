"""Every kind of defect is found, with file, time and reason; a good folder has none, and nothing is changed."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data_cases import LAYOUT, session_folder
from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.folder import read_session, session_folders
from wanstreamer_jax.data.importers.film import write_film
from wanstreamer_jax.data.validate import problems_of
from wanstreamer_jax.media import MediaWriter
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

SECONDS = 2.4


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def film(file: Path, seconds: float, sound_s: float | None = None) -> None:
    """A film whose sound may end at another time than its picture."""
    n = round(seconds * 25)
    picture = LAYOUT.user_picture
    frames = np.zeros((n, picture.height, picture.width, 3), np.uint8)
    silent = file.with_name("silent.mp4")
    with MediaWriter(silent, picture) as writer:
        writer.write(frames, np.zeros(n * SAMPLES_PER_FRAME, np.float32))
    write_film(file, np.zeros(round((sound_s or seconds) * SAMPLE_RATE_HZ), np.float32), silent)
    silent.unlink()


def words(*lines: object) -> Callable[[Path], object]:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    return lambda folder: (folder / "words.jsonl").write_text(text)


def word(start_ms: object, end_ms: int, who: str = "agent", text: str = "hi", **more: object) -> dict[str, object]:
    return {"who": who, "start_ms": start_ms, "end_ms": end_ms, "text": text, **more}


def about(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "session.json"
        fields = {k: v for k, v in (json.loads(file.read_text()) | changes).items() if v is not None}
        file.write_text(json.dumps(fields))

    return change


CAPTION = {"of": "image", "start_ms": 0, "end_ms": 900, "text": "A card."}


def captions(*given: object) -> Callable[[Path], object]:
    return about(labels={"captions": given})


def damaged(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        start = data.find(b"mdat") + len(data) // 2
        data[start : start + 400] = bytes(400)
        (folder / name).write_bytes(data)

    return change


DEFECTS: list[tuple[Callable[[Path], object], str, str]] = [
    (lambda f: (f / "user.mp4").unlink(), "user.mp4", "is missing"),
    (lambda f: (f / "words.jsonl").unlink(), "words.jsonl", "is missing"),
    (lambda f: (f / "session.json").unlink(), "session.json", "is missing"),
    (lambda f: (f / "portrait.png").unlink(), "session.json", "world: portrait.png is missing"),
    (lambda f: (f / "voice.wav").write_bytes(b"RIFF"), "voice.wav", "is no media"),
    (about(world={"portrait": "voice.wav"}), "voice.wav", "is the portrait, but holds no picture"),
    (about(world={"voice": "portrait.png"}), "portrait.png", "is the voice, but holds no sound"),
    (lambda f: (f / "agent.mp4").write_text("no film"), "agent.mp4", "is no media"),
    (lambda f: (f / "agent.mp4").write_bytes(b""), "agent.mp4", "is empty"),
    (lambda f: film(f / "agent.mp4", 3.2), "agent.mp4", "at 2.4.. s: lasts 3.2.. s, but user.mp4 2.4.. s"),
    (lambda f: film(f / "agent.mp4", SECONDS, 1.6), "agent.mp4", "at 1.600 s: its picture ends at 2.4.. s, its sound"),
    (damaged("user.mp4"), "user.mp4", r"at \d\.\d+ s: \d+ damaged pieces cannot be decoded"),
    (about(labels={"captions": {}}), "session.json", "labels.captions: expected list"),
    (captions("A card."), "session.json", r"labels.captions\[0\]: is no JSON object"),
    (
        captions({"of": "image", "start_ms": 0, "text": "A card."}),
        "session.json",
        r"missing field labels.captions\[0\].end_ms",
    ),
    (captions(CAPTION | {"end_ms": 1.5}), "session.json", r"labels.captions\[0\].end_ms: expected int, not 1.5"),
    (
        captions(CAPTION, CAPTION | {"of": "film"}),
        "session.json",
        r"labels.captions\[1\].of: 'film' is none of image, audio",
    ),
    (
        captions(CAPTION | {"start_ms": 900}),
        "session.json",
        r"captions\[0\]: needs a text, and an end after its",
    ),
    (words("{"), "words.jsonl", "line 1: is no JSON"),
    (words(word(0, 9), "[]\n"), "words.jsonl", "line 2: is no JSON object"),
    (words(word(0, 9), "\n"), "words.jsonl", "line 2: is no JSON"),
    (
        words({"who": "agent"}),
        "words.jsonl",
        "line 1: missing field start_ms; missing field end_ms; missing field text",
    ),
    (words(word(0, 9, speaker=1)), "words.jsonl", "line 1: unknown field speaker"),
    (words(word(0.5, 9)), "words.jsonl", "line 1: start_ms: expected int, not 0.5"),
    (
        words(word(0, 9, "robot")),
        "words.jsonl",
        "line 1: unknown who 'robot': one of user, agent, user_typed, background",
    ),
    (words(word(0, 9), word(20, 30, text=" ")), "words.jsonl", "line 2, at 0.020 s: empty text"),
    (words(word(-20, 9)), "words.jsonl", "line 1, at -0.020 s: begins before the session"),
    (words(word(500, 400)), "words.jsonl", "line 1, at 0.500 s: 'hi' ends at 0.400 s, before it begins"),
    (words(word(500, 600), word(100, 200)), "words.jsonl", "line 2, at 0.100 s: 'hi' is out of order"),
    (words(word(500, 600), word(590, 700)), "words.jsonl", "line 2, at 0.590 s: 'hi' overlaps the agent's word before"),
    (words(word(2300, 2700)), "words.jsonl", "line 1, at 2.300 s: 'hi' ends at 2.700 s, after the session"),
    (lambda f: (f / "words.jsonl").write_bytes(b"\xff"), "words.jsonl", "cannot be read as UTF-8"),
    (lambda f: (f / "session.json").write_text('{"licence"\n: }'), "session.json", "line 2: is no JSON"),
    (lambda f: (f / "session.json").write_text("[]"), "session.json", "is no JSON object"),
    (about(licence=None), "session.json", "no licence"),
    (about(licence=""), "session.json", "no licence"),
    (about(license="MIT"), "session.json", "unknown field license"),
    (about(world=3), "session.json", "world: expected dict, not 3"),
    (about(world={"persona": 3}), "session.json", "world.persona: expected str, not 3"),
    (about(rates={"unit_ms": 80}), "session.json", "rates.unit_ms is 80: a unit is 160 ms"),
    (about(rates={"video_fps": 30}), "session.json", "rates.video_fps is 30, but user.mp4 has 25"),
    (about(rates={"sample_rate_hz": 16000}), "session.json", "rates.sample_rate_hz is 16000, but agent.mp4 has 24000"),
    (about(rates={"fps": 25}), "session.json", "unknown field rates.fps"),
    (about(rates={"video_fps": "25"}), "session.json", "rates.video_fps: '25' is no number"),
    (about(transcribed=["me"]), "session.json", "transcribed: 'me' is neither user nor agent"),
    (about(units=99), "session.json", "units is 99, but the films have 15"),
]


@pytest.mark.parametrize(("break_it", "file", "said"), DEFECTS, ids=[f"{f}-{s[:40]}" for _, f, s in DEFECTS])
def test_each_defect_is_found_and_nothing_is_repaired(
    tmp_path: Path, break_it: Callable[[Path], object], file: str, said: str
) -> None:
    folder = session_folder(tmp_path)
    break_it(folder)
    before = contents(folder)
    problems = problems_of(folder)
    assert contents(folder) == before
    about_file = [str(p) for p in problems if p.file == folder / file]
    assert any(re.search(said, text) for text in about_file), [str(p) for p in problems]


@pytest.mark.parametrize("seed", range(3))
def test_a_good_folder_has_no_problem(tmp_path: Path, seed: int) -> None:
    assert problems_of(session_folder(tmp_path, seed)) == []


def test_all_problems_are_in_one_report(tmp_path: Path) -> None:
    folder = session_folder(tmp_path)
    (folder / "agent.mp4").unlink()
    about(licence=None, rates={"unit_ms": 80})(folder)
    words(word(500, 400), "{", word(-1, 2, "robot"))(folder)
    found = [str(p) for p in problems_of(folder)]
    assert len(found) == 5, found


def test_a_quick_look_does_not_decode(tmp_path: Path) -> None:
    folder = session_folder(tmp_path)
    damaged("agent.mp4")(folder)
    assert problems_of(folder, decode=False) == []
    assert problems_of(folder)


def test_others_may_speak_at_once_further_away_and_over_each_other(tmp_path: Path) -> None:
    folder = session_folder(tmp_path)
    words(word(100, 900, "background"), word(200, 500, "background"), word(300, 400), word(350, 500, "user"))(folder)
    assert problems_of(folder) == []


def test_a_film_without_picture_is_no_problem(tmp_path: Path) -> None:
    folder = session_folder(tmp_path)
    for name in ("user.mp4", "agent.mp4"):
        write_film(folder / name, np.zeros(round(SECONDS * SAMPLE_RATE_HZ), np.float32))
    assert problems_of(folder) == []


def test_a_session_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = session_folder(tmp_path)
    session = read_session(folder)
    written = [json.loads(line) for line in (folder / "words.jsonl").read_text().splitlines()]
    assert [(w.who, w.start_ms, w.end_ms, w.text) for w in session.words] == [tuple(w.values()) for w in written]
    assert session.licence == "CC0-1.0"
    assert session.portrait == folder / "portrait.png"
    assert session.labels["seed"] == 0


def test_no_sessions_is_an_error(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="no session folders here"):
            session_folders(directory)
    folder = session_folder(tmp_path)
    assert session_folders(tmp_path) == session_folders(folder) == [folder]
    assert problems_of(tmp_path / "none") == [Problem(tmp_path / "none", "is no folder")]
