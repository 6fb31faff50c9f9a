"""One thread a mesh: the steps of a device group, dispatched in one order, timed, and never waited for without end."""

import json
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, NamedTuple

import jax

STALLED_S = 300.0  # no step takes so long, not even with its compilation


class StepError(RuntimeError):
    """A step that raised, or did not end in time; the message names the step and the unit."""


class Event(NamedTuple):
    """A step as it was run."""

    row: str
    step: str
    unit: int
    start_s: float
    seconds: float


class Done(NamedTuple):
    """A step's result and how long it took until it was there."""

    result: Any
    ms: float


class Task(NamedTuple):
    """A step to be run."""

    step: str
    unit: int
    run: Callable[[], Any]
    done: Future


class Worker:
    """Runs steps one after the other in a thread of its own, and waits for each result before the next."""

    def __init__(self, row: str, events: list[Event] | None = None, stalled_s: float = STALLED_S):
        """`row` names the device group. `events`, if given, collects what was run."""
        self._row = row
        self._events = events
        self._stalled_s = stalled_s
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        # A daemon: a step that never ends must not keep the program from ending.
        self._thread = threading.Thread(target=self._work, name=row, daemon=True)
        self._thread.start()

    def submit(self, step: str, unit: int, run: Callable[..., Any], *args: Any) -> Future:
        """Have a step run; what is returned gives `Done`."""
        done: Future = Future()
        self._tasks.put(Task(step, unit, lambda: run(*args), done))
        return done

    def wait(self, done: Future, step: str, unit: int) -> Done:
        """The step's result.

        Raises:
            StepError: the step raised, or has not ended in time.
        """
        try:
            return done.result(self._stalled_s)
        except FutureTimeoutError as error:
            raise StepError(f"{step} of unit {unit} has not ended in {self._stalled_s:g} s ({self._row})") from error

    def run(self, step: str, unit: int, run: Callable[..., Any], *args: Any) -> Done:
        """Run a step and wait for it; raises as `wait` does."""
        return self.wait(self.submit(step, unit, run, *args), step, unit)

    def close(self) -> None:
        """End the thread when it has run what it was given."""
        self._tasks.put(None)

    def join(self, seconds: float) -> None:
        """Wait for the thread to end after `close`, so long at most."""
        self._thread.join(seconds)

    @property
    def is_running(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            start = time.perf_counter()
            try:
                result = jax.block_until_ready(task.run())
            except Exception as error:  # noqa: BLE001 - whatever a step raises ends its session, and no other
                failure = StepError(f"{task.step} of unit {task.unit} failed ({self._row}): {error}")
                failure.__cause__ = error
                task.done.set_exception(failure)
                continue
            seconds = time.perf_counter() - start
            if self._events is not None:
                self._events.append(Event(self._row, task.step, task.unit, start, seconds))
            task.done.set_result(Done(result, seconds * 1000))
            del result, task  # a thread that waits must hold no arrays


def write_trace(path: Path, events: list[Event]) -> None:
    """Write events as a timeline that Perfetto and chrome://tracing open, one row a device group."""
    rows = {row: i for i, row in enumerate(dict.fromkeys(e.row for e in events))}
    origin = min((e.start_s for e in events), default=0.0)
    names = [{"ph": "M", "name": "thread_name", "pid": 1, "tid": i, "args": {"name": row}} for row, i in rows.items()]
    spans = [
        {
            "ph": "X",
            "name": f"{e.step} {e.unit}",
            "cat": e.step,
            "pid": 1,
            "tid": rows[e.row],
            "ts": round((e.start_s - origin) * 1e6),
            "dur": round(e.seconds * 1e6),
        }
        for e in events
    ]
    path.write_text(json.dumps({"traceEvents": names + spans, "displayTimeUnit": "ms"}), encoding="utf-8")
