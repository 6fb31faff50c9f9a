"""A conversation over a WebSocket: the transport that works wherever a page does, through `ssh -L` too."""

import asyncio

from aiohttp import WSCloseCode, WSMsgType, web

from wanstreamer_jax.serving import wire
from wanstreamer_jax.serving.client import GOODBYE_S, Client
from wanstreamer_jax.serving.conversation import Ending, UnitOut
from wanstreamer_jax.serving.inbox import Inbox
from wanstreamer_jax.serving.outbox import Message
from wanstreamer_jax.serving.packing import Packing
from wanstreamer_jax.serving.service import SERVER_STOPS, RefusedError, Seat, Service
from wanstreamer_jax.serving.unpacking import Replies, Unpacking
from wanstreamer_jax.stream.live import WALL_CLOCK

HEARTBEAT_S = 3.0  # a ping so often, answered within half of it: a dead client is found within 4.5 s


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
    client = _WebSocketClient(service, seat, ws)
    try:
        await ws.prepare(request)
        await client.serve()
    finally:
        client.leave()
        service.leave(seat)
        if request.transport is not None and not ws.closed:
            request.transport.abort()  # it reads nothing, not even a goodbye
    return ws


class _WebSocketClient(Client):
    """Everything is messages; media are binary ones."""

    transport = "websocket"

    def __init__(self, service: Service, seat: Seat, ws: web.WebSocketResponse):
        super().__init__(service, seat)
        assert service.opened is not None
        self._ws, self._config = ws, service.opened.agent.config
        self._packing = Packing(self._config.picture)
        self._unpacking: Unpacking | None = None  # from the first compressed media on

    async def send(self, message: Message) -> None:
        if isinstance(message, str):
            await self._ws.send_str(message)
        else:
            await self._ws.send_bytes(message)

    async def receive(self) -> None:
        async for message in self._ws:
            if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                self.hear(message.data)

    def media(self, out: UnitOut) -> list[bytes]:
        return self._packing.pack(out)

    def want(self, wish: wire.FormsIn | wire.KeyFrameIn) -> None:
        if isinstance(wish, wire.FormsIn):
            self._packing.want(wish)
        else:
            self._packing.want_key()

    def take_media(self, inbox: Inbox, media: wire.MediaIn) -> None:
        now_ms = WALL_CLOCK.now_ms()
        if isinstance(media, wire.SoundIn):
            inbox.hear(now_ms, media.time_ms, media.samples)
        elif isinstance(media, wire.PictureIn):
            inbox.see(now_ms, media.time_ms, media.jpeg)
        else:
            self._unpacking = self._unpacking or self._unpack_into(inbox)
            self._unpacking.put(now_ms, media)

    def _unpack_into(self, inbox: Inbox) -> Unpacking:
        loop = asyncio.get_running_loop()

        def refuse(error: wire.WireError) -> None:
            loop.call_soon_threadsafe(self.refuse, error)

        def ask_for_key() -> None:
            loop.call_soon_threadsafe(self.say, "key_frame")

        return Unpacking(inbox, self._config.vision.picture, Replies(refuse, ask_for_key))

    def leave(self) -> None:
        """Nothing comes any more."""
        if self._unpacking is not None:
            self._unpacking.close()

    async def close(self, ending: Ending) -> None:
        code = WSCloseCode.GOING_AWAY if ending == SERVER_STOPS else WSCloseCode.OK
        await self._ws.close(code=code, message=ending.name.encode())
