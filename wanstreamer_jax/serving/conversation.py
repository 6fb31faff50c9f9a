"""One conversation, whatever carries it: units of a user in, units of the agent out, on the paced loop.

It runs in a thread of its own. A transport puts what comes into `inbox`, and is handed what goes out.
"""

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.serving.inbox import Inbox, Losses, Seen
from wanstreamer_jax.serving.placing import observation
from wanstreamer_jax.serving.slots import Slot
from wanstreamer_jax.serving.world_file import Setting, opening_screen
from wanstreamer_jax.stream.live import WALL_CLOCK, Live
from wanstreamer_jax.stream.pace import Counters, Session, Shown, complete_ms
from wanstreamer_jax.stream.placement import HistoryFullError, Reply
from wanstreamer_jax.stream.types import Observation
from wanstreamer_jax.tokens import TextStream

logger = logging.getLogger(__name__)

ENDS_WITHIN_S = 11.0  # a unit that does not end is waited for as long as the paced loop does, and a little more


class UnitOut(NamedTuple):
    """A unit of the agent, as a transport sends it."""

    unit: int
    frames: UInt8[np.ndarray, "f H W 3"]
    samples: Float[np.ndarray, " n"]
    text: str
    seen_ms: float  # end of the user's unit that this answers, on the user's clock
    unit_ms: float  # how long that took; of the last one that was lived, where this is concealed
    concealed: bool
    counters: Counters
    losses: Losses


class Ending(NamedTuple):
    """Why a conversation ended, for programs and for people."""

    name: str
    message: str


STOPPED = Ending("stopped", "The conversation was ended.")
FAILED = Ending("failed", "The agent failed; the server's log says how. A new conversation may work.")


@runtime_checkable
class Recorder(Protocol):
    """Where both sides of a conversation are kept."""

    def watch(self, session: Session) -> Session:
        """The session that lives, of which everything is kept that it takes to live it again."""

    def user(self, seen: Seen) -> None:
        """The user's next unit."""

    def agent(self, out: UnitOut) -> None:
        """The agent's next unit."""

    def typed(self, text: str) -> None:
        """What the user typed, in the unit that comes next."""

    def finish(self) -> None:
        """There are no more."""


class Plan(NamedTuple):
    """How a conversation begins."""

    setting: Setting
    seed: int
    recorder: Recorder | None = None


class Conversation:
    """A slot in use. `start` it once; `stop` it, or wait for it to end. The slot is not given back here."""

    def __init__(
        self,
        agent: Agent,
        slot: Slot,
        plan: Plan,
        deliver: Callable[[UnitOut], None],
        ended: Callable[[Ending], None],
    ):
        """`deliver` is called with each unit, and `ended` once, in the conversation's thread; neither may wait."""
        self.inbox = Inbox(agent.config.vision.picture, agent.config.text.max_user)
        self._agent, self._slot, self._plan = agent, slot, plan
        self._deliver, self._ended = deliver, ended
        self._said, self._has_typed = TextStream(agent.tokenizer), False
        self._stopping = threading.Event()
        self._live: Live | None = None
        self._unit_ms = 0.0
        self._seen_ms: dict[int, float] = {}  # of units that have not been shown
        self._next_unit = 0  # of the user
        self._thread = threading.Thread(target=self._run, name="conversation", daemon=True)

    def start(self) -> None:
        """Prefill the world, and live from then on."""
        self._thread.start()

    def stop(self) -> None:
        """End within a unit."""
        self._stopping.set()
        if self._live is not None:
            self._live.close()

    def join(self) -> bool:
        """Wait for the end, but not for ever; whether it has come."""
        self._thread.join(ENDS_WITHIN_S)
        return not self._thread.is_alive()

    def keep(self) -> None:
        """After the end: wait for the recording, if there is one, to be written."""
        if self._plan.recorder is not None:
            self._plan.recorder.finish()

    def type(self, text: str) -> bool:
        """What the user typed; False when too much waits to be read already."""
        words = " ".join(text.split())
        fits = self.inbox.read(self._agent.tokenizer.encode(f" {words}" if self._has_typed else words))
        self._has_typed = self._has_typed or fits
        if fits and self._plan.recorder is not None:
            self._plan.recorder.typed(words)
        return fits

    # ---- All below runs in the conversation's thread, or in that of a unit

    def _run(self) -> None:
        ending = STOPPED
        try:
            self._converse()
        except Exception as error:  # noqa: BLE001 - whatever happens ends this conversation, and no other
            ending = _ending_of(error)
        self._ended(ending)

    def _converse(self) -> None:
        pace = self._slot.begin(self._plan.setting, self._plan.seed)
        recorder, session = self._plan.recorder, self._slot.session
        timed = _Timed(session if recorder is None else recorder.watch(session), self)
        self._live = Live(timed, self._see, pace, opening_screen(self._agent.config, self._plan.setting))
        if self._stopping.is_set():
            return
        self._start_ms = WALL_CLOCK.now_ms()
        for shown in self._live.units():
            out = self._out(shown)
            if self._plan.recorder is not None:
                self._plan.recorder.agent(out)
            self._deliver(out)

    def note(self, reply: Reply) -> None:
        """A unit was lived."""
        self._unit_ms = sum(reply.step_ms.values())

    def _see(self, unit: int) -> Observation:
        """The user's unit; those that were skipped are taken too, so that a recording has them."""
        for k in range(self._next_unit, unit + 1):
            seen = self.inbox.take(self._start_ms + complete_ms(k), read=k == unit)
            if self._plan.recorder is not None:
                self._plan.recorder.user(seen)
        self._next_unit, self._seen_ms[unit] = unit + 1, seen.end_ms
        return observation(self._agent.config, seen.frames, seen.samples, seen.text)

    def _out(self, shown: Shown) -> UnitOut:
        assert self._live is not None
        return UnitOut(
            unit=shown.unit,
            frames=shown.frames[0],
            samples=shown.samples[0],
            text=self._said.push(shown.text[0]),
            seen_ms=self._seen_ms.pop(shown.unit, np.nan),
            unit_ms=self._unit_ms,
            concealed=shown.concealed,
            counters=self._live.counters,
            losses=self.inbox.losses,
        )


class _Timed:
    """A session, of whose replies the conversation is told."""

    def __init__(self, session: Session, conversation: Conversation):
        self._session, self._conversation = session, conversation

    def step(self, seen: Observation, solver_steps: int) -> Reply:
        reply = self._session.step(seen, solver_steps)
        self._conversation.note(reply)
        return reply

    def skip(self) -> None:
        self._session.skip()


def _ending_of(error: Exception) -> Ending:
    """Why a conversation ended with an error, as its user is told."""
    if isinstance(error.__cause__, HistoryFullError):
        return Ending("history_full", "The agent's memory is full: this conversation is over.")
    if isinstance(error, ValueError):
        return Ending("bad_world", f"{error}.")
    logger.error("a conversation failed", exc_info=error)
    return FAILED
