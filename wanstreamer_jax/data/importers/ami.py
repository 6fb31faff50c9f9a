"""The AMI meeting corpus: each participant's headset and words, and a camera at each where the meeting has them.

    words/ES2002a.A.words.xml                  <w starttime="1.2" endtime="1.5">hello</w>, times in seconds
    corpusResources/meetings.xml               which headset and which camera is whose
    **/ES2002a.Headset-0.wav
    **/ES2002a.Closeup1.avi                    only some have been downloaded, or none

Participant A is the agent; the user is the one of the others who says most. The agent hears all of them, so the rest
are mixed into the user's sound, and their words are in the background.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np

from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.importers.film import read_sound
from wanstreamer_jax.data.importers.interaction import Format, Interaction, Side, word_at
from wanstreamer_jax.data.world import Who, Word

_AGENT = "A"


class Participant(NamedTuple):
    """Somebody at a meeting."""

    letter: str
    headset: Path
    words: Path
    camera: Path | None


class Meeting(NamedTuple):
    """A meeting, everybody's files."""

    name: str
    participants: list[Participant]


def find(source: Path) -> list[Meeting]:
    """The meetings of which there are words and headsets."""
    words: dict[str, dict[str, Path]] = {}
    for file in sorted(source.rglob("*.words.xml")):
        name, letter, *_ = file.name.split(".")
        words.setdefault(name, {})[letter] = file
    if not words:
        raise DataError(Problem(source, "no *.words.xml here: is this the AMI corpus with its manual annotations?"))
    devices = _devices(source)
    return [Meeting(name, list(_participants(source, name, letters, devices))) for name, letters in words.items()]


def _devices(source: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Headset and camera of each (meeting, participant) in `meetings.xml`, where there is one."""
    found = {}
    for file in source.rglob("meetings.xml"):
        for meeting in _parsed(file).iter("meeting"):
            for speaker in meeting.iter("speaker"):
                key = meeting.get("observation", ""), speaker.get("nxt_agent", "")
                found[key] = speaker.get("channel", ""), speaker.get("camera", "")
    return found


def _participants(
    source: Path, name: str, letters: dict[str, Path], devices: dict[tuple[str, str], tuple[str, str]]
) -> Iterator[Participant]:
    for letter, words in letters.items():
        channel, camera = devices.get((name, letter), (str(ord(letter) - ord("A")), ""))
        headset = next(source.rglob(f"{name}.Headset-{channel}.wav"), None)
        if headset is None:
            raise DataError(Problem(words, f"there are words, but no {name}.Headset-{channel}.wav"))
        seen = next(source.rglob(f"{name}.{camera}.*"), None) if camera else None
        yield Participant(letter, headset, words, seen)


def read(meeting: Meeting) -> Interaction:
    """A meeting from the side of its first participant."""
    people = {p.letter: p for p in meeting.participants}
    if _AGENT not in people or len(people) < 2:
        raise DataError(Problem(meeting.participants[0].words, f"needs words of {_AGENT} and of somebody else"))
    spoken = {letter: list(_words(p.words, Who.USER)) for letter, p in people.items()}
    agent = people.pop(_AGENT)
    user = people.pop(max(people, key=lambda letter: len(spoken[letter])))
    others = [letter for letter in people if spoken[letter]]
    words = [*_words(agent.words, Who.AGENT), *spoken[user.letter]]
    words += [word for letter in others for word in _words(people[letter].words, Who.BACKGROUND)]
    heard = _mixed([user.headset, *(people[letter].headset for letter in people)])
    return Interaction(Side(heard, user.camera), Side(_mono(agent.headset), agent.camera), words)


def _mono(file: Path) -> np.ndarray:
    return read_sound(file).mean(axis=0)


def _mixed(files: list[Path]) -> np.ndarray:
    sounds = [_mono(file) for file in files]
    whole = np.zeros(max(map(len, sounds)), np.float32)
    for sound in sounds:
        whole[: len(sound)] += sound
    return np.clip(whole, -1, 1)


def _words(file: Path, who: Who) -> Iterator[Word]:
    """Words that have times, each with the punctuation after it; laughs, gaps and the like are none."""
    pending: Word | None = None
    for element in _parsed(file).iter("w"):
        text, start, end = (element.text or "").strip(), element.get("starttime"), element.get("endtime")
        if element.get("punc") == "true":
            pending = pending and Word(pending.who, pending.start_ms, pending.end_ms, pending.text + text)
        elif text and start and end:
            if pending:
                yield pending
            pending = word_at(who, float(start), float(end), text)
    if pending:
        yield pending


def _parsed(file: Path) -> ET.Element:
    try:
        return ET.parse(file).getroot()  # noqa: S314  expat has bounded the expansion of entities since 2.4.1
    except (ET.ParseError, OSError) as error:
        raise DataError(Problem(file, f"is no XML: {error}")) from error


AMI = Format(find, read, licence="CC-BY-4.0", about="AMI meeting corpus: words XML, headsets, cameras if there")
