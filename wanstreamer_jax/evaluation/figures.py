"""The figures: what each is called, what it should reach, and how it is made of the scores of sessions."""

import dataclasses
import enum
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wanstreamer_jax.evaluation.chances import Share, interval
from wanstreamer_jax.evaluation.lips import at_zero, mean_curve, offset_ms
from wanstreamer_jax.evaluation.score import Score

MINUTE_MS = 60_000
_DIGITS = 4  # of a figure in a report


class Unit(enum.StrEnum):
    """What a figure is measured in, as it is written after a number."""

    SHARE = "%"
    MS = "ms"
    PER_MIN = "/min"
    DB = "dB"
    TIMES = "x"
    NUMBER = ""


class Aim(NamedTuple):
    """What a figure should reach; `of_world`: times what the world's own agent has."""

    at_least: float | None = None
    at_most: float | None = None
    of_world: float | None = None


class Figure(NamedTuple):
    """A line of the table."""

    name: str
    words: str
    unit: Unit
    aim: Aim = Aim()


@dataclasses.dataclass(frozen=True)
class Measured:
    """A figure's value, how many things it was taken from, and of a share its 95 % interval; None: there is none."""

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None


FIGURES = (
    Figure(Share.ANSWER_SEEN, "answer right, spoken question, seen pair", Unit.SHARE, Aim(at_least=0.95)),
    Figure(Share.ANSWER_UNSEEN, "answer right, spoken question, unseen pair", Unit.SHARE, Aim(at_least=0.85)),
    Figure(Share.ANSWER_TYPED, "answer right, typed question", Unit.SHARE, Aim(at_least=0.97)),
    Figure(Share.ANSWER_OTHER, "answer right, other spoken questions", Unit.SHARE),
    Figure(Share.HEARD, "key word recognised in the speech", Unit.SHARE, Aim(of_world=0.95)),
    Figure("latency", "from the question's end to the answer, median", Unit.MS, Aim(at_most=480.0)),
    Figure(Share.IN_TIME, "answers within 1.2 s", Unit.SHARE, Aim(at_least=0.95)),
    Figure("typed_latency", "from a typed question's end to the answer, median", Unit.MS),
    Figure(Share.TYPED_IN_TIME, "answers to typed questions within 1.2 s", Unit.SHARE),
    Figure(Share.FALSE_START, "starts to speak during a question or its pauses", Unit.SHARE, Aim(at_most=0.03)),
    Figure(Share.SPEAKING, "is speaking when somebody speaks into its answer", Unit.SHARE),
    Figure(Share.STOPPED, 'falls silent within 640 ms of "stop"', Unit.SHARE, Aim(at_least=0.95)),
    Figure(Share.HELD, "goes on under back-channels and background talk", Unit.SHARE, Aim(at_least=0.9)),
    Figure(Share.COMMENTED, "comments on a new card within 2 s", Unit.SHARE, Aim(at_least=0.9)),
    Figure(Share.COMMENT_RIGHT, "names the new card's colour", Unit.SHARE),
    Figure(Share.UNASKED, "speaks when nothing was asked or shown", Unit.SHARE, Aim(at_most=0.03)),
    Figure("sync_offset", "mouth later than sound", Unit.MS, Aim(at_least=-40.0, at_most=40.0)),
    Figure("sync_correlation", "mouth and sound, correlation at 0", Unit.NUMBER, Aim(at_least=0.6)),
    Figure("nods_listening", "nods while the user speaks", Unit.PER_MIN),
    Figure("nods_idle", "nods when nobody speaks", Unit.PER_MIN),
    Figure("nods_ratio", "nods while listening against idle", Unit.TIMES, Aim(at_least=3.0)),
    Figure("identity", "likeness to the portrait, mean of sessions", Unit.NUMBER),
    Figure("brightness", "brightness, of 1", Unit.NUMBER),
    Figure("loudness", "loudness of speech, under full scale", Unit.DB),
)


