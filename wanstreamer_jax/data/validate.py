"""What is wrong with a session folder: all of it, with file, time and reason. Nothing is repaired."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.folder import AGENT, SESSION, USER, WORDS, SessionFolder, read_session
from wanstreamer_jax.media import MediaError, open_media
from wanstreamer_jax.media.container import open_container
from wanstreamer_jax.media.probe import MediaInfo, probe
from wanstreamer_jax.timeline import UNIT_MS, Picture, n_units

SLIP_S = UNIT_MS / 1000  # tracks may differ by this much: codecs complete their last frames
RATE_TOLERANCE = 0.01  # of a rate: 30 and 29.97 frames a second are the same
_ANY_PICTURE = Picture(16, 16)  # to decode is what counts


class _Film(NamedTuple):
    """A film that can be read."""

    file: Path
    info: MediaInfo


def problems_of(path: Path, *, decode: bool = True) -> list[Problem]:
    """All that is wrong with a session folder; without `decode`, films are only looked at, which is much faster."""
    if not path.is_dir():
        return [Problem(path, "is no folder")]
    problems: list[Problem] = []
    session = None
    try:
        session = read_session(path)
    except DataError as error:
        problems += error.problems
    films = [film for name in (USER, AGENT) if (film := _look_at(path / name, problems)) is not None]
    for film in films:
        problems += _track_problems(film)
    if len(films) == 2:
        problems += _length_problems(*films)
    if session is not None:
        problems += _session_problems(session, films)
    if decode:
        for film in films:
            problems += _decoding_problems(film)
    return problems


def _look_at(file: Path, problems: list[Problem]) -> _Film | None:
    """A film; what keeps it from being read is added to `problems`."""
    if not file.is_file():
        return None  # which `read_session` has said
    try:
        return _Film(file, probe(file))
    except MediaError as error:
        problems.append(_media_problem(file, error))
        return None


def _track_problems(film: _Film) -> Iterator[Problem]:
    """Picture and sound of one film begin and end together."""
    video, audio = film.info
    if video is None or audio is None:
        return
    if abs(video.start_s - audio.start_s) > SLIP_S:
        reason = f"its picture begins at {video.start_s:.3f} s, its sound at {audio.start_s:.3f} s"
        yield Problem(film.file, reason, time_ms=_ms(min(video.start_s, audio.start_s)))
    if abs(video.end_s - audio.end_s) > SLIP_S:
        reason = f"its picture ends at {video.end_s:.3f} s, its sound at {audio.end_s:.3f} s"
        yield Problem(film.file, reason, time_ms=_ms(min(video.end_s, audio.end_s)))


def _length_problems(user: _Film, agent: _Film) -> Iterator[Problem]:
    """Both films last as long."""
    if abs(user.info.seconds - agent.info.seconds) > SLIP_S:
        reason = f"lasts {agent.info.seconds:.3f} s, but {USER} {user.info.seconds:.3f} s"
        yield Problem(agent.file, reason, time_ms=_ms(min(user.info.seconds, agent.info.seconds)))


def _session_problems(session: SessionFolder, films: list[_Film]) -> Iterator[Problem]:
    """What the text files say agrees with the films."""
    about = session.path / SESSION
    for name, file in (("portrait", session.portrait), ("voice", session.voice)):
        if file is not None:
            yield from _world_problems(name, file)
    for film in films:
        yield from _rate_problems(about, session.rates, film.file)
    if not films:
        return
    seconds = min(film.info.seconds for film in films)
    if session.n_units is not None and session.n_units != n_units(seconds):
        yield Problem(about, f"units is {session.n_units}, but the films have {n_units(seconds)}")
    for line, word in enumerate(session.words, 1):
        if word.end_ms / 1000 > seconds + SLIP_S:
            reason = (
                f"{word.text!r} ends at {word.end_ms / 1000:.3f} s, after the session, which ends at {seconds:.3f} s"
            )
            yield Problem(session.path / WORDS, reason, line, word.start_ms)


def _world_problems(name: str, file: Path) -> Iterator[Problem]:
    try:
        info = probe(file)
    except MediaError as error:
        yield _media_problem(file, error)
        return
    if name == "portrait" and info.video is None:
        yield Problem(file, "is the portrait, but holds no picture")
    if name == "voice" and info.audio is None:
        yield Problem(file, "is the voice, but holds no sound")


def _rate_problems(about: Path, rates: dict[str, int | float], film: Path) -> Iterator[Problem]:
    """The rates of session.json are those of the film, where it has such a track."""
    with open_container(film) as container:
        found: list[tuple[str, Any]] = [("video_fps", stream.average_rate) for stream in container.streams.video[:1]]
        found += [("sample_rate_hz", stream.codec_context.sample_rate) for stream in container.streams.audio[:1]]
    for name, rate in [(name, float(rate)) for name, rate in found if rate]:
        if name in rates and abs(rates[name] - rate) > RATE_TOLERANCE * rate:
            yield Problem(about, f"rates.{name} is {rates[name]:g}, but {film.name} has {rate:g}")


def _decoding_problems(film: _Film) -> Iterator[Problem]:
    """Every frame and every packet of sound can be decoded; tells of the first that cannot."""
    with open_media(film.file, _ANY_PICTURE) as media:
        damaged_ms = None
        for k, _ in enumerate(media):
            if media.n_concealed and damaged_ms is None:
                damaged_ms = k * UNIT_MS
        if damaged_ms is not None:
            reason = f"{media.n_concealed} damaged pieces cannot be decoded, the first about here"
            yield Problem(film.file, reason, time_ms=damaged_ms)


def _media_problem(file: Path, error: MediaError) -> Problem:
    return Problem(file, str(error).removeprefix(f"{file}: "))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
