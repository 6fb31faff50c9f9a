"""One session scored: chances that were taken or missed, times, curves. Scores of many sessions add up to figures."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wanstreamer_jax.data.world import Kind, Labels, Session
from wanstreamer_jax.evaluation.answers import Group, group_of, is_right
from wanstreamer_jax.evaluation.chances import BAD, Chance, Share
from wanstreamer_jax.evaluation.floor import Did, Should, judged, overlaps
from wanstreamer_jax.evaluation.lips import sync_curve
from wanstreamer_jax.evaluation.lived import Lived, words_between
from wanstreamer_jax.evaluation.looks import Nods, brightness, count_nods, identity
from wanstreamer_jax.evaluation.recogniser import recognise
from wanstreamer_jax.evaluation.turn_taking import (
    ANSWER_MS,
    COMMENT_MS,
    Asked,
    answer_start_ms,
    asked,
    idle,
    is_false_start,
    is_unasked,
    latency_ms,
)
from wanstreamer_jax.evaluation.voice import Span, speech, speech_level_db
from wanstreamer_jax.timeline import SAMPLES_PER_MS

_WRITTEN = {
    Group.SEEN: Share.ANSWER_SEEN,
    Group.UNSEEN: Share.ANSWER_UNSEEN,
    Group.TYPED: Share.ANSWER_TYPED,
    Group.OTHER: Share.ANSWER_OTHER,
    Group.COMMENT: Share.COMMENT_RIGHT,
}


class Overlapped(NamedTuple):
    """What an agent should have done when somebody spoke meanwhile, and did."""

    should: Should
    did: Did


@dataclasses.dataclass(frozen=True)
class Score:
    """What an agent did in one session, as far as it can be counted and measured."""

    chances: tuple[Chance, ...]
    spoken_latencies_ms: tuple[int, ...]
    typed_latencies_ms: tuple[int, ...]
    overlaps: tuple[Overlapped, ...]
    sync: tuple[float, ...] | None  # the curve of `lips`
    nods: Nods
    identity: float
    brightness: float
    loudness_db: float | None


def score(session: Session, lived: Lived) -> Score:
    """Score what an agent did in a session.

    Raises:
        RuntimeError: pocketsphinx is not installed.
    """
    labels, spoken = session.labels, speech(lived.samples)
    asks = asked(labels, len(lived.samples) // SAMPLES_PER_MS)
    overlapped = tuple(Overlapped(o.should, judged(o, spoken)) for o in overlaps(labels))
    curve = sync_curve(lived, labels.composition)
    return Score(
        chances=(
            *(chance for ask in asks for chance in _of_turn(ask, lived, spoken)),
            *_of_idle(labels, asks, spoken, len(lived.samples) // SAMPLES_PER_MS),
            *(chance for o in overlapped for chance in _of_overlap(o)),
        ),
        spoken_latencies_ms=_latencies(asks, spoken, typed=False),
        typed_latencies_ms=_latencies(asks, spoken, typed=True),
        overlaps=overlapped,
        sync=None if curve is None else tuple(curve.tolist()),
        nods=count_nods(lived.frames, session.portrait, labels, spoken),
        identity=identity(lived.frames, session.portrait, labels.composition),
        brightness=brightness(lived.frames),
        loudness_db=speech_level_db(lived.samples),
    )


def failed(world: Score) -> Score:
    """The score of a session that could not be run: every chance that the world's own agent had there was missed."""
    wrong = {Should.YIELD: Did.HELD, Should.HOLD: Did.YIELDED}
    return dataclasses.replace(
        world,
        chances=tuple(Chance(share, share in BAD) for share, _ in world.chances),
        spoken_latencies_ms=(),
        typed_latencies_ms=(),
        overlaps=tuple(Overlapped(o.should, wrong[o.should]) for o in world.overlaps),
        sync=tuple(0.0 for _ in world.sync) if world.sync else None,
        nods=world.nods._replace(listening=0),
        identity=0.0,
        brightness=0.0,
        loudness_db=None,
    )


def _latencies(asks: Sequence[Asked], spoken: Sequence[Span], *, typed: bool) -> tuple[int, ...]:
    wanted = [ask for ask in asks if not ask.is_comment and (ask.turn.kind is Kind.TYPED) == typed]
    found = [latency_ms(ask, spoken) for ask in wanted]
    return tuple(ms for ms in found if ms is not None)


def _of_turn(ask: Asked, lived: Lived, spoken: Sequence[Span]) -> Iterator[Chance]:
    turn, ms = ask.turn, latency_ms(ask, spoken)
    if ask.is_comment:
        yield Chance(Share.COMMENTED, ms is not None and ms <= COMMENT_MS)
    elif turn.kind is Kind.TYPED:
        yield Chance(Share.TYPED_IN_TIME, ms is not None and ms <= ANSWER_MS)
    else:
        yield Chance(Share.IN_TIME, ms is not None and ms <= ANSWER_MS)
        yield Chance(Share.FALSE_START, is_false_start(ask, spoken))
    group = group_of(turn)
    if group is not None:
        written = words_between(lived.written, max(ask.answer_from_ms, 0), ask.until_ms)
        yield Chance(_WRITTEN[group], is_right(turn, written))
        heard = [word.text for word in recognise(_reply_sound(ask, lived.samples, spoken))]
        yield Chance(Share.HEARD, is_right(turn, heard))


def _reply_sound(ask: Asked, samples: Float32[np.ndarray, " n"], spoken: Sequence[Span]) -> np.ndarray:
    """What the agent says from when its answer may begin until the next thing happens, without what is quiet."""
    cut = [(max(s.start_ms, ask.answer_from_ms, 0), min(s.end_ms, ask.until_ms)) for s in spoken]
    pieces = [samples[start * SAMPLES_PER_MS : end * SAMPLES_PER_MS] for start, end in cut if start < end]
    return np.concatenate([np.zeros(0, np.float32), *pieces])


def _of_idle(labels: Labels, asks: Sequence[Asked], spoken: Sequence[Span], last_ms: int) -> Iterator[Chance]:
    found = (answer_start_ms(ask, spoken) for ask in asks)
    answers_ms = [ms for ms in found if ms is not None]
    for stretch in idle(labels, last_ms):
        yield Chance(Share.UNASKED, is_unasked(stretch, spoken, answers_ms))


def _of_overlap(overlapped: Overlapped) -> Iterator[Chance]:
    yield Chance(Share.SPEAKING, overlapped.did is not Did.SILENT)
    if overlapped.did is not Did.SILENT and overlapped.should is Should.YIELD:
        yield Chance(Share.STOPPED, overlapped.did is Did.YIELDED)
    elif overlapped.did is not Did.SILENT:
        yield Chance(Share.HELD, overlapped.did is Did.HELD)
