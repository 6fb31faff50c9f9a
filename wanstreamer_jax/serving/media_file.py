"""A media file of a person, streamed through an agent unit by unit; the reply is a media file as long as it.

Unit k of the reply lies in time where unit k of the input does. Live, it would be seen one unit and the agent's
latency later.
"""

import dataclasses
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.media.output import PendingFile, check_place
from wanstreamer_jax.media.reader import MediaReader, MediaUnit, open_media
from wanstreamer_jax.media.subtitles import SubtitleWriter
from wanstreamer_jax.media.writer import MediaWriter
from wanstreamer_jax.parallel.mesh import Devices
from wanstreamer_jax.serving.placing import COMPILING, observation, place_agent
from wanstreamer_jax.serving.replay.records import RecordWriter
from wanstreamer_jax.serving.replay.tape import FILE, open_writer, recorded
from wanstreamer_jax.serving.report import CompileCounter, Latencies
from wanstreamer_jax.serving.world_file import Setting, make_start
from wanstreamer_jax.signals import Signals
from wanstreamer_jax.stream.placement import HistoryFullError, Placement, Reply
from wanstreamer_jax.stream.types import Observation
from wanstreamer_jax.stream.worker import Event, write_trace
from wanstreamer_jax.timeline import UNIT_MS
from wanstreamer_jax.tokens import TextStream


@dataclasses.dataclass(frozen=True)
class Job:
    """What to read and what to write."""

    source: Path
    reply: Path
    report: Path | None = None
    subtitles: Path | None = None
    trace: Path | None = None
    recording: Path | None = None  # for a replay
    seed: int = 0
    devices: Devices | None = None  # None: thinker and performer share one


def stream_file(agent: Agent, job: Job, setting: Setting) -> bool:
    """Stream `job.source` through the agent; False when Ctrl-C ended it early, with what there was written whole.

    Raises:
        MediaError: the source cannot be read, or an output cannot be written. No output is left behind.
        ValueError: the setting does not fit the agent.
        StepError: a step raised or stalled. No output is left behind.
    """
    config = agent.config
    if job.recording:
        check_place(job.recording, job.source)
    with ExitStack() as stack:
        media = stack.enter_context(open_media(job.source, config.vision.picture))
        writer = stack.enter_context(MediaWriter(job.reply, config.picture, job.source))
        subtitles = stack.enter_context(SubtitleWriter(job.subtitles, job.source)) if job.subtitles else None
        report = stack.enter_context(PendingFile(job.report, job.source)) if job.report else None
        trace = stack.enter_context(PendingFile(job.trace, job.source)) if job.trace else None
        events: list[Event] = []
        placement = place_agent(agent, job.devices, events if trace else None)
        stack.callback(placement.close)
        compiled = _warmed_up(agent, placement, setting, job.seed)
        stack.callback(compiled.close)
        recording = _recording(agent, job, setting, placement)
        if recording:
            stack.callback(recording.close)
        run = _Run(agent, placement, compiled, recording)
        events.clear()
        finished = _live_through(run, media, writer, subtitles)
        if recording and finished:
            recording.end()
        said = run.report(media)
        if report:
            report.commit_json(said)
        if trace:
            write_trace(trace.part, events)
            trace.commit()
    print(_in_words(job.reply, said), file=sys.stderr)
    return finished


def _recording(agent: Agent, job: Job, setting: Setting, placement: Placement) -> RecordWriter | None:
    """A replay file, which is there from the beginning: it is wanted most when a session breaks off."""
    if job.recording is None:
        return None
    return open_writer(job.recording, FILE, agent, setting, job.seed, placement)


def _warmed_up(agent: Agent, placement: Placement, setting: Setting, seed: int) -> CompileCounter:
    """Compile every step on a unit of nothing, then begin the session; what is compiled from now on is counted."""
    start = make_start(agent.config, agent.tokenizer, [setting], [seed])
    print(COMPILING, file=sys.stderr, flush=True)
    placement.begin(start)
    placement.step(observation(agent.config, None, None, []))
    placement.begin(start)
    return CompileCounter()


def _live_through(run: "_Run", media: MediaReader, writer: MediaWriter, subtitles: SubtitleWriter | None) -> bool:
    """Every unit of the recording; True when it came to its end."""
    progress = tqdm(total=media.n_units, desc="reply", unit=f" units of {UNIT_MS} ms", file=sys.stderr)
    with Signals() as signals, closing(progress):
        for unit, reply in run.replies(media):
            writer.write(reply.frames[0, : unit.n_frames], reply.samples[0, : max(0, unit.n_samples)])
            said = run.note(reply)
            if subtitles:
                subtitles.write(reply.unit, said)
            progress.update()
            if signals.received:
                print("\nstopped: the reply ends here", file=sys.stderr)
                run.settle()
                return False
    return True


class _Run:
    """One session over a recording, and what is to be said of it."""

    def __init__(self, agent: Agent, placement: Placement, compiled: CompileCounter, recording: RecordWriter | None):
        self._agent = agent
        self._recording = recording
        self._placement = placement
        self._compiled = compiled
        self._latencies = Latencies()
        self._stream = TextStream(agent.tokenizer)
        self._n_units = 0
        self._text: list[dict[str, Any]] = []

    def replies(self, media: MediaReader) -> Iterator[tuple[MediaUnit, Reply]]:
        """Each unit of the recording with its reply, which comes while the next unit is being lived through.

        They end where the history is full, which is said then.
        """
        waiting: deque[MediaUnit] = deque()

        def seen() -> Iterator[Observation]:
            for unit in media:
                waiting.append(unit)
                yield observation(self._agent.config, unit.frames, unit.samples, [])

        replies = recorded(self._placement, seen(), self._recording) if self._recording else None
        try:
            for reply in replies or self._placement.stream(seen()):
                yield waiting.popleft(), reply
        except HistoryFullError as error:
            print(f"\n{error}", file=sys.stderr)

    def settle(self) -> None:
        """Wait for the steps that are under way: what they were given is theirs until they end."""
        self._placement.settle()

    def note(self, reply: Reply) -> str:
        """Count a reply; returns what it says."""
        self._latencies.add(reply.step_ms)
        self._n_units += 1
        said = self._stream.push(reply.text[0])
        if said:
            self._text.append({"unit": reply.unit, "text": said})
        return said

    def report(self, media: MediaReader) -> dict[str, Any]:
        config = self._agent.config
        return {
            "units": self._n_units,
            "seconds": round(min(media.seconds, self._n_units * UNIT_MS / 1000), 3),
            "picture": [config.picture.width, config.picture.height],
            "placement": self._placement.name,
            "solver_steps": config.flow.solver_steps,
            "trained": self._agent.trained,
            "text": self._text,
            "latency_ms": self._latencies.summary(),
            "late_units": self._latencies.n_late(),
            "concealed": media.n_concealed,
            "compiles_after_warmup": self._compiled.n,
            "history_tokens": self._placement.history_tokens[0],
            "bytes_per_session": self._placement.bytes_per_session,
        }


def _in_words(reply: Path, report: dict[str, Any]) -> str:
    """A report as one line."""
    (width, height), unit_ms = report["picture"], report["latency_ms"].get("signal_to_signal", {"p50": 0.0, "p95": 0.0})
    concealed = f", {report['concealed']} damaged pieces concealed" if report["concealed"] else ""
    return (
        f"{reply}: {report['seconds']} s at {width}x{height}; a unit of {UNIT_MS} ms took {unit_ms['p50']:.0f} ms "
        f"(p95 {unit_ms['p95']:.0f}), {report['late_units']} late{concealed}"
    )
