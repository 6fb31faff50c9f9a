"""Records from pieces of a session: what a folder and the synthetic world have in common."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int16, Int32, UInt8

from wanstreamer_jax.data.layout import SessionText
from wanstreamer_jax.data.record import Record, Streams, to_int16
from wanstreamer_jax.data.text import unit_of_start
from wanstreamer_jax.data.world import Word
from wanstreamer_jax.timeline import SAMPLES_PER_UNIT


class Piece(NamedTuple):
    """Whole units of a session, one after the other."""

    user_frames: UInt8[np.ndarray, "U f H W 3"]
    user_samples: Float32[np.ndarray, "U n"]
    agent_frames: UInt8[np.ndarray, "U f h w 3"]
    agent_samples: Float32[np.ndarray, "U n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Whole:
    """What all records of a session share."""

    name: str
    licence: str
    words: Sequence[Word]
    labels: dict[str, Any]
    streams: Streams
    text: SessionText
    persona: Int32[np.ndarray, " P"]
    portrait: UInt8[np.ndarray, "h w 3"]
    voice: Int16[np.ndarray, " m"]


def assemble(whole: Whole, pieces: Iterable[Piece]) -> Iterator[Record]:
    """The records of a session: one for each of its pieces, which follow each other from its start."""
    before, first = whole.portrait, 0
    for piece in pieces:
        record = _record(whole, piece, before, first)
        yield record
        before, first = piece.agent_frames[-1, -1].copy(), first + record.n_units


def _record(whole: Whole, piece: Piece, before: UInt8[np.ndarray, "h w 3"], first: int) -> Record:
    units = slice(first, first + len(piece.user_samples))
    text = whole.text
    words = [dataclasses.asdict(w) for w in whole.words if units.start <= unit_of_start(w.start_ms) < units.stop]
    return Record(
        name=f"{whole.name}, unit {first}",
        licence=whole.licence,
        first_unit=first,
        words=words,
        words_moved=int(text.n_moved[units].sum()),
        labels=whole.labels,
        streams=whole.streams,
        user_frames=piece.user_frames,
        user_samples=to_int16(piece.user_samples),
        agent_frames=piece.agent_frames,
        agent_samples=to_int16(piece.agent_samples),
        frame_before=before,
        user_text=text.user.ids[units],
        n_user_text=text.user.n[units],
        agent_text=text.agent.ids[units],
        n_agent_text=text.agent.n[units],
        heard=text.heard.ids[units],
        n_heard=text.heard.n[units],
        persona=whole.persona,
        portrait=whole.portrait,
        voice=whole.voice,
    )


def in_units(samples: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, "U n_unit"]:
    """Samples by unit."""
    return samples.reshape(-1, SAMPLES_PER_UNIT)
