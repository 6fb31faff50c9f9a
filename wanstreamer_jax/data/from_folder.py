"""Records of a session folder."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, UInt8

from wanstreamer_jax.data.assemble import Piece, Whole, assemble
from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.folder import SESSION, SessionFolder
from wanstreamer_jax.data.layout import Layout, SessionText, encode_persona, lay_out_words
from wanstreamer_jax.data.record import Record, Streams, to_int16
from wanstreamer_jax.data.world import Who
from wanstreamer_jax.media import MediaError, MediaReader, MediaUnit, open_media
from wanstreamer_jax.media.picture import black
from wanstreamer_jax.timeline import SAMPLES_PER_AUDIO_LATENT, SAMPLES_PER_UNIT, Picture
from wanstreamer_jax.tokens import Tokenizer


class Prepared(NamedTuple):
    """The records of a session, made as they are asked for, and what became of its text."""

    records: Iterator[Record]
    text: SessionText


def from_folder(session: SessionFolder, tokenizer: Tokenizer, layout: Layout, units_per_record: int) -> Prepared:
    """Make a session's records, each of at most so many units; in memory there is one at a time.

    A film that is up to a unit longer than the other loses that unit; the validator names what differs by more.

    Raises:
        DataError: a film or a part of the world cannot be read, or the persona is too long; after the last record,
            parts of a film could not be decoded.
    """
    user_file, agent_file = session.films
    films = _opened(user_file, layout.user_picture), _opened(agent_file, layout.agent_picture)
    n_units = min(film.n_units for film in films)
    whole = _whole(session, tokenizer, layout, n_units, films)
    return Prepared(_records(session, whole, films, n_units, units_per_record), whole.text)


def _records(
    session: SessionFolder, whole: Whole, films: tuple[MediaReader, MediaReader], n_units: int, units_per_record: int
) -> Iterator[Record]:
    user, agent = films
    with user, agent:
        yield from assemble(whole, _pieces(zip(user, agent, strict=False), n_units, units_per_record))
        damaged = [(file, m.n_concealed) for file, m in zip(session.films, films, strict=True) if m.n_concealed]
    if damaged:
        raise DataError(*(Problem(file, f"{n} damaged pieces cannot be decoded") for file, n in damaged))


def _opened(file: Path, picture: Picture) -> MediaReader:
    try:
        return open_media(file, picture)
    except MediaError as error:
        raise DataError(Problem(file, str(error).removeprefix(f"{file}: "))) from error


def _whole(
    session: SessionFolder, tokenizer: Tokenizer, layout: Layout, n_units: int, films: tuple[MediaReader, MediaReader]
) -> Whole:
    user, agent = films
    portrait = _portrait(session.portrait, layout.agent_picture)
    try:
        persona = encode_persona(session.persona, tokenizer, layout)
    except ValueError as error:
        raise DataError(Problem(session.path / SESSION, str(error))) from error
    streams = Streams(
        user_video=user.has_video,
        user_audio=user.has_audio,
        agent_video=agent.has_video,
        agent_audio=agent.has_audio,
        agent_text=Who.AGENT in session.transcribed,
        heard=Who.USER in session.transcribed,
        portrait=portrait is not None,
    )
    return Whole(
        name=session.path.name,
        licence=session.licence,
        words=session.words,
        labels=session.labels,
        streams=streams,
        text=lay_out_words(session.words, tokenizer, layout, n_units),
        persona=persona,
        portrait=black(layout.agent_picture) if portrait is None else portrait,
        voice=_voice(session.voice, layout),
    )


def _pieces(both: Iterator[tuple[MediaUnit, MediaUnit]], n_units: int, units_per_piece: int) -> Iterator[Piece]:
    for start in range(0, n_units, units_per_piece):
        units = list(itertools.islice(both, min(units_per_piece, n_units - start)))
        yield Piece(
            user_frames=np.stack([u.frames for u, _ in units]),
            user_samples=np.stack([u.samples for u, _ in units]),
            agent_frames=np.stack([a.frames for _, a in units]),
            agent_samples=np.stack([a.samples for _, a in units]),
        )


def _portrait(file: Path | None, picture: Picture) -> UInt8[np.ndarray, "h w 3"] | None:
    if file is None:
        return None
    with _opened(file, picture) as media:
        return next(iter(media)).frames[0]


def _voice(file: Path | None, layout: Layout) -> Int16[np.ndarray, " m"]:
    """Whole latents of it, as many as a world may have."""
    if file is None:
        return np.zeros(0, np.int16)
    most = layout.n_voice_samples
    with _opened(file, layout.agent_picture) as media:
        units = itertools.islice(media, -(-most // SAMPLES_PER_UNIT))
        samples = np.concatenate([unit.samples[: max(0, unit.n_samples)] for unit in units])[:most]
    return to_int16(samples[: len(samples) // SAMPLES_PER_AUDIO_LATENT * SAMPLES_PER_AUDIO_LATENT])
