"""A client in its seat, from hello to goodbye: what all transports have in common.

A transport carries messages both ways, and media; what is said, in which order, and what ends it, is here.
"""

import asyncio
import json
import secrets
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any

from wanstreamer_jax.serving import wire
from wanstreamer_jax.serving.conversation import FAILED, STOPPED, Conversation, Ending, Plan, UnitOut
from wanstreamer_jax.serving.inbox import Inbox
from wanstreamer_jax.serving.log import logger
from wanstreamer_jax.serving.outbox import Message, Outbox, Unit
from wanstreamer_jax.serving.pictures import BadPictureError, decode_picture
from wanstreamer_jax.serving.recording import FolderRecorder
from wanstreamer_jax.serving.service import GONE, TIME_LIMIT, WARNED_S, Seat, Service
from wanstreamer_jax.serving.world_file import Setting
from wanstreamer_jax.stream.live import WALL_CLOCK

START_WITHIN_S = 10.0
GOODBYE_S = 1.0
MOST_WRONG = 20  # messages; then a client is sent away
TOO_MANY_WRONG = Ending("too_many_wrong_messages", "The server understood too few of the messages.")
NO_START = Ending("no_start", f"No start message came within {START_WITHIN_S:g} s.")


class Client(ABC):
    """In the event loop's thread, but for `media`."""

    transport: str  # what figures call it

    def __init__(self, service: Service, seat: Seat):
        self.service, self.seat = service, seat
        self.inbox: Inbox | None = None  # from `start` on
        self._outbox = Outbox()
        self._loop = asyncio.get_running_loop()
        self._conversation: Conversation | None = None
        self._setting: Setting | None = None
        self._n_wrong = self._n_missed = 0

    # ---- What a transport does

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Send a message; waits while the client is behind. Raises ConnectionError when it is gone."""

    @abstractmethod
    async def receive(self) -> None:
        """Have all messages of the client heard, until it is gone."""

    def whole(self, message: Message) -> Message | None:
        """The message that this one is the last part of; None when more are to come."""
        return message

    @abstractmethod
    def media(self, out: UnitOut) -> list[bytes]:
        """Take a unit of the agent, in the conversation's thread; what of it are messages comes back."""

    @abstractmethod
    def take_media(self, inbox: Inbox, media: wire.MediaIn) -> None:
        """Deal with media that came as messages."""

    @abstractmethod
    def want(self, wish: wire.FormsIn | wire.KeyFrameIn) -> None:
        """How the client wants what `media` returns, from the next unit on."""

    @abstractmethod
    async def close(self, ending: Ending) -> None:
        """The goodbye is sent: close."""

    # ---- From hello to goodbye

    async def serve(self) -> None:
        """Until either side ends it."""
        self.say("hello", session=self.seat.id)
        sender = asyncio.create_task(self._send())
        minding = (self._receive(), self._mind_the_start(), self._mind_the_time())
        others = [asyncio.create_task(work) for work in minding]
        try:
            ending = await asyncio.shield(self.seat.ending)  # a handler may be cancelled: the reason is not
            if ending != GONE:
                await self._goodbye(ending, sender)
        finally:
            for task in (*others, sender):
                task.cancel()
            await asyncio.gather(*others, sender, return_exceptions=True)

    def say(self, kind: str, **facts: Any) -> None:
        """Have a message sent."""
        self._outbox.put(json.dumps({"type": kind, **facts}))

    async def _goodbye(self, ending: Ending, sender: asyncio.Task) -> None:
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(2 * GOODBYE_S):
                self.say("goodbye", name=ending.name, message=ending.message)
                self._outbox.close()
                await sender
                await self.close(ending)

    # ---- Out

    async def _send(self) -> None:
        with suppress(ConnectionError):
            while messages := await self._outbox.take():
                for message in messages:
                    await self.send(message)

    def _deliver(self, out: UnitOut) -> None:
        """A unit, in the conversation's thread: encoded there, so that nobody else waits for it."""
        words = [json.dumps({"type": "unit", **_facts(out)})]
        if out.text:
            words.append(json.dumps({"type": "text", "who": "agent", "unit": out.unit, "text": out.text}))
        self._loop.call_soon_threadsafe(self._put, Unit(self.media(out), words))

    def _put(self, unit: Unit) -> None:
        self._outbox.put_unit(unit)
        if self._outbox.n_missed > self._n_missed:
            self.service.metrics.missed.inc(self._outbox.n_missed - self._n_missed)
            self._n_missed = self._outbox.n_missed
            self.want(wire.KeyFrameIn())

    # ---- In

    async def _receive(self) -> None:
        try:
            await self.receive()
        finally:
            self.seat.end(GONE)

    def hear(self, message: Message) -> None:
        """Do as a message says."""
        if self.seat.ending.done():
            return
        try:
            self._hear(message)
        except Exception:  # noqa: BLE001 - a mistake of ours ends this conversation, and no other
            logger.exception("a message could not be dealt with")
            self.seat.end(FAILED)

    def _hear(self, message: Message) -> None:
        try:
            whole = self.whole(message)
            if isinstance(whole, str):
                self._obey(wire.parse_json(whole))
            elif whole is not None:
                self._take(wire.parse_binary(whole))
        except wire.WireError as error:
            self.refuse(error)

    def refuse(self, error: wire.WireError) -> None:
        """Say what is wrong with a message; the client of too many is sent away."""
        self.service.metrics.wrong.labels(error.name).inc()
        self._n_wrong += 1
        self.say("error", name=error.name, message=str(error))
        if self._n_wrong >= MOST_WRONG:
            self.seat.end(TOO_MANY_WRONG)

    def _take(self, media: wire.BinaryIn) -> None:
        """Media: of the conversation, or of the world that it is to begin with."""
        if isinstance(media, wire.MediaIn):
            if self.inbox is None:
                raise wire.WireError("not_started", "pictures and sound come after start")
            self.take_media(self.inbox, media)
        elif self._conversation is not None:
            raise wire.WireError("started", "a portrait or a voice comes before start")
        elif isinstance(media, wire.PortraitIn):
            self._setting = self._world()._replace(portrait=self._portrait(media.data))
        else:
            self._setting = self._world()._replace(voice=media.samples)

    def _obey(self, message: wire.JsonIn) -> None:
        if isinstance(message, wire.PingIn):
            self.say("pong", time_ms=message.time_ms, server_ms=round(WALL_CLOCK.now_ms(), 1))
        elif isinstance(message, wire.StopIn):
            self.seat.end(STOPPED)
        elif isinstance(message, wire.StartIn):
            self._start(message)
        elif isinstance(message, wire.FormsIn | wire.KeyFrameIn):
            self.want(message)
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
        self.want(start.forms)
        self.say("started", seed=seed, recorded=recorder is not None)
        plan = Plan(setting, seed, recorder)
        self._conversation = self.service.converse(self.seat, plan, self.transport, self._deliver)
        self.inbox = self._conversation.inbox

    def _world(self) -> Setting:
        """What the user brought, or what the server was started with."""
        assert self.service.opened is not None
        return self.service.opened.setting if self._setting is None else self._setting

    def _portrait(self, data: bytes) -> Any:
        assert self.service.opened is not None
        picture = self.service.opened.agent.config.picture
        try:
            return decode_picture(data, picture, wire.LARGEST_PORTRAIT_SIDE, wire.PORTRAIT_FORMATS)
        except BadPictureError as error:
            raise wire.WireError("bad_picture", str(error)) from error

    def _recorder(self, setting: Setting, seed: int) -> FolderRecorder:
        rules, opened = self.service.rules, self.service.opened
        if rules.recordings is None or opened is None:
            raise wire.WireError("no_recording", "this server keeps no recordings (serve.py --recordings)")
        return FolderRecorder(rules.recordings, rules.licence, opened.agent, setting, seed)

    # ---- Time

    async def _mind_the_start(self) -> None:
        await asyncio.sleep(START_WITHIN_S)
        if self._conversation is None:
            self.seat.end(NO_START)

    async def _mind_the_time(self) -> None:
        limit_s = self.service.rules.time_limit_s
        if limit_s is not None:
            left_s = min(WARNED_S, limit_s)
            await asyncio.sleep(limit_s - left_s)
            self.say("warning", name="time_limit", message=TIME_LIMIT.message, seconds_left=left_s)
            await asyncio.sleep(left_s)
            self.seat.end(TIME_LIMIT)


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
