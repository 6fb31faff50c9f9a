"""`serve.py --replay FILE`: whether a recorded conversation comes out again bit for bit, and where it does not."""

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.media.output import PendingFile
from wanstreamer_jax.media.writer import MediaWriter
from wanstreamer_jax.parallel.mesh import Devices
from wanstreamer_jax.serving.placing import COMPILING, place_agent
from wanstreamer_jax.serving.replay.lines import ReplayError
from wanstreamer_jax.serving.replay.origin import machine_facts, other_agent, other_machine
from wanstreamer_jax.serving.replay.player import Difference, Player
from wanstreamer_jax.serving.replay.reading import REMEDY, Recording, records, setting_of
from wanstreamer_jax.serving.replay.records import Record, Replied, Seen, Shown
from wanstreamer_jax.serving.replay.tape import LIVE
from wanstreamer_jax.serving.world_file import make_start
from wanstreamer_jax.stream import pace
from wanstreamer_jax.stream.placement import HistoryFullError, Reply
from wanstreamer_jax.stream.worker import StepError

MOST_LISTED = 100  # differences in a report


@dataclasses.dataclass(frozen=True)
class ReplayJob:
    """What to write, and where to live."""

    reply: Path | None = None
    report: Path | None = None
    devices: Devices | None = None  # None: thinker and performer share one


def replay(agent: Agent, recording: Recording, job: ReplayJob) -> bool:
    """Live a conversation again; whether all of it came out to the bit.

    Raises:
        ReplayError: it is another agent's, or cannot have happened.
        MediaError: an output cannot be written.
    """
    _check_agent(recording, agent)
    setting = setting_of(recording, agent.config)
    start = make_start(agent.config, agent.tokenizer, [setting], [recording.header["seed"]])
    with ExitStack() as stack:
        path, picture = recording.path, agent.config.picture
        film = stack.enter_context(MediaWriter(job.reply, picture, path)) if job.reply else None
        report = stack.enter_context(PendingFile(job.report, path)) if job.report else None
        placement = place_agent(agent, job.devices)
        stack.callback(placement.close)
        elsewhere = other_machine(recording.header["machine"], machine_facts(placement))
        if elsewhere:
            print(f"warning: it may not come out to the bit, for {'; '.join(elsewhere)}", file=sys.stderr)
        print(COMPILING, file=sys.stderr, flush=True)
        placement.begin(start)
        run = _Run(recording, Player(agent, placement, setting), film)
        run.live_through(records(recording, agent.config))
        said = run.report(elsewhere)
        if report:
            report.commit_json(said)
    print(_in_words(recording, said), file=sys.stderr)
    return said["bit_equal"]


def _check_agent(recording: Recording, agent: Agent) -> None:
    reason = other_agent(recording.header["agent"], agent)
    if reason:
        remedy = "name the right one with --agent, or with --preset if it is untrained"
        raise ReplayError(recording.path, f"was recorded with another agent: {reason}", remedy)


class _Run:
    """One replay, and what is to be said of it."""

    def __init__(self, recording: Recording, player: Player, film: MediaWriter | None) -> None:
        self._recording, self._player, self._film = recording, player, film
        self._differences: list[Difference] = []
        self._n_lived = self._n_compared = 0
        self._failed = ""

    def live_through(self, happened: Iterator[Record]) -> None:
        """Everything that happened, up to the first unit that fails here."""
        with tqdm(total=self._recording.n_units, desc="replay", unit=" units", file=sys.stderr) as progress:
            for record in happened:
                if not isinstance(record, Seen):
                    self._compare(record)
                    continue
                if not self._live(record):
                    return
                progress.update()

    def _live(self, seen: Seen) -> bool:
        try:
            reply = self._player.live(seen)
        except (StepError, HistoryFullError) as error:
            self._failed = str(error)
            if self._n_lived < self._recording.n_replies:
                self._differences.append(Difference(seen.unit, "reply", f"does not come: {error}"))
            return False
        self._n_lived += 1
        if self._recording.header["source"] != LIVE:
            self._write(reply)
        return True

    def _compare(self, record: Record) -> None:
        if isinstance(record, Replied):
            self._n_compared += 1
            self._differences += self._player.compare(record)
        elif isinstance(record, Shown):
            try:
                shown, differences = self._player.show(record)
            except KeyError as error:
                path = self._recording.path
                raise ReplayError(path, f"unit {record.unit} shows a reply that is not there", REMEDY) from error
            self._differences += differences
            self._write(shown)

    def _write(self, out: Reply | pace.Shown) -> None:
        if self._film:
            self._film.write(out.frames[0], out.samples[0])

    def report(self, elsewhere: list[str]) -> dict[str, Any]:
        return {
            "replayed": str(self._recording.path),
            "began": self._recording.header["began"],
            "units": self._n_compared,
            "unanswered_units": self._recording.n_units - self._recording.n_replies,
            "failed": self._failed,
            "bit_equal": not self._differences,
            "cut_off": self._recording.is_cut_off,
            "replies_that_differ": len({d.unit for d in self._differences if d.stream != "shown"}),
            "differences": [difference._asdict() for difference in self._differences[:MOST_LISTED]],
            "recorded_elsewhere": elsewhere,
        }


def _in_words(recording: Recording, report: dict[str, Any]) -> str:
    """A report as one line."""
    path, n_units = recording.path, report["units"]
    after = "; the recording is cut off after them" if report["cut_off"] else ""
    if report["unanswered_units"]:
        after += f"; the next one, whose reply is not there, {'fails: ' if report['failed'] else 'does not fail'}"
        after += report["failed"]
    if report["bit_equal"]:
        return f"{path}: all {n_units} units are bit-equal{after}"
    first, n_differ = report["differences"][0], report["replies_that_differ"]
    differs = f"unit {first['unit']} differs, the {first['stream']} {first['words']}"
    return f"{path}: {differs}; {n_differ} of {n_units} replies differ{after}"
