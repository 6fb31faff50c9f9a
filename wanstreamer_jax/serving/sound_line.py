"""Sound laid on a line of time as it comes, and taken from it piece by piece: bounded, and without clicks."""

import numpy as np
from jaxtyping import Bool, Float32

from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_MS

LINE_SAMPLES = 2 * SAMPLE_RATE_HZ  # the newest are kept
SLIP_SAMPLES = SAMPLE_RATE_HZ // 50  # stamps that are off by less are those of sound that goes on
FADE_SAMPLES = SAMPLE_RATE_HZ // 500  # 2 ms, at the edges of what is missing

_RISE = np.linspace(0, 1, FADE_SAMPLES + 2, dtype=np.float32)[1:-1]
_NOWHERE = np.iinfo(np.int64).min


class SoundLine:
    """A ring of samples, each with its place in time, counted in samples."""

    def __init__(self) -> None:
        self._samples = np.zeros(LINE_SAMPLES, np.float32)
        self._at = np.full(LINE_SAMPLES, _NOWHERE)  # the place of each of them
        self._next: int | None = None  # where sound goes on
        self._silent = True  # what was taken last ended in silence

    def put(self, time_ms: float, samples: Float32[np.ndarray, " n"]) -> None:
        """Lay down sound that begins at a time."""
        start = round(time_ms * SAMPLES_PER_MS)
        if self._next is not None and abs(start - self._next) <= SLIP_SAMPLES:
            start = self._next
        self._next = start + len(samples)
        newest = samples[-LINE_SAMPLES:]
        at = np.arange(self._next - len(newest), self._next)
        self._samples[at % LINE_SAMPLES], self._at[at % LINE_SAMPLES] = newest, at

    def take(self, time_ms: float, n_samples: int) -> tuple[Float32[np.ndarray, " n"], int]:
        """Samples from a time on, and how many of them are missing: those are silence, faded into and out of.

        Before any sound came, none is missing.
        """
        start = round(time_ms * SAMPLES_PER_MS)
        at = np.arange(start, start + n_samples)
        present = self._at[at % LINE_SAMPLES] == at
        samples = np.where(present, self._samples[at % LINE_SAMPLES], np.float32(0))
        self._fade(samples, present)
        n_missing = 0 if self._next is None else n_samples - np.count_nonzero(present)
        return samples, int(n_missing)

    def _fade(self, samples: Float32[np.ndarray, " n"], present: Bool[np.ndarray, " n"]) -> None:
        before = np.int8(not self._silent)
        edges: list[int] = np.flatnonzero(np.diff(present.astype(np.int8), prepend=before)).tolist()
        for at in edges:
            if present[at]:
                n = min(FADE_SAMPLES, len(samples) - at)
                samples[at : at + n] *= _RISE[:n]
            else:
                n = min(FADE_SAMPLES, at)
                samples[at - n : at] *= _RISE[::-1][FADE_SAMPLES - n :]
        self._silent = not present[-1]
