"""A conversation over a WebSocket: the transport that works wherever a page does, through `ssh -L` too."""

import asyncio
import json
import secrets
from contextlib import suppress
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from wanstreamer_jax.serving import wire
from wanstreamer_jax.serving.conversation import FAILED, STOPPED, Conversation, Ending, Plan, UnitOut
from wanstreamer_jax.serving.log import logger
from wanstreamer_jax.serving.outbox import Outbox, Unit
from wanstreamer_jax.serving.pictures import BadPictureError, decode_picture, encode_jpeg
from wanstreamer_jax.serving.recording import FolderRecorder
from wanstreamer_jax.serving.service import (
    GONE,
    SERVER_STOPS,
    TIME_LIMIT,
    WARNED_S,
    RefusedError,
    Seat,
    Service,
)
from wanstreamer_jax.serving.world_file import Setting
from wanstreamer_jax.stream.live import WALL_CLOCK
from wanstreamer_jax.timeline import UNIT_MS, VIDEO_FPS

HEARTBEAT_S = 3.0  # a ping so often, answered within half of it: a dead client is found within 4.5 s
START_WITHIN_S = 10.0
GOODBYE_S = 1.0
MOST_WRONG = 20  # messages; then a client is sent away
TOO_MANY_WRONG = Ending("too_many_wrong_messages", "The server understood too few of the messages.")
NO_START = Ending("no_start", f"No start message came within {START_WITHIN_S:g} s.")
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
        await _Connection(service, seat, ws).serve()
    finally:
        service.leave(seat)
        if request.transport is not None and not ws.closed:
            request.transport.abort()  # it reads nothing, not even a goodbye
    return ws


