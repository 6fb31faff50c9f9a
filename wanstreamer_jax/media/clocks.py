"""Pictures and sound that come when they come, asked for at the beat of the clock. Memory: what is not yet due."""

from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float32

from wanstreamer_jax.media.sound import Piece

Frame = TypeVar("Frame")


class PictureClock(Generic[Frame]):
    """Which picture is to be seen, asked for at times that never go back."""

    def __init__(self, frames: Iterator[tuple[float, Frame]], tolerance_s: float) -> None:
        """Take at least one (start in seconds, frame), in order; `tolerance_s` is how early one may be shown."""
        self._frames = frames
        self._tolerance_s = tolerance_s
        self._shown = next(frames)
        self._next = next(frames, None)

    def at(self, time_s: float) -> Frame:
        """Return the newest frame that has started; the first one before that, the last one for ever after."""
        while self._next is not None and self._next[0] <= time_s + self._tolerance_s:
            self._shown, self._next = self._next, next(self._frames, None)
        return self._shown[1]


class SoundClock:
    """The next samples. Gaps between pieces are silence; where pieces overlap, the earlier one is heard."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        """Take pieces that are not empty."""
        self._pieces = pieces
        self._piece = next(pieces, None)
        self._position = 0  # of the next sample to be taken
        self._heard = 0  # end of the pieces so far

    def take(self, n_samples: int) -> Float32[np.ndarray, " n"]:
        """Return the next `n_samples`; past the last piece, silence."""
        start, end = self._position, self._position + n_samples
        taken = np.zeros(n_samples, np.float32)
        while self._piece is not None and self._piece.start < end:
            piece_end = self._piece.start + len(self._piece.samples)
            first, last = max(self._piece.start, self._heard), min(piece_end, end)
            if first < last:
                taken[first - start : last - start] = self._piece.samples[first - self._piece.start :][: last - first]
                self._heard = last
            if piece_end > end:
                break
            self._piece = next(self._pieces, None)
        self._position = end
        return taken