def measure(scores: Sequence[Score]) -> dict[str, Measured]:
    """All figures of an agent's sessions, by name."""
    spoken = [ms for s in scores for ms in s.spoken_latencies_ms]
    typed = [ms for s in scores for ms in s.typed_latencies_ms]
    found: dict[str, Measured] = {share: share_of(share, scores) for share in Share}
    found |= {"latency": _median(spoken), "typed_latency": _median(typed)}
    found |= _sync(scores) | _nods(scores)
    for name, values in (
        ("identity", [s.identity for s in scores]),
        ("brightness", [s.brightness for s in scores]),
        ("loudness", [s.loudness_db for s in scores if s.loudness_db is not None]),
    ):
        found[name] = Measured(_rounded(np.mean(values)) if values else None, len(values))
    return {figure.name: found[figure.name] for figure in FIGURES}


def share_of(share: Share, scores: Sequence[Score]) -> Measured:
    """A share over all sessions."""
    taken = [chance.taken for score in scores for chance in score.chances if chance.share is share]
    if not taken:
        return Measured(None, 0)
    low, high = interval(sum(taken), len(taken))
    return Measured(_rounded(np.mean(taken)), len(taken), _rounded(low), _rounded(high))


def reaches(aim: Aim, value: float | None, world: float | None) -> bool | None:
    """Whether a figure is as it should be; None where nothing is asked of it, or not even the world's agent has it."""
    if aim == Aim() or world is None:
        return None
    least = aim.at_least if aim.of_world is None else aim.of_world * world
    return value is not None and (least is None or value >= least) and (aim.at_most is None or value <= aim.at_most)


def _sync(scores: Sequence[Score]) -> dict[str, Measured]:
    curves = [s.sync for s in scores if s.sync is not None]
    mean = mean_curve(curves)
    offset, correlation = (None, None) if mean is None else (offset_ms(mean), at_zero(mean))
    return {
        "sync_offset": Measured(_rounded(offset), len(curves)),
        "sync_correlation": Measured(_rounded(correlation), len(curves)),
    }


def _nods(scores: Sequence[Score]) -> dict[str, Measured]:
    """Where there is no idle nod, the ratio is what it would be with one."""
    listening, listening_ms, idle, idle_ms = (sum(column) for column in zip(*(s.nods for s in scores), strict=True))
    rates = [n / ms * MINUTE_MS if ms else None for n, ms in ((listening, listening_ms), (idle, idle_ms))]
    ratio = None
    if listening_ms and idle_ms:
        ratio = (listening / listening_ms) / (max(idle, 1) / idle_ms)
    return {
        "nods_listening": Measured(_rounded(rates[0]), listening),
        "nods_idle": Measured(_rounded(rates[1]), idle),
        "nods_ratio": Measured(_rounded(ratio), listening + idle),
    }


def _median(values: Sequence[int]) -> Measured:
    return Measured(_rounded(np.median(values)) if values else None, len(values))


def _rounded(value: float | np.floating | None) -> float | None:
    return None if value is None else round(float(value), _DIGITS)


def in_words(figure: Figure, value: float | None) -> str:
    """A value with its unit."""
    if value is None:
        return "-"
    if figure.unit is Unit.SHARE:
        return f"{100 * value:.1f} %"
    digits = {Unit.MS: 0, Unit.PER_MIN: 1, Unit.DB: 1, Unit.TIMES: 1, Unit.NUMBER: 2}[figure.unit]
    return f"{value:.{digits}f} {figure.unit}".strip()


def aim_in_words(figure: Figure) -> str:
    """What a figure should reach."""
    aim = figure.aim
    if aim.of_world is not None:
        return f">= {100 * aim.of_world:g} % of world"
    parts = [(">=", aim.at_least), ("<=", aim.at_most)]
    return ", ".join(f"{sign} {_plain(figure, limit)}" for sign, limit in parts if limit is not None)


def _plain(figure: Figure, limit: float) -> str:
    shown = 100 * limit if figure.unit is Unit.SHARE else limit
    return f"{shown:g} {figure.unit}".strip()
