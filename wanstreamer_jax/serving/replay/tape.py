"""A live conversation on its way into a replay file, in a thread of its own: whoever lives never waits for a disk."""

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.serving.log import logger, say
from wanstreamer_jax.serving.replay.origin import agent_facts, machine_facts
from wanstreamer_jax.serving.replay.records import RecordWriter, Seen, Shown, header_fields, sha256_shown
from wanstreamer_jax.serving.world_file import Setting
from wanstreamer_jax.stream.pace import Session
from wanstreamer_jax.stream.placement import Placement, Reply
from wanstreamer_jax.stream.types import Observation

MOST_WAITING = 512  # records that a slow disk may be behind
LIVE, FILE = "live", "file"  # what a conversation was with


class Displayed(NamedTuple):
    """A unit of output time, as the user was given it; so many replies had come too late by then."""

    unit: int
    frames: UInt8[np.ndarray, "f H W 3"]
    samples: Float[np.ndarray, " n"]
    text: str
    concealed: bool
    n_missed: int


Item = Seen | Reply | Displayed


def open_writer(path: Path, source: str, agent: Agent, setting: Setting, seed: int, session: Session) -> RecordWriter:
    """A replay file that has begun; ReplayError when it cannot be written."""
    began = datetime.now(UTC).isoformat(timespec="seconds")
    header: dict[str, Any] = header_fields(source, began, seed, setting, agent.config)
    origin = {"agent": agent_facts(agent), "machine": machine_facts(session)}
    return RecordWriter(path, header | origin, agent.config)


def seen_unit(unit: int, n_skipped: int, solver_steps: int, seen: Observation) -> Seen:
    """What the first session observes, on the host."""
    n_text = int(seen.n_text[0])
    text = np.asarray(seen.text)[0, :n_text].tolist()
    return Seen(unit, n_skipped, solver_steps, text, np.asarray(seen.frames)[0], np.asarray(seen.samples)[0])


def recorded(placement: Placement, units: Iterable[Observation], writer: RecordWriter) -> Iterator[Reply]:
    """`Placement.stream` of sessions that have just begun, of which the first is recorded; raises as that does.

    Raises:
        ReplayError: the recording cannot be written.
    """

    def noted() -> Iterator[Observation]:
        for unit, seen in enumerate(units):
            writer.seen(seen_unit(unit, 0, placement.config.flow.solver_steps, seen))
            yield seen

    for reply in placement.stream(noted()):
        writer.replied(reply.unit, reply)
        yield reply


class Tape:
    """Keeps the conversation of a session that it watches. What cannot be written is logged, and costs nothing else.

    The file is there from the beginning, so that a conversation that breaks off can be replayed up to there.
    """

    def __init__(self, path: Path, agent: Agent, setting: Setting, seed: int) -> None:
        """Nothing is written before a session is watched."""
        self._path = path
        self._open = partial(open_writer, path, LIVE, agent, setting, seed)
        self._items: queue.Queue[Item | None] = queue.Queue(MOST_WAITING)
        self._is_behind = False
        self._thread: threading.Thread | None = None

    def watch(self, session: Session) -> Session:
        """The session, of which every unit is kept; it has just begun."""
        self._thread = threading.Thread(target=self._run, args=(session,), name="tape", daemon=True)
        self._thread.start()
        return _Watched(session, self)

    def put(self, item: Item) -> None:
        """What happens next; never waits."""
        try:
            self._items.put_nowait(item)
        except queue.Full:
            self._is_behind = True

    def finish(self) -> None:
        """There is no more; returns when the file is whole. One without a unit goes."""
        if self._thread is not None:
            self._items.put(None)
            self._thread.join()

    def _run(self, session: Session) -> None:
        items = iter(self._items.get, None)
        try:
            with closing(self._open(session)) as writer:
                n_units = self._write(writer, items)
            if n_units == 0:
                self._path.unlink()
            say("taped", file=self._path.name, units=n_units)
        except Exception:  # noqa: BLE001 - a recording that fails costs the conversation nothing
            logger.exception("a replay file could not be written to its end")
            deque(items, maxlen=0)  # what still comes is let go

    def _write(self, writer: RecordWriter, items: Iterator[Item]) -> int:
        unit, n_units = -1, 0
        for item in items:
            if self._is_behind:
                raise OSError("the disk is too slow for a recording")
            if isinstance(item, Seen):
                unit, n_units = item.unit, n_units + 1
                writer.seen(item)
            elif isinstance(item, Reply):
                writer.replied(unit, item)
            else:
                sha256 = sha256_shown(item.frames, item.samples, item.text)
                writer.shown(Shown(item.unit, item.concealed, item.n_missed, sha256))
        writer.end()
        return n_units


class _Watched:
    """A session whose units go on a tape: before they are lived, so that one that never ends is there too."""

    def __init__(self, session: Session, tape: Tape) -> None:
        self._session, self._tape = session, tape
        self._unit = self._n_skipped = 0

    def step(self, seen: Observation, solver_steps: int) -> Reply:
        self._tape.put(seen_unit(self._unit, self._n_skipped, solver_steps, seen))
        self._unit, self._n_skipped = self._unit + 1, 0
        reply = self._session.step(seen, solver_steps)
        self._tape.put(reply)
        return reply

    def skip(self) -> None:
        self._session.skip()
        self._unit, self._n_skipped = self._unit + 1, self._n_skipped + 1
