"""When somebody speaks, from the energy of the sound alone, and how loud.

1. the level of every 10 ms, in dB of full scale; above -40 dB is loud (voices of the world are at -22)
2. gaps of less than 60 ms are closed, then stretches of less than 60 ms dropped: clicks are no speech
3. gaps of less than 500 ms are closed: a pause between words is no end
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

STEP_MS = 10
LOUD_DB = -40.0  # of full scale
LEAST_MS = 60
JOIN_MS = 500

_STEP = STEP_MS * SAMPLE_RATE_HZ // 1000


class Span(NamedTuple):
    """From one time to another, in ms since the session began."""

    start_ms: int
    end_ms: int


def level_db(samples: Float32[np.ndarray, " n"]) -> float:
    """The level of a sound, in dB of full scale; silence is at -120."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return 10 * float(np.log10(max(power, 1e-12)))


def is_loud(samples: Float32[np.ndarray, " n"]) -> Bool[np.ndarray, " steps"]:
    """Whether each whole 10 ms are loud."""
    steps = samples[: len(samples) // _STEP * _STEP].reshape(-1, _STEP)
    return np.mean(np.square(steps, dtype=np.float64), axis=1) > 10 ** (LOUD_DB / 10)


def speech(samples: Float32[np.ndarray, " n"], join_ms: int = JOIN_MS) -> list[Span]:
    """When somebody speaks; shorter gaps than `join_ms` are pauses."""
    sounds = [s for s in joined(runs(is_loud(samples)), LEAST_MS) if s.end_ms - s.start_ms >= LEAST_MS]
    return joined(sounds, join_ms)


def runs(flags: Bool[np.ndarray, " steps"]) -> list[Span]:
    """The stretches of 10 ms in which a flag holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [Span(int(a) * STEP_MS, int(b) * STEP_MS) for a, b in edges.reshape(-1, 2)]


def joined(spans: Sequence[tuple[int, int]], gap_ms: int) -> list[Span]:
    """Spans in order, those with less than `gap_ms` between them as one."""
    whole: list[Span] = []
    for start_ms, end_ms in spans:
        if whole and start_ms - whole[-1].end_ms < gap_ms:
            whole[-1] = Span(whole[-1].start_ms, max(end_ms, whole[-1].end_ms))
        else:
            whole.append(Span(start_ms, end_ms))
    return whole


def marked(spans: Sequence[tuple[int, int]], n_steps: int, step_ms: int) -> Bool[np.ndarray, " n_steps"]:
    """Whether the middle of each step lies in a span."""
    middle_ms = (np.arange(n_steps) + 0.5) * step_ms
    inside = np.zeros(n_steps, bool)
    for start_ms, end_ms in spans:
        inside |= (middle_ms >= start_ms) & (middle_ms < end_ms)
    return inside


def speech_level_db(samples: Float32[np.ndarray, " n"]) -> float | None:
    """The level of what is loud in a sound; None when nothing is."""
    loud = is_loud(samples)
    steps = samples[: len(loud) * _STEP].reshape(-1, _STEP)
    return level_db(steps[loud].reshape(-1)) if loud.any() else None
