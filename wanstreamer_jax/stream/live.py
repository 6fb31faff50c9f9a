"""The paced loop of a live session: a unit in and a unit out on the wall clock, for ever, whatever the load.

Units are lived in a thread, one at a time, while this one fills output time: with the reply when it is there, or with
what conceals its absence when it is due. What is done about units that come late is decided in `pace.py`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol, runtime_checkable

from wanstreamer_jax.stream.pace import (
    Counters,
    Pace,
    Screen,
    Session,
    Shown,
    complete_ms,
    conceal,
    decide,
    due_ms,
    first_pace,
    learn,
    miss,
    show,
)
from wanstreamer_jax.stream.placement import Reply
from wanstreamer_jax.stream.types import Observation
from wanstreamer_jax.timeline import UNIT_MS

SLACK_MS = UNIT_MS / 4
STALLED_MS = 10_000.0  # a unit that takes longer ends the session


@runtime_checkable
class Clock(Protocol):
    """A clock that never goes back; it may begin anywhere."""

    def now_ms(self) -> float:
        """The time."""

    def sleep_until(self, ms: float) -> None:
        """Return at that time, or at once when it has passed."""

    def wait(self, done: threading.Event, until_ms: float) -> bool:
        """Whether an event happens until then; returns as soon as it does."""


class WallClock:
    """`time.monotonic`."""

    def now_ms(self) -> float:
        """The time."""
        return time.monotonic() * 1000

    def sleep_until(self, ms: float) -> None:
        """Return at that time, or at once when it has passed."""
        time.sleep(max(0.0, ms - self.now_ms()) / 1000)

    def wait(self, done: threading.Event, until_ms: float) -> bool:
        """Whether an event happens until then; returns as soon as it does."""
        return done.wait(max(0.0, until_ms - self.now_ms()) / 1000)


WALL_CLOCK = WallClock()


class LiveError(RuntimeError):
    """A unit that raised, or did not end; the message names it."""


class Newest:
    """Observations from a thread that has a pace of its own: one is held, the newest, so that nothing queues."""

    def __init__(self, nothing: Observation):
        """`nothing` is what is seen in a unit for which none came."""
        self._nothing = nothing
        self._held: deque[Observation] = deque(maxlen=1)

    def put(self, seen: Observation) -> None:
        """Hold this one; one that is held already is forgotten."""
        self._held.append(seen)

    def __call__(self, unit: int) -> Observation:
        """The newest, once."""
        del unit
        try:
            return self._held.pop()
        except IndexError:
            return self._nothing


def measure(session: Session, seen: Observation, solver_steps: list[int]) -> Pace:
    """Compile and time a unit with each number of solver steps that may be chosen; begin the session afterwards."""
    for n in solver_steps:
        session.step(seen, n)
    return first_pace({n: session.step(seen, n).step_ms["perform"] for n in solver_steps})


class _Lived:
    """A unit that is being lived, or has been."""

    def __init__(self, unit: int, solver_steps: int, clock: Clock, live: Callable[[], Reply]):
        self.unit = unit
        self.solver_steps = solver_steps
        self.begin_ms = clock.now_ms()
        self.done = threading.Event()
        self._clock = clock
        self._live = live
        self._error: Exception | None = None
        # A daemon: a step that never ends must not keep the program from ending.
        threading.Thread(target=self._run, name=f"unit {unit}", daemon=True).start()

    def _run(self) -> None:
        try:
            self._reply = self._live()
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
        self.took_ms = self._clock.now_ms() - self.begin_ms
        self.done.set()

    def reply(self) -> Reply:
        """What came of it, once it is done."""
        if self._error is not None:
            raise LiveError(f"unit {self.unit} of the live session: {self._error}") from self._error
        return self._reply


class Live:
    """A live session. `units` runs it; `close`, from any thread, ends it within a unit."""

    def __init__(
        self,
        session: Session,
        see: Callable[[int], Observation],
        pace: Pace,
        screen: Screen,
        slack_ms: float = SLACK_MS,
        clock: Clock = WALL_CLOCK,
    ):
        """`see` gives at once what is known of a unit that is complete; `pace` and `screen` are the first.

        Raises:
            ValueError: a slack that is negative, or a unit or more.
        """
        if not 0 <= slack_ms < UNIT_MS:
            raise ValueError(f"slack_ms {slack_ms}: at least 0 and less than a unit, {UNIT_MS}")
        self.counters = Counters()
        self._session, self._see = session, see
        self._pace, self._screen = pace, screen
        self._slack_ms = slack_ms
        self._clock = clock
        self._closing = threading.Event()
        self._living: _Lived | None = None
        self._ready: _Lived | None = None  # lived, and not shown yet
        self._n_unlived = 0  # skipped, and the session does not know yet

    def units(self) -> Iterator[Shown]:
        """Every unit of output time, once and in order, as soon as its reply is there and when it is due at the latest.

        Unit 0 of the input begins now. Whoever takes the units must not keep them waiting: that is load, too.

        Raises:
            LiveError: a unit raised, or did not end. Nothing is left running, but for a unit that does not end.
        """
        self._start_ms = self._clock.now_ms()
        try:
            while not self._closing.is_set():
                yield self._fill(self.counters.units)
        finally:
            self._let_end()

    def close(self) -> None:
        """End `units`, after the unit of output time that it waits for."""
        self._closing.set()

    def _fill(self, unit: int) -> Shown:
        """Live until a unit of output time can be filled, or is due, and fill it."""
        due = due_ms(unit, self._slack_ms)
        while not self._settled(unit) and self._go_on(due):
            pass
        lived = next((x for x in (self._ready, self._living) if x is not None and x.unit == unit), None)
        self._count(lived)
        if lived is None or lived is self._living:
            shown, self._screen = conceal(self._screen, unit)
        else:
            shown, self._screen = show(self._screen, unit, lived.reply())
        return shown

    def _count(self, lived: _Lived | None) -> None:
        """A unit of output time is filled: it is the one that was lived, or is being lived, or was skipped."""
        counters, full = self.counters, max(self._pace.least_ms)
        self.counters = counters._replace(
            units=counters.units + 1,
            late=counters.late + (lived is not None and lived is self._living),
            skipped=counters.skipped + (lived is None),
            reduced=counters.reduced + (lived is not None and lived.solver_steps < full),
        )

    def _settled(self, unit: int) -> bool:
        """Whether a unit is lived or skipped, for good."""
        return unit < self._pace.unit and (self._living is None or self._living.unit != unit)

    def _go_on(self, until_ms: float) -> bool:
        """Wait for the next thing that happens, and deal with it; False when nothing does until then."""
        if self._living is not None:
            if not self._clock.wait(self._living.done, self._start_ms + until_ms):
                self._check_stall(self._living)
                return False
            self._take(self._living)
        else:
            self._clock.sleep_until(self._start_ms + complete_ms(self._pace.unit))
        self._begin()
        return True

    def _begin(self) -> None:
        """Decide on the next unit, if it is complete."""
        now = self._clock.now_ms() - self._start_ms
        if now < complete_ms(self._pace.unit):
            return
        decision, self._pace = decide(self._pace, now, self._slack_ms)
        self._n_unlived += decision.n_skipped
        lag_max = max(self.counters.lag_max_ms, decision.lag_ms)
        self.counters = self.counters._replace(lag_ms=decision.lag_ms, lag_max_ms=lag_max)
        if decision.solver_steps:
            live = partial(self._live, self._pace.unit - 1, self._n_unlived, decision.solver_steps)
            self._living = _Lived(self._pace.unit - 1, decision.solver_steps, self._clock, live)
            self._n_unlived = 0

    def _live(self, unit: int, n_unlived: int, solver_steps: int) -> Reply:
        for _ in range(n_unlived):
            self._session.skip()
        return self._session.step(self._see(unit), solver_steps)

    def _take(self, lived: _Lived) -> None:
        """A unit has been lived: keep its reply for its place in output time, if that is not filled yet."""
        self._living = None
        reply = lived.reply()
        self._pace = learn(self._pace, lived.solver_steps, reply.step_ms["perform"], lived.took_ms)
        if lived.unit < self.counters.units:
            self._screen = miss(self._screen, reply)
            self.counters = self.counters._replace(missed=self.counters.missed + 1)
        else:
            self._ready = lived

    def _check_stall(self, lived: _Lived) -> None:
        if self._clock.now_ms() - lived.begin_ms >= STALLED_MS:
            raise LiveError(f"unit {lived.unit} of the live session has not ended in {STALLED_MS / 1000:g} s")

    def _let_end(self) -> None:
        """Wait for the unit that is being lived, but not for ever; nobody will see it."""
        if self._living is not None:
            self._clock.wait(self._living.done, self._living.begin_ms + STALLED_MS)
