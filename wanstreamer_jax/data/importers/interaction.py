"""What every importer gives, and the session folder that is made of it."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32

from wanstreamer_jax.data.folder import AGENT, SESSION, SIDES, USER, WORDS
from wanstreamer_jax.data.importers.film import write_film
from wanstreamer_jax.data.world import Who, Word
from wanstreamer_jax.files import pending_directory


class Side(NamedTuple):
    """What there is of one side: sound at 24 kHz, and a film whose picture is copied as it is."""

    sound: Float32[np.ndarray, " n"]
    picture: Path | None = None


class Interaction(NamedTuple):
    """A recording of two sides."""

    user: Side
    agent: Side
    words: Sequence[Word]  # in any order


class Named(Protocol):
    """A recording that was found, with the name of its session folder."""

    @property
    def name(self) -> str:
        """Unlike all others of the source."""


class Format(NamedTuple):
    """A layout of recordings: `find` lists what is there, each of which `read` reads; both raise DataError."""

    find: Callable[[Path], Sequence[Named]]
    read: Callable[[Any], Interaction]
    licence: str | None  # of the corpus; none: whoever imports has to say
    about: str


class Ordered(NamedTuple):
    """Words in the order in which they begin, one after the other in each mouth."""

    words: list[Word]
    n_shortened: int  # words that ended after the next one of theirs began


def in_order(words: Iterable[Word]) -> Ordered:
    """Sort words, and end each where the speaker's next begins: aligners are often a few milliseconds out."""
    found = sorted(words, key=lambda word: (word.start_ms, word.end_ms))
    next_ms: dict[Who, int] = {}
    n_shortened = 0
    for i, word in reversed(list(enumerate(found))):
        limit_ms = next_ms.get(word.who, word.end_ms)
        if word.end_ms > limit_ms and word.who is not Who.BACKGROUND:
            found[i] = dataclasses.replace(word, end_ms=limit_ms)
            n_shortened += 1
        next_ms[word.who] = word.start_ms
    return Ordered(found, n_shortened)


def write_interaction(interaction: Interaction, folder: Path, licence: str, source: str) -> int:
    """Write a session folder, whole or not at all; returns how many words were shortened.

    The sound of the side that ends first is completed with silence; a side without a word was not transcribed.

    Raises:
        MediaError: a film cannot be written.
    """
    ordered = in_order(interaction.words)
    n_samples = max(len(interaction.user.sound), len(interaction.agent.sound))
    with pending_directory(folder) as fresh:
        for name, side in ((USER, interaction.user), (AGENT, interaction.agent)):
            write_film(fresh / name, np.pad(side.sound, (0, n_samples - len(side.sound))), side.picture)
        lines = [json.dumps(dataclasses.asdict(word), ensure_ascii=False) for word in ordered.words]
        (fresh / WORDS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        spoken = {word.who for word in ordered.words}
        transcribed = [side for side in SIDES if side in spoken]
        about = {"licence": licence, "source": source, "transcribed": transcribed}
        (fresh / SESSION).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return ordered.n_shortened


def word_at(who: Who, start_s: float, end_s: float, text: str) -> Word:
    """A word whose times are in seconds."""
    return Word(who, round(start_s * 1000), round(end_s * 1000), text.strip())
