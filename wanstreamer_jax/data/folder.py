"""A duplex session on disk: two films, the words, and what the session is.

    session/
      user.mp4        what the agent sees and hears; any codec PyAV reads; picture or sound may be missing in it
      agent.mp4       what the agent does, from the same moment on
      words.jsonl     {"who": "agent", "start_ms": 1200, "end_ms": 1430, "text": "Hello,"}, in the order of start_ms
      session.json    {"licence": "CC-BY-4.0", "world": {"persona": "...", "portrait": "p.png", "voice": "v.wav"}}

`who` is one of user, agent, user_typed (there when its end_ms is) and background (further away; may overlap itself).
Of session.json only `licence` must be there; `rates`, `units`, `source` and `labels` may be, and `transcribed`: of
which of user and agent all words are known, without it of both.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.world import Who, Word
from wanstreamer_jax.timeline import UNIT_MS

USER, AGENT, WORDS, SESSION = "user.mp4", "agent.mp4", "words.jsonl", "session.json"
WORLD_FIELDS = ("persona", "portrait", "voice")
RATES = ("video_fps", "sample_rate_hz", "unit_ms")
SIDES = (Who.USER, Who.AGENT)
_FIELDS = {
    "licence": str,
    "world": dict,
    "rates": dict,
    "units": int,
    "source": str,
    "labels": dict,
    "transcribed": list,
}
_WORD_FIELDS = {"who": str, "start_ms": int, "end_ms": int, "text": str}
CAPTIONED = ("image", "audio", "video")
_CAPTION_FIELDS = {"of": str, "start_ms": int, "end_ms": int, "text": str}


@dataclasses.dataclass(frozen=True)
class SessionFolder:
    """What a folder says in text; its films are opened when they are needed."""

    path: Path
    licence: str
    words: tuple[Word, ...]  # in the order in which they begin
    persona: str = ""
    portrait: Path | None = None
    voice: Path | None = None
    rates: dict[str, int | float] = dataclasses.field(default_factory=dict)
    n_units: int | None = None
    transcribed: tuple[Who, ...] = SIDES
    labels: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def films(self) -> tuple[Path, Path]:
        """The user's and the agent's."""
        return self.path / USER, self.path / AGENT


def session_folders(directory: Path) -> list[Path]:
    """The session folders in a directory, by name; the directory itself when it is one.

    Raises:
        DataError: there is none.
    """
    if (directory / SESSION).exists():
        return [directory]
    folders = sorted(p for p in directory.glob("[!.]*") if p.is_dir()) if directory.is_dir() else []
    if not folders:
        raise DataError(Problem(directory, f"no session folders here, each with {SESSION}, {WORDS}, {USER}, {AGENT}"))
    return folders


def read_session(path: Path) -> SessionFolder:
    """Read what a session folder says in text.

    Raises:
        DataError: all that is wrong with `session.json` and `words.jsonl` and all files that are missing.
    """
    problems = [Problem(path / n, "is missing") for n in (USER, AGENT, WORDS, SESSION) if not (path / n).is_file()]
    about = _read_about(path / SESSION, problems) if (path / SESSION).is_file() else {}
    words = _read_words(path / WORDS, problems) if (path / WORDS).is_file() else []
    world = about.get("world", {})
    if problems:
        raise DataError(*problems)
    portrait, voice = (path / world[name] if name in world else None for name in ("portrait", "voice"))
    return SessionFolder(
        path=path,
        licence=about["licence"],
        words=tuple(words),
        persona=world.get("persona", ""),
        portrait=portrait,
        voice=voice,
        rates=about.get("rates", {}),
        n_units=about.get("units"),
        transcribed=tuple(Who(side) for side in about.get("transcribed", SIDES)),
        labels=about.get("labels", {}),
    )


def _read_about(file: Path, problems: list[Problem]) -> dict[str, Any]:
    """`session.json`; what is wrong with it is added to `problems`."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(Problem(file, f"is no JSON: {error}", getattr(error, "lineno", None)))
        return {}
    if not isinstance(about, dict):
        problems.append(Problem(file, "is no JSON object"))
        return {}
    problems += [Problem(file, reason) for reason in (*_misfits(about, _FIELDS), *_about_reasons(about, file.parent))]
    problems += [Problem(file, reason) for reason in _caption_reasons(about)]
    return about


