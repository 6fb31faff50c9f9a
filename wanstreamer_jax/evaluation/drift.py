"""Long runs: what becomes of an agent that goes on for minutes, the last minute against the first.

A long run is one session of the agent, and its user of another session of the world each minute.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.evaluation.chances import Share
from wanstreamer_jax.evaluation.figures import Aim, Figure, Measured, Unit, measure
from wanstreamer_jax.evaluation.score import Score

MINUTE_S = 60.0

DRIFTS = (
    Figure("identity_change", "identity, last minute against first", Unit.SHARE, Aim(-0.05, 0.05)),
    Figure("brightness_change", "brightness, last minute against first", Unit.SHARE, Aim(-0.05, 0.05)),
    Figure("loudness_change", "loudness, last minute against first", Unit.DB, Aim(-3.0, 3.0)),
    Figure("answer_rate_change", "answers within 1.2 s, last minute against first", Unit.SHARE, Aim(-0.03, 0.03)),
)


@dataclasses.dataclass(frozen=True)
class Minute:
    """A minute of all long runs; None where nothing was said or asked."""

    identity: Measured
    brightness: Measured
    loudness: Measured
    in_time: Measured


def by_minute(runs: Sequence[Sequence[Score]]) -> list[Minute]:
    """Minutes of runs, from the scores of each run's minutes."""
    return [_minute(scores) for scores in zip(*runs, strict=True)]


def _minute(scores: Sequence[Score]) -> Minute:
    found = measure(scores)
    return Minute(found["identity"], found["brightness"], found["loudness"], found[Share.IN_TIME])


def drifts(minutes: Sequence[Minute]) -> dict[str, Measured]:
    """The last minute against the first: identity and brightness relative, loudness and answer rate as differences."""
    pairs = {name: _first_and_last(minutes, name) for name in ("identity", "brightness", "loudness", "in_time")}
    changes = {
        "identity_change": _relative(*pairs["identity"]),
        "brightness_change": _relative(*pairs["brightness"]),
        "loudness_change": _difference(*pairs["loudness"]),
        "answer_rate_change": _difference(*pairs["in_time"]),
    }
    return {name: Measured(None if x is None else round(x, 4), len(minutes)) for name, x in changes.items()}


def _first_and_last(minutes: Sequence[Minute], name: str) -> tuple[float | None, float | None]:
    return getattr(minutes[0], name).value, getattr(minutes[-1], name).value


def _difference(first: float | None, last: float | None) -> float | None:
    return None if first is None or last is None else last - first


def _relative(first: float | None, last: float | None) -> float | None:
    change = _difference(first, last)
    return None if change is None or not first else change / abs(first)


def minutes_apart(values: Sequence[Measured]) -> np.ndarray:
    """Values minute by minute, with gaps where there is none."""
    return np.array([np.nan if m.value is None else m.value for m in values])
