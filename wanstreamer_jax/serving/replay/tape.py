"""A live conversation on its way into a replay file, in a thread of its own: whoever lives never waits for a disk."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.serving.log import say
from wanstreamer_jax.serving.replay.origin import agent_facts, machine_facts
from wanstreamer_jax.serving.replay.records import RecordWriter, Seen, Shown, header_fields, sha256_shown
from wanstreamer_jax.serving.world_file import Setting
from wanstreamer_jax.serving.writing import Writing
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
        self._writing = Writing[Item]("tape", MOST_WAITING, self._keep, "a replay file could not be written to its end")
        self._session: Session | None = None

    def watch(self, session: Session) -> Session:
        """The session, of which every unit is kept; it has just begun."""
        self._session = session
        self._writing.start()
        return _Watched(session, self)

    def put(self, item: Item) -> None:
        """What happens next; never waits."""
        self._writing.put(item)

    def finish(self) -> None:
        """There is no more; returns when the file is whole. One without a unit goes."""
        self._writing.end()
        self._writing.join()

    def _keep(self, items: Iterator[Item]) -> None:
        assert self._session is not None
        with closing(self._open(self._session)) as writer:
            n_units = self._write(writer, items)
        if n_units == 0:
            self._path.unlink()
        say("taped", file=self._path.name, units=n_units)

    def _write(self, writer: RecordWriter, items: Iterator[Item]) -> int:
        unit, n_units = -1, 0
        for item in items:
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
