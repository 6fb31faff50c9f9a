"""Units of the agent as a line of moments of 20 ms: sound, and the picture that belongs to it.

Units come when they are ready, moments go when they are due. What is not there yet is silence under the picture
before; what piles up is left out, sound and picture alike, so that they stay in step and never fall behind.
"""

import threading
from collections import deque
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.serving.conversation import UnitOut
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLE_RATE_HZ, UNIT_MS

MOMENT_MS = 20
MOMENT_SAMPLES = MOMENT_MS * SAMPLE_RATE_HZ // 1000
MOMENTS_PER_UNIT = UNIT_MS // MOMENT_MS
MOMENTS_PER_FRAME = MOMENTS_PER_UNIT // FRAMES_PER_UNIT

# In moments, all of it.
FIRST_HELD, MOST_HELD, HELD_MORE = 2, 8, 1  # before a first unit is played, in case the next one is late
SPARE = 3  # beyond what is held, for so many units: then some is left out
SPARE_UNITS = 40
MOST_UNITS = 3  # that wait
JOINT_SAMPLES = SAMPLE_RATE_HZ // 200  # 5 ms, where what follows does not follow on

_RISE = np.linspace(0, 1, JOINT_SAMPLES, dtype=np.float32)

Pixels = UInt8[np.ndarray, "H W 3"]


class Moment(NamedTuple):
    """What is heard and seen for 20 ms."""

    samples: Float32[np.ndarray, " n"]
    picture: Pixels
    unit: int | None  # that this is of; None when nothing is played


class Playout:
    """Filled in one thread, emptied in another. Pictures change with every other moment, beginning with the first."""

    def __init__(self, picture: Pixels):
        """`picture` is shown until there is another."""
        self._lock = threading.Lock()
        self._units: deque[UnitOut] = deque()
        self._at = 0  # moments of the first of them that were played; odd when `_n_taken` is
        self._n_taken = 0
        self._picture = picture
        self._is_playing, self._waited, self._held = False, 0, FIRST_HELD
        self._least, self._n_units = MOST_UNITS * MOMENTS_PER_UNIT, 0
        self._follows, self._last = True, np.float32(0)

    def put(self, unit: UnitOut) -> int:
        """Have a unit played; how many were left out for that."""
        with self._lock:
            self._trim(self._n_waiting)
            self._units.append(unit)
            n_left_out = max(0, len(self._units) - MOST_UNITS)
            for _ in range(n_left_out):
                self._leave_out(MOMENTS_PER_UNIT - self._at)
        return n_left_out

    def take(self) -> Moment:
        """The next moment."""
        with self._lock:
            self._decide()
            self._n_taken += 1
            if not self._is_playing:
                return Moment(self._joined(np.zeros(MOMENT_SAMPLES, np.float32)), self._picture, None)
            unit, at = self._units[0], self._at
            self._picture = unit.frames[at // MOMENTS_PER_FRAME]
            samples = np.asarray(unit.samples[at * MOMENT_SAMPLES :][:MOMENT_SAMPLES], np.float32)
            self._advance(1)
            return Moment(self._joined(samples), self._picture, unit.unit)

    @property
    def _n_waiting(self) -> int:
        return len(self._units) * MOMENTS_PER_UNIT - self._at

    def _decide(self) -> None:
        """Whether to play: not before enough is held, and not when there is nothing."""
        if self._is_playing and not self._units:
            self._is_playing, self._waited, self._at, self._follows = False, 0, 0, False
            self._held = min(MOST_HELD, self._held + HELD_MORE)
        elif not self._is_playing and self._units:
            self._is_playing = self._waited >= self._held and self._n_taken % MOMENTS_PER_FRAME == 0
            self._waited += 1
            self._follows = self._follows and not self._is_playing

    def _trim(self, n_waiting: int) -> None:
        """What always waits longer than it must is delay for nothing."""
        self._least = min(self._least, n_waiting)
        self._n_units += 1
        if self._n_units % SPARE_UNITS == 0:
            spare = self._least - self._held
            if self._is_playing and spare > SPARE:
                self._leave_out(spare - 1)
            self._least = MOST_UNITS * MOMENTS_PER_UNIT

    def _leave_out(self, n: int) -> None:
        self._follows = False
        self._advance(n + n % MOMENTS_PER_FRAME)

    def _advance(self, n: int) -> None:
        whole, self._at = divmod(self._at + n, MOMENTS_PER_UNIT)
        for _ in range(whole):
            self._units.popleft()

    def _joined(self, samples: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Without a click where something is missing."""
        if not self._follows:
            samples = samples.copy()
            samples[:JOINT_SAMPLES] = samples[:JOINT_SAMPLES] * _RISE + self._last * (1 - _RISE)
            self._follows = True
        self._last = samples[-1]
        return samples
