"""Do mouth and sound go together? The opening of the mouth in the pixels against the envelope of the sound.

c(l) is the correlation (Pearson's) of the sound's level in a frame's 40 ms with the mouth's opening l frames later,
over all frames of a session that have both. The offset is where c is largest, between frames by a parabola.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from wanstreamer_jax.data.world import Composition, measure_opening
from wanstreamer_jax.evaluation.lived import Lived
from wanstreamer_jax.timeline import FRAME_MS, SAMPLES_PER_FRAME

MOST_LAG = 10  # frames
FOUND = 0.2  # a curve that nowhere reaches this has no offset

Lags = Float64[np.ndarray, " lags"]


def sync_curve(lived: Lived, composition: Composition) -> Lags | None:
    """c(l) for l from -MOST_LAG to MOST_LAG, in frames; None of an agent that is silent all the time."""
    envelope = np.sqrt(np.mean(lived.samples.reshape(-1, SAMPLES_PER_FRAME).astype(np.float64) ** 2, axis=1))
    if len(envelope) <= 2 * MOST_LAG or np.ptp(envelope) == 0:
        return None
    mouth = measure_opening(lived.frames, composition).astype(np.float64)
    middle = envelope[MOST_LAG : len(envelope) - MOST_LAG]
    later = np.lib.stride_tricks.sliding_window_view(mouth, len(middle))
    return np.array([_correlation(middle, shifted) for shifted in later])


def mean_curve(curves: Sequence[Sequence[float]]) -> Lags | None:
    """The curve of many sessions; None of none."""
    return np.mean(np.asarray(curves, np.float64), axis=0) if curves else None


def offset_ms(curve: Lags) -> float | None:
    """How much later than the sound the mouth moves; None when it does not move with it."""
    best = int(np.argmax(curve))
    if curve[best] < FOUND:
        return None
    if not 0 < best < len(curve) - 1:
        return float((best - MOST_LAG) * FRAME_MS)
    before, peak, after = curve[best - 1 : best + 2]
    bend = before - 2 * peak + after
    return float((best - MOST_LAG + (0.5 * (before - after) / bend if bend else 0.0)) * FRAME_MS)


def at_zero(curve: Lags) -> float:
    """The correlation without a lag."""
    return float(curve[MOST_LAG])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of what never changes, none."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm > 0 else 0.0
