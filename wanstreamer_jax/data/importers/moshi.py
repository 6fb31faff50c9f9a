"""Moshi's training data (kyutai-labs/moshi-finetune): stereo sound, the agent left and the user right, no picture.

data.jsonl            {"path": "stereo/a.wav", "duration": 24.5}, one a line; or a folder, whose .wav are taken
stereo/a.wav
stereo/a.json         {"alignments": [["Hello", [0.26, 0.61], "SPEAKER_MAIN"], ...]}, times in seconds
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.importers.film import read_sound
from wanstreamer_jax.data.importers.interaction import Format, Interaction, Side, word_at
from wanstreamer_jax.data.world import Who, Word

_AGENT = "SPEAKER_MAIN"  # all others are the user


class Recording(NamedTuple):
    """A stereo file; its name says where it was found."""

    name: str
    sound: Path


def find(source: Path) -> list[Recording]:
    """The .wav files of a .jsonl list or of a folder."""
    root = source if source.is_dir() else source.parent
    files = sorted(root.rglob("*.wav")) if source.is_dir() else [root / path for path in _listed(source)]
    if not files:
        raise DataError(Problem(source, "no .wav files here"))
    return [Recording("-".join(Path(os.path.relpath(f, root)).with_suffix("").parts), f) for f in files]


def _listed(source: Path) -> Iterator[str]:
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(Problem(source, f"cannot be read: {error}")) from error
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)["path"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(Problem(source, 'is no {"path": ..., "duration": ...}', number)) from error


def read(recording: Recording) -> Interaction:
    """A recording and its words."""
    file = recording.sound
    sound = read_sound(file)
    if len(sound) != 2:
        raise DataError(Problem(file, f"has {len(sound)} channels: needs 2, the agent left and the user right"))
    return Interaction(Side(sound[1]), Side(sound[0]), _words(file.with_suffix(".json")))


def _words(file: Path) -> list[Word]:
    try:
        alignments: list[Any] = json.loads(file.read_text(encoding="utf-8"))["alignments"]
        return [
            word_at(Who.AGENT if speaker == _AGENT else Who.USER, start_s, end_s, text)
            for text, (start_s, end_s), speaker in alignments
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f'needs {{"alignments": [[word, [start, end], speaker], ...]}}: {type(error).__name__}: {error}'
        raise DataError(Problem(file, reason)) from error


MOSHI = Format(find, read, licence=None, about="stereo .wav and .json alignments, as kyutai-labs/moshi-finetune reads")
