"""Seamless Interaction (facebookresearch/seamless_interaction): two people, each with a film, sound and words.

    **/V00_S0809_I00000582_P0947.wav      vendor, session, interaction, participant
    **/V00_S0809_I00000582_P0947.mp4      may be missing
    **/V00_S0809_I00000582_P0947.json     {"metadata:transcript": [{"words": [{"word", "start", "end"}], ...}], ...}
    or transcript/<the same>.jsonl        the same list, an utterance a line; times in seconds

Of the two the first by name is the agent.
"""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.importers.film import read_sound
from wanstreamer_jax.data.importers.interaction import Format, Interaction, Side, word_at
from wanstreamer_jax.data.world import Who, Word

_OTHER = re.compile(r"vad|[13]P-.*")  # folders whose files are named alike: voice activity, annotations
_NAME = re.compile(r"(V\d+_S\d+_I\d+)_(P\w+)")


class Pair(NamedTuple):
    """The files of both participants, by what comes after the dot."""

    name: str
    agent: dict[str, Path]
    user: dict[str, Path]


def find(source: Path) -> list[Pair]:
    """The interactions of which both sides are there."""
    files = sorted(p for p in source.rglob("V*") if _NAME.fullmatch(p.stem) and not _OTHER.fullmatch(p.parent.name))
    pairs = []
    for name, group in itertools.groupby(files, key=lambda p: _NAME.fullmatch(p.stem)[1]):  # type: ignore[index]
        sides: dict[str, dict[str, Path]] = {}
        for file in group:
            sides.setdefault(file.stem, {})[file.suffix] = file
        sides = {stem: side for stem, side in sides.items() if ".wav" in side}
        if len(sides) == 2:
            pairs.append(Pair(name, *(sides[stem] for stem in sorted(sides))))
    if not pairs:
        raise DataError(Problem(source, "no interaction here with the .wav of both participants"))
    return pairs


def read(pair: Pair) -> Interaction:
    """An interaction."""
    words = [*_words(pair.agent, Who.AGENT), *_words(pair.user, Who.USER)]
    return Interaction(_side(pair.user), _side(pair.agent), words)


def _side(files: dict[str, Path]) -> Side:
    return Side(read_sound(files[".wav"]).mean(axis=0), files.get(".mp4"))


def _words(files: dict[str, Path], who: Who) -> Iterator[Word]:
    """Words with times; recordings without a transcript have none."""
    file = files.get(".json") or files.get(".jsonl")
    if file is None:
        return
    try:
        for word in (word for utterance in _utterances(file) for word in utterance.get("words", [])):
            if "start" in word and "end" in word:  # the aligner leaves numerals without
                yield word_at(who, word["start"], word["end"], word["word"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(Problem(file, f"is no transcript: {type(error).__name__}: {error}")) from error


def _utterances(file: Path) -> list[dict[str, Any]]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return json.loads(text).get("metadata:transcript") or []


SEAMLESS = Format(
    find, read, licence="CC-BY-NC-4.0", about="Seamless Interaction: .wav, .mp4 and .json of both participants"
)
