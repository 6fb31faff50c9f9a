"""A conversation over a WebSocket: the transport that works wherever a page does, through `ssh -L` too."""

from collections.abc import AsyncIterator

from aiohttp import WSCloseCode, WSMsgType, web

from wanstreamer_jax.serving import wire
from wanstreamer_jax.serving.client import GOODBYE_S, Client
from wanstreamer_jax.serving.conversation import Ending, UnitOut
from wanstreamer_jax.serving.inbox import Inbox
from wanstreamer_jax.serving.outbox import Message
from wanstreamer_jax.serving.pictures import encode_jpeg
from wanstreamer_jax.serving.service import SERVER_STOPS, RefusedError, Seat, Service
from wanstreamer_jax.stream.live import WALL_CLOCK
from wanstreamer_jax.timeline import UNIT_MS, VIDEO_FPS

HEARTBEAT_S = 3.0  # a ping so often, answered within half of it: a dead client is found within 4.5 s
FRAME_MS = 1000 / VIDEO_FPS


async def serve_websocket(request: web.Request, service: Service) -> web.StreamResponse:
    """Answer `GET /v1/ws`: 503 before the upgrade when there is no slot, else a conversation."""
    ws = web.WebSocketResponse(
        protocols=(wire.PROTOCOL,),
        heartbeat=HEARTBEAT_S,
        timeout=GOODBYE_S,
        max_msg_size=wire.MOST_MESSAGE_BYTES,
        compress=False,
    )
    if not ws.can_prepare(request):
        raise web.HTTPUpgradeRequired(text="This is a WebSocket.", headers={"Upgrade": "websocket"})
    try:
        seat = service.admit()
    except RefusedError as error:
        raise web.HTTPServiceUnavailable(text=str(error), headers={"Retry-After": str(error.retry_s)}) from error
    try:
        await ws.prepare(request)
        await _WebSocketClient(service, seat, ws).serve()
    finally:
        service.leave(seat)
        if request.transport is not None and not ws.closed:
            request.transport.abort()  # it reads nothing, not even a goodbye
    return ws


class _WebSocketClient(Client):
    """Everything is messages; media are binary ones."""

    transport = "websocket"

    def __init__(self, service: Service, seat: Seat, ws: web.WebSocketResponse):
        super().__init__(service, seat)
        self._ws = ws

    async def send(self, message: Message) -> None:
        if isinstance(message, str):
            await self._ws.send_str(message)
        else:
            await self._ws.send_bytes(message)

    async def messages(self) -> AsyncIterator[Message]:
        async for message in self._ws:
            if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                yield message.data

    def media(self, out: UnitOut) -> list[bytes]:
        start_ms = float(out.unit * UNIT_MS)
        pictures = [
            wire.pack(wire.PICTURE, start_ms + i * FRAME_MS, encode_jpeg(frame)) for i, frame in enumerate(out.frames)
        ]
        return [wire.pack(wire.SOUND, start_ms, wire.pcm16(out.samples)), *pictures]

    def take_media(self, inbox: Inbox, media: wire.PictureIn | wire.SoundIn) -> None:
        now_ms = WALL_CLOCK.now_ms()
        if isinstance(media, wire.SoundIn):
            inbox.hear(now_ms, media.time_ms, media.samples)
        else:
            inbox.see(now_ms, media.time_ms, media.jpeg)

    async def close(self, ending: Ending) -> None:
        code = WSCloseCode.GOING_AWAY if ending == SERVER_STOPS else WSCloseCode.OK
        await self._ws.close(code=code, message=ending.name.encode())
