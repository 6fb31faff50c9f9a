"""Time stamps of one stream, repaired: missing ones filled in, jumps closed."""

from fractions import Fraction

# Frames that B-frames reorder step back by less; a recording that is paused steps forward by less.
LARGEST_STEP_BACK_S = 3.0
LARGEST_GAP_S = 600.0


class Stamps:
    """Seconds of the frames of one stream, given in the order in which they are decoded."""

    def __init__(self) -> None:
        self._shift_s = 0.0
        self._end_s: float | None = None  # of the latest frame so far

    def place(self, stamp: int | None, time_base: Fraction | None, duration_s: float) -> float:
        """Seconds at which a frame starts.

        A frame without a stamp follows the one before it. Where stamps jump (a clock that was reset, files
        joined end to end), everything after the jump is moved to follow what came before.
        """
        start_s = self._expected_s
        if stamp is not None and time_base is not None:
            start_s = self._closed(float(stamp * time_base))
        self._end_s = max(self._expected_s, start_s + duration_s) if self._end_s is not None else start_s + duration_s
        return start_s

    @property
    def _expected_s(self) -> float:
        return 0.0 if self._end_s is None else self._end_s

    def _closed(self, stamp_s: float) -> float:
        start_s = stamp_s + self._shift_s
        if self._end_s is None or -LARGEST_STEP_BACK_S < start_s - self._end_s < LARGEST_GAP_S:
            return start_s
        self._shift_s = self._end_s - stamp_s
        return self._end_s
