"""Where packets of RTP leave aiortc: in the place of a receiver's jitter buffer."""

import asyncio
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from wanstreamer_jax.serving.rtc.jitter import Frame, JitterBuffer, Packet
from wanstreamer_jax.stream.live import WALL_CLOCK

KEY_EVERY_MS = 500.0  # so often a key frame is asked for, at most


@runtime_checkable
class RtpPacket(Protocol):
    """A packet as aiortc has it."""

    ssrc: int
    sequence_number: int
    timestamp: int
    marker: int
    payload: bytes
    _data: bytes  # the payload without what the codec's packets begin with


class Tap:
    """Hands on what is complete, with the time it came, and leaves aiortc with nothing to do."""

    def __init__(
        self,
        frames: Callable[[Frame, float], None],
        wants_key: Callable[[], bool] | None,
        live: Callable[[], None],
    ):
        """`wants_key` says whether pictures need a key frame, and is None for sound; `live` is told of each packet."""
        self._frames, self._wants_key, self._live = frames, wants_key, live
        self._buffer, self._ssrc = JitterBuffer(), 0
        self._timer: asyncio.TimerHandle | None = None
        self._n_skipped, self._asked_ms = 0, -KEY_EVERY_MS

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Take a packet, as aiortc calls it; whether a key frame is to be asked for, and no frame."""
        self._live()
        if packet.ssrc != self._ssrc:
            self._buffer, self._ssrc, self._n_skipped = JitterBuffer(), packet.ssrc, 0
        now_ms = WALL_CLOCK.now_ms()
        self._buffer.put(self._packet(packet), now_ms)
        self._release()
        return self._asks(now_ms), None

    def _packet(self, packet: RtpPacket) -> Packet:
        data = packet._data  # noqa: SLF001 - there is no public way to it
        if self._wants_key is None or not packet.payload:  # sound, or padding: each a frame of its own
            return Packet(packet.sequence_number, packet.timestamp, True, True, data)
        is_first = packet.payload[0] & 0x17 == 0x10  # VP8 (RFC 7741): the start of the first partition
        return Packet(packet.sequence_number, packet.timestamp, is_first, bool(packet.marker), data)

    def _release(self) -> None:
        """Hand on what is complete, and come back when something is to be given up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_ms = WALL_CLOCK.now_ms()
        for frame in self._buffer.take(now_ms):
            if frame.data:
                self._frames(frame, now_ms)
        due_ms = self._buffer.due_ms
        if due_ms is not None:
            self._timer = asyncio.get_running_loop().call_later((due_ms - now_ms) / 1000, self._release)

    def _asks(self, now_ms: float) -> bool:
        if self._wants_key is None or now_ms - self._asked_ms < KEY_EVERY_MS:
            return False
        asks = self._buffer.n_skipped > self._n_skipped or self._wants_key()
        if asks:
            self._asked_ms, self._n_skipped = now_ms, self._buffer.n_skipped
        return asks
