"""A client over WebRTC: messages on the data channel, media on two tracks each way."""

import asyncio
from functools import partial

import numpy as np
from av.packet import Packet as AvPacket
from av.video.frame import VideoFrame

from wanstreamer_jax.media.picture import black
from wanstreamer_jax.serving import wire
from wanstreamer_jax.serving.client import GOODBYE_S, Client
from wanstreamer_jax.serving.codecs import PACKET_MS, BadSoundError, SoundEncoder, StreamPicture, check_packet
from wanstreamer_jax.serving.conversation import FAILED, Ending, UnitOut
from wanstreamer_jax.serving.inbox import Inbox
from wanstreamer_jax.serving.log import logger
from wanstreamer_jax.serving.outbox import Message
from wanstreamer_jax.serving.rtc.arrival import ArrivalClock
from wanstreamer_jax.serving.rtc.jitter import Frame
from wanstreamer_jax.serving.rtc.parts import Parts
from wanstreamer_jax.serving.rtc.peer import RATES_HZ, Ears, Peer
from wanstreamer_jax.serving.rtc.playout import MOMENT_MS, MOMENTS_PER_FRAME, Pixels, Playout
from wanstreamer_jax.serving.service import Seat, Service
from wanstreamer_jax.serving.unpacking import Replies, Unpacking
from wanstreamer_jax.stream.live import WALL_CLOCK

CONNECT_WITHIN_S = 8.0  # a browser takes a fraction of a second
SILENT_MS = 4000.0  # without a message and without media: a client that is there pings every second
LOOK_EVERY_S = 0.5
LATE_S = 0.5  # what should have gone out before that is left out
MOMENT_S = MOMENT_MS / 1000


class RtcClient(Client):
    """Its peer is answered before it is served, and closed after."""

    transport = "webrtc"

    def __init__(self, service: Service, seat: Seat):
        super().__init__(service, seat)
        assert service.opened is not None
        config = service.opened.agent.config
        self._picture = config.vision.picture
        self._playout = Playout(black(config.picture))
        self._clocks = {kind: ArrivalClock(rate_hz) for kind, rate_hz in RATES_HZ.items()}
        self._unpacking: Unpacking | None = None
        self._needs_key = False
        self._parts = Parts()
        self.peer = Peer(Ears(self.hear, self._hear_sound, self._see_picture, self._take_need))

    async def serve(self) -> None:
        """Until either side ends it."""
        pacing = asyncio.create_task(self._pace())
        try:
            await super().serve()
        finally:
            pacing.cancel()
            if self._unpacking is not None:
                self._unpacking.close()

    async def send(self, message: Message) -> None:
        """On the data channel."""
        await self.peer.send(message)

    async def receive(self) -> None:
        """Messages are heard as they come; a client that gives no sign of life is gone."""
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                await self.peer.opened.wait()
        except TimeoutError:
            return
        while not self._is_gone():
            await asyncio.sleep(LOOK_EVERY_S)

    def _is_gone(self) -> bool:
        is_silent = WALL_CLOCK.now_ms() - self.peer.heard_ms > SILENT_MS
        return is_silent or self.peer.gone.is_set() or self.peer.overflows

    def whole(self, message: Message) -> Message | None:
        """Long ones come in parts."""
        return self._parts.put(message)

    def want(self, wish: wire.FormsIn | wire.KeyFrameIn) -> None:
        """Nothing: browsers ask for key frames by themselves."""
        if isinstance(wish, wire.FormsIn) and wish != wire.FormsIn():
            raise wire.WireError("bad_field", "over WebRTC, media have the forms that were agreed on with the offer")

    def take_media(self, inbox: Inbox, media: wire.MediaIn) -> None:
        """None are taken."""
        del inbox, media
        raise wire.WireError("unknown_kind", "over WebRTC, pictures and sound come as tracks")

    async def close(self, ending: Ending) -> None:
        """A client closes the connection when it has read the goodbye; who does not is waited for a moment."""
        del ending
        async with asyncio.timeout(GOODBYE_S):
            await self.peer.gone.wait()

    # ---- Media in

    def _hear_sound(self, frame: Frame, now_ms: float) -> None:
        unpacking, came_ms = self._ready(), self._clocks["audio"].place_ms(frame.timestamp, now_ms)
        try:
            check_packet(frame.data)
        except BadSoundError:
            return  # it is missing, as one that was lost is
        if unpacking is not None:
            unpacking.put(now_ms, wire.PacketIn(came_ms - PACKET_MS, frame.data))

    def _see_picture(self, frame: Frame, now_ms: float) -> None:
        unpacking, came_ms = self._ready(), self._clocks["video"].place_ms(frame.timestamp, now_ms)
        is_key = not frame.data[0] & 1  # VP8 (RFC 6386, section 9.1)
        if unpacking is not None:
            unpacking.put(now_ms, wire.StreamPictureIn(came_ms, StreamPicture(frame.data, is_key)))

    def _ready(self) -> Unpacking | None:
        """What decodes; there is nobody to decode for before the start."""
        if self._unpacking is None and self.inbox is not None:
            replies = Replies(refuse=self._lose, ask_for_key=self._need_key)
            self._unpacking = Unpacking(self.inbox, self._picture, replies, codec="vp8")
        return self._unpacking

    def _lose(self, error: wire.WireError) -> None:
        """What was damaged on the way is nobody's mistake."""
        self.service.metrics.wrong.labels(error.name).inc()

    def _need_key(self) -> None:
        self._needs_key = True

    def _take_need(self) -> bool:
        """Whether a key frame is needed; asked once, it is on its way."""
        needs, self._needs_key = self._needs_key, False
        return needs

    # ---- Media out

    def media(self, out: UnitOut) -> list[bytes]:
        """Have a unit played; none of it are messages."""
        n_left_out = self._playout.put(out)
        self.service.metrics.missed.inc(n_left_out)
        return []

    async def _pace(self) -> None:
        try:
            await self._send_moments()
        except Exception:  # noqa: BLE001 - a mistake of ours ends this conversation, and no other
            logger.exception("media could not be sent")
            self.seat.end(FAILED)

    async def _send_moments(self) -> None:
        """Both tracks by one clock, which does not drift: the n-th moment is due n times 20 ms after the first."""
        encoder, loop = SoundEncoder(), asyncio.get_running_loop()
        began_s, n, unit = loop.time(), 0, None
        while True:
            n += _left_out(loop.time() - began_s - n * MOMENT_S)
            time_ms, moment = float(n * MOMENT_MS), self._playout.take()
            if n % MOMENTS_PER_FRAME == 0:
                self._send_picture(time_ms, moment.picture, None if moment.unit == unit else moment.unit)
                unit = moment.unit
            for packet_ms, data in encoder.encode(time_ms, moment.samples):
                self.peer.sound.put(packet_ms, AvPacket(data))
            n += 1
            await asyncio.sleep(max(0.0, began_s + n * MOMENT_S - loop.time()))

    def _send_picture(self, time_ms: float, pixels: Pixels, first_of: int | None) -> None:
        """Send a picture; when it is the first of a unit, say which stamp it goes with."""
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        self.peer.pictures.put(time_ms, picture, None if first_of is None else partial(self._tell, first_of))

    def _tell(self, unit: int, rtp_timestamp: int) -> None:
        self.say("sent", unit=unit, rtp_timestamp=rtp_timestamp)


def _left_out(late_s: float) -> int:
    """Moments that nobody gets any more, being so late; an even number, so that pictures go on with every other one."""
    return 2 * int(late_s / MOMENT_S / 2) if late_s > LATE_S else 0
