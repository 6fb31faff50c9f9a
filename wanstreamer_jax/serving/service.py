"""The agent, its slots and who sits in them: admission, time limits and draining, whatever the transport."""

import asyncio
import dataclasses
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.serving.conversation import Conversation, Ending, Plan, UnitOut
from wanstreamer_jax.serving.log import logger, say, short
from wanstreamer_jax.serving.metrics import Metrics
from wanstreamer_jax.serving.report import CompileCounter
from wanstreamer_jax.serving.slots import Load, Slot, Slots
from wanstreamer_jax.serving.world_file import Setting

WARNED_S = 30.0  # before the time limit
RETRY_LOADING_S, RETRY_FULL_S = 5, 2

SERVER_STOPS = Ending("server_stops", "The server is being stopped.")
TIME_LIMIT = Ending("time_limit", "The time for one conversation is over.")
DELETED = Ending("deleted", "The conversation was ended by request.")
GONE = Ending("gone", "The client is gone.")


class Opened(NamedTuple):
    """What takes long to open."""

    agent: Agent
    setting: Setting  # for users who bring none
    slots: list[Slot]


@dataclasses.dataclass(frozen=True)
class Rules:
    """What holds for every conversation."""

    time_limit_s: float | None = None
    recordings: Path | None = None  # where conversations are kept whose users want that
    licence: str = ""  # of recordings


class RefusedError(RuntimeError):
    """No slot: `reason` is loading, full or stopping; it is worth trying again after so many seconds."""

    def __init__(self, reason: str, retry_s: int, message: str) -> None:
        super().__init__(message)
        self.reason, self.retry_s = reason, retry_s


class Seat:
    """A slot that is taken, by whoever is in it; in the event loop's thread."""

    def __init__(self, slot: Slot) -> None:
        self.id = secrets.token_hex(16)
        self.slot = slot
        self.began_s = time.monotonic()
        self.ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.conversation: Conversation | None = None
        self.last: UnitOut | None = None

    def end(self, ending: Ending) -> None:
        """Have the transport say goodbye; the first reason counts."""
        if not self.ending.done():
            self.ending.set_result(ending)


async def _in_daemon(work: Callable[[], Opened]) -> Opened:
    """The result of work that may be left undone when the program ends."""
    done: Future[Opened] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="opening", daemon=True).start()
    return await asyncio.wrap_future(done)


class Service:
    """One server's agent. In the event loop's thread, but for `tell`."""

    def __init__(self, rules: Rules, metrics: Metrics):
        self.rules, self.metrics = rules, metrics
        self.doing = "starting"  # until it is ready
        self.opened: Opened | None = None
        self.stopping = False
        self._seats: dict[str, Seat] = {}
        self._leaving: set[asyncio.Task] = set()

    def tell(self, doing: str) -> None:
        """What is being done before the first conversation can begin."""
        self.doing = doing
        say("loading", doing=doing)

    async def open(self, open_all: Callable[[], Opened]) -> None:
        """Load and warm up, in a thread; whatever that raises is raised here."""
        opened = await _in_daemon(open_all)
        self._slots, self._compiled = Slots(opened.slots), CompileCounter()
        self.metrics.watch(lambda: self.load, lambda: self._compiled.n)
        self.opened = opened
        say("ready", slots=self.load.n_slots)

    @property
    def load(self) -> Load:
        """How many slots there are, and how many are taken."""
        return self._slots.load if self.opened else Load(0, 0)

    def admit(self) -> Seat:
        """Take a slot.

        Raises:
            RefusedError: there is none.
        """
        try:
            seat = self._admit()
        except RefusedError as error:
            self.metrics.refused.labels(error.reason).inc()
            raise
        self._seats[seat.id] = seat
        return seat

    def _admit(self) -> Seat:
        if self.stopping:
            raise RefusedError("stopping", RETRY_LOADING_S, SERVER_STOPS.message)
        if self.opened is None:
            raise RefusedError("loading", RETRY_LOADING_S, f"The agent is not ready yet: {self.doing}.")
        slot = self._slots.take()
        if slot is None:
            n_slots = self.load.n_slots
            raise RefusedError("full", RETRY_FULL_S, f"All {n_slots} places are taken. Try again in a moment.")
        return Seat(slot)

    def converse(self, seat: Seat, plan: Plan, transport: str, deliver: Callable[[UnitOut], None]) -> Conversation:
        """Begin a conversation. `deliver` is called with each unit in a thread of its own; it may not wait."""
        assert self.opened is not None
        loop = asyncio.get_running_loop()

        def delivered(out: UnitOut) -> None:
            loop.call_soon_threadsafe(self._note, seat, out)
            deliver(out)

        def ended(ending: Ending) -> None:
            loop.call_soon_threadsafe(seat.end, ending)

        seat.conversation = Conversation(self.opened.agent, seat.slot, plan, delivered, ended)
        seat.conversation.start()
        self.metrics.sessions.labels(transport).inc()
        say("session_began", session=short(seat.id), transport=transport, recorded=plan.recorder is not None)
        return seat.conversation

    def _note(self, seat: Seat, out: UnitOut) -> None:
        self.metrics.note(out, seat.last)
        seat.last = out

    def leave(self, seat: Seat) -> None:
        """The transport is done with a seat: its slot is free as soon as the unit that is being lived has ended."""
        seat.end(GONE)
        if self._seats.pop(seat.id, None) is not None:
            task = asyncio.get_running_loop().create_task(self._free(seat))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _free(self, seat: Seat) -> None:
        ending, lasted_s = seat.ending.result(), time.monotonic() - seat.began_s
        if seat.conversation is not None:
            seat.conversation.stop()
            if not await asyncio.to_thread(seat.conversation.join):
                logger.error("a unit does not end: its slot is lost", extra={"facts": {"session": short(seat.id)}})
                return
        self._slots.give_back(seat.slot)
        self.metrics.endings.labels(ending.name).inc()
        self.metrics.session_seconds.observe(lasted_s)
        units = seat.last.counters._asdict() if seat.last else {}
        say("session_ended", session=short(seat.id), reason=ending.name, seconds=round(lasted_s, 1), **units)
        if seat.conversation is not None:
            await asyncio.to_thread(seat.conversation.keep)

    def end(self, session_id: str) -> bool:
        """End a conversation; whether there was one."""
        seat = self._seats.get(session_id)
        if seat is not None:
            seat.end(DELETED)
        return seat is not None

    async def stop(self) -> None:
        """Take nobody in any more, let all conversations say goodbye, and finish what they leave."""
        self.stopping = True
        for seat in list(self._seats.values()):
            seat.end(SERVER_STOPS)
        while self._seats or self._leaving:
            await asyncio.sleep(0.02)
        if self.opened is not None:
            self._slots.close()
            self._compiled.close()
