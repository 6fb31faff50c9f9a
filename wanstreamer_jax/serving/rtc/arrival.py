"""Stamps of RTP on the session's clock: streams that have no clock in common are laid beside each other.

The times of a stream are those at which it would have come with the least delay there was. Microphone and camera go
the same way, so what was heard and seen at once has the same time.
"""

import math

FORGET_MS_PER_S = 1.0  # so fast the least delay is forgotten: ten times as fast as clocks drift apart
LEAP_MS = 1000.0  # stamps that are off by more began anew
_MODULUS = 1 << 32


class ArrivalClock:
    """Times of one stream, whose stamps count `rate_hz` and begin anywhere."""

    def __init__(self, rate_hz: int):
        self._per_ms = rate_hz / 1000
        self._stamp: int | None = None  # the last one, which goes on counting
        self._offset_ms = math.inf  # session's clock - stamp, with the least delay in it
        self._noted_ms = -math.inf

    def place_ms(self, stamp: int, now_ms: float) -> float:
        """When that what is here now would have come with the least delay."""
        stamp_ms = self._unwrapped(stamp) / self._per_ms
        offset_ms = now_ms - stamp_ms
        if abs(offset_ms - self._offset_ms) > LEAP_MS:
            self._offset_ms = offset_ms
        since_s = max(0.0, min(1.0, (now_ms - self._noted_ms) / 1000))
        self._noted_ms = now_ms
        self._offset_ms = min(self._offset_ms + FORGET_MS_PER_S * since_s, offset_ms)
        return stamp_ms + self._offset_ms

    def _unwrapped(self, stamp: int) -> int:
        if self._stamp is not None:
            ahead = (stamp - self._stamp) % _MODULUS
            stamp = self._stamp + (ahead if ahead < _MODULUS // 2 else ahead - _MODULUS)
        self._stamp = stamp
        return stamp
