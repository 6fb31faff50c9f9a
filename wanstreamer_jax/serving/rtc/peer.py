"""One WebRTC connection, bounded in all that aiortc leaves unbounded. The one module that imports aiortc.

aiortc's own way from the network to a decoded frame waits for the frame after (+40 ms for pictures), holds sound back
(+80 ms, +310 ms after a loss), and queues without end. Here each receiver's jitter buffer is replaced by one that hands
frames on at once, so that its decoder and its track stay idle.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from typing import Any, NamedTuple

import aioice.ice
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.codecs import vpx
from aiortc.exceptions import InvalidStateError
from aiortc.sdp import SessionDescription
from av.packet import Packet as AvPacket
from av.video.frame import VideoFrame

from wanstreamer_jax.serving.outbox import Message
from wanstreamer_jax.serving.rtc.jitter import Frame
from wanstreamer_jax.serving.rtc.tap import Tap
from wanstreamer_jax.stream.live import WALL_CLOCK

logger = logging.getLogger(__name__)

CODECS = {"audio": ("audio/opus",), "video": ("video/VP8", "video/rtx")}
RATES_HZ = {"audio": 48_000, "video": 90_000}
SECTIONS = ["application", "audio", "video"]
MOST_CANDIDATES = 64  # addresses that an offer may have us knock at
MOST_BUFFERED_BYTES = 1 << 16  # of messages that the client has not taken
MOST_WAITING = {"audio": 10, "video": 2}  # 200 and 80 ms that an encoder may be behind
CLOSE_S = 5.0

# Names of aiortc's own that it has no public ones for; a test holds them against the installed version.
JITTER_BUFFER = "_RTCRtpReceiver__jitter_buffer"
SENT_STAMP = "_RTCRtpSender__rtp_timestamp"

vpx.PACKET_MAX = 1100  # with all its headers a datagram fits into 1280 bytes, the least that networks carry

_loopback_only: ContextVar[bool] = ContextVar("loopback_only", default=False)
_addresses = aioice.ice.get_host_addresses


def _host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    return ["127.0.0.1"] if _loopback_only.get() else _addresses(use_ipv4, use_ipv6)


aioice.ice.get_host_addresses = _host_addresses  # aioice never offers 127.0.0.1


@contextmanager
def loopback(only: bool) -> Iterator[None]:
    """Whether connections that are answered in here can be reached from this machine alone."""
    token = _loopback_only.set(only)
    try:
        yield
    finally:
        _loopback_only.reset(token)


class BadOfferError(ValueError):
    """An offer that cannot be answered; the message says why."""


class Ears(NamedTuple):
    """Who gets what comes: messages, and frames with the time at which they came. None of them may wait or raise."""

    message: Callable[[Message], None]
    sound: Callable[[Frame, float], None]
    picture: Callable[[Frame, float], None]
    wants_key: Callable[[], bool]


def check_offer(offer: str) -> None:
    """Look at an offer; nothing is set up.

    Raises:
        BadOfferError: it is no SDP, or not of what a conversation needs.
    """
    try:
        found = SessionDescription.parse(offer)
        kinds = sorted(media.kind for media in found.media)
    except Exception as error:  # it raises whatever its parser does
        raise BadOfferError("This is no SDP offer.") from error
    if kinds != SECTIONS:
        raise BadOfferError("An offer has one section of audio, one of video and one of a data channel.")
    if sum(len(media.ice_candidates) for media in found.media) > MOST_CANDIDATES:
        raise BadOfferError(f"An offer has {MOST_CANDIDATES} candidates at most.")


class Peer:
    """A connection, from its answer to `close`. Its tracks take frames as soon as it is made."""

    def __init__(self, ears: Ears):
        self.opened, self.gone = asyncio.Event(), asyncio.Event()  # the data channel is there; nothing is, any more
        self.sound = _Track("audio")
        self.pictures = _Track("video")
        self.heard_ms = WALL_CLOCK.now_ms()  # when the last sign of life came
        self._ears = ears
        self._channel: RTCDataChannel | None = None
        self._drained = asyncio.Event()
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))  # the default asks a public server
        self._connection.on("connectionstatechange", self._note_state)
        self._connection.on("datachannel", self._take_channel)
        for track in (self.sound, self.pictures):
            self._add(track)

    async def answer(self, offer: str) -> str:
        """The answer to an offer, with all candidates.

        Raises:
            BadOfferError: it cannot be answered.
        """
        connection = self._connection
        try:
            await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            await connection.setLocalDescription(await connection.createAnswer())
            assert connection.sctp is not None
            connection.sctp.transport.on("statechange", self._note_state)
        except Exception as error:  # it raises whatever a wrong line leads to
            raise BadOfferError("This offer cannot be answered.") from error
        return connection.localDescription.sdp

    async def send(self, message: Message) -> None:
        """Send a message, as soon as there is a channel that is not behind. Raises ConnectionError without one."""
        await self.opened.wait()
        channel = self._channel
        assert channel is not None
        while channel.bufferedAmount > MOST_BUFFERED_BYTES:
            self._drained.clear()
            await self._drained.wait()
        try:
            channel.send(message)
        except (InvalidStateError, ValueError) as error:
            raise ConnectionError("the channel does not take it") from error

    @property
    def overflows(self) -> bool:
        """Whether the client sends a message that is longer than it may be: aiortc puts it together without end."""
        sctp = self._connection.sctp
        return sctp is not None and sctp._advertised_rwnd < 0  # noqa: SLF001 - there is no other sign of it

    async def close(self) -> None:
        """Let go of everything."""
        self.gone.set()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._connection.close()
        except Exception:  # after an offer that was wrong it raises whatever that leads to
            logger.debug("a connection did not close well", exc_info=True)

    def _add(self, track: "_Track") -> None:
        sender = self._connection.addTrack(track)
        track.sender = sender
        transceiver = next(t for t in self._connection.getTransceivers() if t.sender is sender)
        known = RTCRtpSender.getCapabilities(track.kind).codecs
        transceiver.setCodecPreferences([codec for codec in known if codec.mimeType in CODECS[track.kind]])
        frames = self._ears.picture if track.kind == "video" else self._ears.sound
        tap = Tap(frames, self._ears.wants_key if track.kind == "video" else None, self._live)
        assert hasattr(transceiver.receiver, JITTER_BUFFER)
        setattr(transceiver.receiver, JITTER_BUFFER, tap)

    def _live(self) -> None:
        self.heard_ms = WALL_CLOCK.now_ms()

    def _note_state(self) -> None:
        states = {self._connection.connectionState}
        if self._connection.sctp is not None:
            states.add(self._connection.sctp.transport.state)
        if states & {"failed", "closed"}:
            self.gone.set()

    def _take_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._hear)
        channel.on("bufferedamountlow", self._drained.set)
        channel.on("close", self.gone.set)
        self._live()
        self.opened.set()

    def _hear(self, message: Message) -> None:
        self._live()
        self._ears.message(message)


class _Track(MediaStreamTrack):
    """Frames that go out. An encoder that is behind misses the oldest."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.sender: RTCRtpSender | None = None
        self._queued: deque[tuple[int, Any, Callable[[int], None] | None]] = deque(maxlen=MOST_WAITING[kind])
        self._filled = asyncio.Event()
        self._pts: int | None = None  # of the frame before

    def put(self, time_ms: float, frame: AvPacket | VideoFrame, sends: Callable[[int], None] | None = None) -> None:
        """Have a frame sent; `sends` is called with its RTP timestamp, if that is known."""
        rate_hz = RATES_HZ[self.kind]
        frame.pts, frame.time_base = round(time_ms * rate_hz / 1000), Fraction(1, rate_hz)
        self._queued.append((frame.pts, frame, sends))
        self._filled.set()

    async def recv(self) -> Any:
        """The next frame, for the encoder; the one before has been sent when this is called."""
        while not self._queued:
            self._filled.clear()
            await self._filled.wait()
        pts, frame, sends = self._queued.popleft()
        if sends is not None and self._pts is not None:
            sends((getattr(self.sender, SENT_STAMP) + pts - self._pts) % 2**32)
        self._pts = pts
        return frame