def _about_reasons(about: dict[str, Any], folder: Path) -> Iterator[str]:
    """What is missing, and what is wrong with the parts of `session.json`."""
    if not about.get("licence"):
        yield 'no licence: say under which the recordings may be used, for instance "licence": "CC-BY-4.0"'
    world, rates, transcribed = about.get("world"), about.get("rates"), about.get("transcribed")
    if isinstance(transcribed, list):
        yield from (f"transcribed: {side!r} is neither user nor agent" for side in transcribed if side not in SIDES)
    if isinstance(world, dict):
        yield from _misfits(world, dict.fromkeys(WORLD_FIELDS, str), "world.")
        names = [world[n] for n in ("portrait", "voice") if isinstance(world.get(n), str)]
        yield from (f"world: {name} is missing" for name in names if not (folder / name).is_file())
    if isinstance(rates, dict):
        yield from (f"unknown field rates.{name}" for name in sorted(rates.keys() - set(RATES)))
        yield from (f"rates.{k}: {v!r} is no number" for k, v in rates.items() if type(v) not in (int, float))
        if rates.get("unit_ms", UNIT_MS) != UNIT_MS:
            yield f"rates.unit_ms is {rates['unit_ms']}: a unit is {UNIT_MS} ms"


def _caption_reasons(about: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the one label that training reads."""
    labels = about.get("labels")
    captions = labels.get("captions", []) if isinstance(labels, dict) else []
    if not isinstance(captions, list):
        yield f"labels.captions: expected list, not {captions!r}"
        return
    for i, caption in enumerate(captions):
        where = f"labels.captions[{i}]"
        if not isinstance(caption, dict):
            yield f"{where}: is no JSON object"
        elif reasons := _wrong_fields(caption, _CAPTION_FIELDS, f"{where}."):
            yield from reasons
        elif caption["of"] not in CAPTIONED:
            yield f"{where}.of: {caption['of']!r} is none of {', '.join(CAPTIONED)}"
        elif not (0 <= caption["start_ms"] < caption["end_ms"] and caption["text"].strip()):
            yield f"{where}: needs a text, and an end after its start"


def _read_words(file: Path, problems: list[Problem]) -> list[Word]:
    """`words.jsonl`; what is wrong with it is added to `problems`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        problems.append(Problem(file, f"cannot be read as UTF-8 text: {error}"))
        return []
    words, latest_ms, heard_until = [], 0, dict.fromkeys(Who, 0)
    for number, line in enumerate(lines, 1):
        word, reason = _parse_word(line)
        if word is None:
            problems.append(Problem(file, reason, number))
            continue
        reasons = list(_timing(word, latest_ms, heard_until[word.who]))
        problems += [Problem(file, reason, number, word.start_ms) for reason in reasons]
        latest_ms, heard_until[word.who] = max(latest_ms, word.start_ms), max(heard_until[word.who], word.end_ms)
        words.append(word)
    return words


def _parse_word(line: str) -> tuple[Word | None, str]:
    """A word, or why a line is none."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, f"is no JSON: {error}"
    if not isinstance(fields, dict):
        return None, "is no JSON object"
    if reasons := _wrong_fields(fields, _WORD_FIELDS):
        return None, "; ".join(reasons)
    if fields["who"] not in set(Who):
        return None, f"unknown who {fields['who']!r}: one of {', '.join(Who)}"
    return Word(**fields | {"who": Who(fields["who"])}), ""


def _timing(word: Word, latest_ms: int, heard_until_ms: int) -> Iterator[str]:
    """What is wrong with a word, given the words before it."""
    if not word.text.strip():
        yield "empty text"
    if word.start_ms < 0:
        yield "begins before the session"
    if word.end_ms < word.start_ms:
        yield f"{word.text!r} ends at {word.end_ms / 1000:.3f} s, before it begins"
    if word.start_ms < latest_ms:
        yield f"{word.text!r} is out of order: the word before begins at {latest_ms / 1000:.3f} s"
    elif word.start_ms < heard_until_ms and word.who in (Who.USER, Who.AGENT):
        yield f"{word.text!r} overlaps the {word.who}'s word before, which ends at {heard_until_ms / 1000:.3f} s"


def _wrong_fields(fields: dict[str, Any], kinds: dict[str, type], where: str = "") -> list[str]:
    """What of an object is missing, unknown, or of another type than it should be."""
    missing = [f"missing field {where}{name}" for name in kinds if name not in fields]
    return [*missing, *_misfits(fields, kinds, where)]


def _misfits(fields: dict[str, Any], kinds: dict[str, type], where: str = "") -> Iterator[str]:
    """What of an object is unknown, or of another type than it should be."""
    yield from (f"unknown field {where}{name}" for name in sorted(fields.keys() - kinds.keys()))
    for name, kind in kinds.items():
        if name in fields and type(fields[name]) is not kind:
            yield f"{where}{name}: expected {kind.__name__}, not {fields[name]!r}"