class _Connection:
    """A client in its seat, from hello to goodbye."""

    def __init__(self, service: Service, seat: Seat, ws: web.WebSocketResponse):
        self._service, self._seat, self._ws = service, seat, ws
        self._outbox = Outbox()
        self._loop = asyncio.get_running_loop()
        self._conversation: Conversation | None = None
        self._setting: Setting | None = None
        self._n_wrong = self._n_missed = 0

    async def serve(self) -> None:
        """Until either side ends it."""
        self._say("hello", session=self._seat.id)
        sender = asyncio.create_task(self._send())
        minding = (self._receive(), self._mind_the_start(), self._mind_the_time())
        others = [asyncio.create_task(work) for work in minding]
        try:
            ending = await asyncio.shield(self._seat.ending)  # a handler may be cancelled: the reason is not
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(2 * GOODBYE_S):
                    await self._goodbye(ending, sender)
        finally:
            for task in (*others, sender):
                task.cancel()
            await asyncio.gather(*others, sender, return_exceptions=True)

    # ---- Out

    def _say(self, kind: str, **facts: Any) -> None:
        self._outbox.put(json.dumps({"type": kind, **facts}))

    async def _send(self) -> None:
        with suppress(ConnectionError):
            while messages := await self._outbox.take():
                for message in messages:
                    if isinstance(message, str):
                        await self._ws.send_str(message)
                    else:
                        await self._ws.send_bytes(message)

    async def _goodbye(self, ending: Ending, sender: asyncio.Task) -> None:
        if self._ws.closed:
            return
        self._say("goodbye", name=ending.name, message=ending.message)
        self._outbox.close()
        await sender
        code = WSCloseCode.GOING_AWAY if ending == SERVER_STOPS else WSCloseCode.OK
        await self._ws.close(code=code, message=ending.name.encode())

    def _deliver(self, out: UnitOut) -> None:
        """A unit, in the conversation's thread: encoded there, so that nobody else waits for it."""
        start_ms = float(out.unit * UNIT_MS)
        media = [wire.pack(wire.SOUND, start_ms, wire.pcm16(out.samples))]
        media += [
            wire.pack(wire.PICTURE, start_ms + i * FRAME_MS, encode_jpeg(frame)) for i, frame in enumerate(out.frames)
        ]
        words = [json.dumps({"type": "unit", **_facts(out)})]
        if out.text:
            words.append(json.dumps({"type": "text", "who": "agent", "unit": out.unit, "text": out.text}))
        self._loop.call_soon_threadsafe(self._put, Unit(media, words))

    def _put(self, unit: Unit) -> None:
        self._outbox.put_unit(unit)
        self._service.metrics.missed.inc(self._outbox.n_missed - self._n_missed)
        self._n_missed = self._outbox.n_missed

    # ---- In

    async def _receive(self) -> None:
        try:
            await self._hear()
            self._seat.end(GONE)
        except Exception:  # noqa: BLE001 - a mistake of ours ends this conversation, and no other
            logger.exception("a message could not be dealt with")
            self._seat.end(FAILED)

    async def _hear(self) -> None:
        async for message in self._ws:
            try:
                if message.type is WSMsgType.BINARY:
                    self._take(wire.parse_binary(message.data))
                elif message.type is WSMsgType.TEXT:
                    self._obey(wire.parse_json(message.data))
            except wire.WireError as error:
                self._refuse(error)

    def _refuse(self, error: wire.WireError) -> None:
        self._service.metrics.wrong.labels(error.name).inc()
        self._n_wrong += 1
        self._say("error", name=error.name, message=str(error))
        if self._n_wrong >= MOST_WRONG:
            self._seat.end(TOO_MANY_WRONG)

    def _take(self, media: wire.BinaryIn) -> None:
        """Media: of the conversation, or of the world that it is to begin with."""
        if isinstance(media, wire.PictureIn | wire.SoundIn):
            if self._conversation is None:
                raise wire.WireError("not_started", "pictures and sound come after start")
            now_ms, inbox = WALL_CLOCK.now_ms(), self._conversation.inbox
            if isinstance(media, wire.SoundIn):
                inbox.hear(now_ms, media.time_ms, media.samples)
            else:
                inbox.see(now_ms, media.time_ms, media.jpeg)
        elif self._conversation is not None:
            raise wire.WireError("started", "a portrait or a voice comes before start")
        elif isinstance(media, wire.PortraitIn):
            self._setting = self._world()._replace(portrait=self._portrait(media.data))
        else:
            self._setting = self._world()._replace(voice=media.samples)

    def _obey(self, message: wire.JsonIn) -> None:
        if isinstance(message, wire.PingIn):
            self._say("pong", time_ms=message.time_ms)
        elif isinstance(message, wire.StopIn):
            self._seat.end(STOPPED)
        elif isinstance(message, wire.StartIn):
            self._start(message)
        elif self._conversation is None:
            raise wire.WireError("not_started", "text comes after start")
        elif not self._conversation.type(message.text):
            raise wire.WireError("too_much_text", "the agent has not read what was typed before")

    def _start(self, start: wire.StartIn) -> None:
        if self._conversation is not None:
            raise wire.WireError("started", "the conversation has begun already")
        setting = self._world()
        if start.persona:
            setting = setting._replace(persona=start.persona)
        seed = secrets.randbits(31) if start.seed is None else start.seed
        recorder = self._recorder(setting, seed) if start.record else None
        self._say("started", seed=seed, recorded=recorder is not None)
        plan = Plan(setting, seed, recorder)
        self._conversation = self._service.converse(self._seat, plan, "websocket", self._deliver)

    def _world(self) -> Setting:
        """What the user brought, or what the server was started with."""
        assert self._service.opened is not None
        return self._service.opened.setting if self._setting is None else self._setting

    def _portrait(self, data: bytes) -> Any:
        assert self._service.opened is not None
        picture = self._service.opened.agent.config.picture
        try:
            return decode_picture(data, picture, wire.LARGEST_PORTRAIT_SIDE, wire.PORTRAIT_FORMATS)
        except BadPictureError as error:
            raise wire.WireError("bad_picture", str(error)) from error

    def _recorder(self, setting: Setting, seed: int) -> FolderRecorder:
        rules, opened = self._service.rules, self._service.opened
        if rules.recordings is None or opened is None:
            raise wire.WireError("no_recording", "this server keeps no recordings (serve.py --recordings)")
        return FolderRecorder(rules.recordings, rules.licence, opened.agent, setting, seed)

    # ---- Time

    async def _mind_the_start(self) -> None:
        await asyncio.sleep(START_WITHIN_S)
        if self._conversation is None:
            self._seat.end(NO_START)

    async def _mind_the_time(self) -> None:
        limit_s = self._service.rules.time_limit_s
        if limit_s is not None:
            left_s = min(WARNED_S, limit_s)
            await asyncio.sleep(limit_s - left_s)
            self._say("warning", name="time_limit", message=TIME_LIMIT.message, seconds_left=left_s)
            await asyncio.sleep(left_s)
            self._seat.end(TIME_LIMIT)


def _facts(out: UnitOut) -> dict[str, Any]:
    """What is said of a unit in numbers."""
    return {
        "unit": out.unit,
        "seen_ms": None if out.concealed else round(out.seen_ms, 1),
        "unit_ms": round(out.unit_ms, 1),
        "concealed": out.concealed,
        "late": out.counters.late,
        "skipped": out.counters.skipped,
        "reduced": out.counters.reduced,
        "lost_samples": out.losses.samples,
    }
