"""How a user's clock stands to the session's, learnt from when things come; and how much their delay varies."""

import math

FIRST_CUSHION_MS = 30.0
MOST_CUSHION_MS = 120.0  # more delay than that is loss
SPARE_MS = 5.0
FORGET_MS_PER_S = 1.0  # so fast the least delay is forgotten: ten times as fast as clocks drift apart
RELAX_PER_S = 0.1  # of the cushion that is not needed any more
LEAP_MS = 1000.0  # a clock that differs by more than it did was set anew


class ClockOffset:
    """The least delay there was, and a cushion for what came later than that."""

    def __init__(self) -> None:
        self.cushion_ms = FIRST_CUSHION_MS
        self._offset_ms: float | None = None  # session's clock - user's clock, with the least delay in it
        self._noted_ms = -math.inf

    def note(self, now_ms: float, time_ms: float, every_ms: float) -> None:
        """Something that was complete at `time_ms` of the user's clock is here; the next comes `every_ms` later."""
        offset_ms = now_ms - time_ms
        if self._offset_ms is None or abs(offset_ms - self._offset_ms) > LEAP_MS:
            self._offset_ms = offset_ms
        since_s = max(0.0, min(1.0, (now_ms - self._noted_ms) / 1000))
        self._noted_ms = now_ms
        self._offset_ms = min(self._offset_ms + FORGET_MS_PER_S * since_s, offset_ms)
        needed_ms = offset_ms - self._offset_ms + every_ms + SPARE_MS
        relaxed_ms = self.cushion_ms - RELAX_PER_S * since_s * max(0.0, self.cushion_ms - needed_ms)
        self.cushion_ms = min(MOST_CUSHION_MS, max(relaxed_ms, needed_ms))

    def user_ms(self, now_ms: float) -> float:
        """Up to which time of the user's clock everything is here now; before anything came, any time will do."""
        return now_ms - (self._offset_ms or 0.0) - self.cushion_ms
