"""Sessions in the file layouts of public benchmarks, so that others can score an agent with their own tools.

    full-duplex-bench    <task>/<id>/ input.wav output.wav output.json, and the task's JSON; times in seconds
    videofdb             <bucket>/<dynamic>/<id>/ user.mp4 agent.mp4 reference.mp4 metadata.json

Written from what their papers and pages say of them. The words of output.json are the recogniser's.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from wanstreamer_jax.data.world import Kind, Labels, Session, Turn, Who
from wanstreamer_jax.evaluation.floor import Overlap, overlaps
from wanstreamer_jax.evaluation.lived import Lived
from wanstreamer_jax.evaluation.recogniser import recognise
from wanstreamer_jax.evaluation.turn_taking import asked
from wanstreamer_jax.evaluation.voice import Span, speech
from wanstreamer_jax.media.sound import write_wav
from wanstreamer_jax.media.writer import write_film
from wanstreamer_jax.timeline import FRAME_MS, SAMPLES_PER_FRAME, SAMPLES_PER_MS

_LEAD_MS, _TAIL_MS = 400, 1000  # of a clip before what it is about, and after
_OVERLAP_TASKS = {
    Kind.STOP: "user_interruption",
    Kind.BACK_CHANNEL: "user_backchannel",
    Kind.BACKGROUND: "background_speech",
}


class Clip(NamedTuple):
    """A stretch of a session that shows one thing, and the file that says what, in seconds since the stretch began."""

    task: str
    span: Span
    about: str  # a file's name
    contents: Any


Add = Callable[[Path, Session, Lived], None]


# ---- Full-Duplex-Bench


def add_full_duplex_bench(folder: Path, session: Session, lived: Lived) -> None:
    """Add the clips of a session: pauses, turns, interruptions, back-channels, voices in the background."""
    last_ms = len(lived.samples) // SAMPLES_PER_MS
    for number, clip in enumerate(_clips(session.labels, last_ms)):
        place = folder / clip.task / f"{session.labels.seed}-{number:02d}"
        place.mkdir(parents=True)
        said = _cut(lived.samples, clip.span)
        write_wav(place / "input.wav", _cut(session.user_samples, clip.span))
        write_wav(place / "output.wav", said)
        _write_json(place / "output.json", transcript(said))
        _write_json(place / clip.about, clip.contents)


def transcript(samples: Float32[np.ndarray, " n"]) -> dict[str, Any]:
    """Words with their times, as an ASR's output; each stretch of speech is recognised by itself."""
    heard = [(word, span.start_ms) for span in speech(samples) for word in recognise(_cut(samples, span))]
    chunks = [{"text": word.text, "timestamp": _seconds(word.span, -at_ms)} for word, at_ms in heard]
    return {"text": " ".join(word.text for word, _ in heard), "chunks": chunks}


def _clips(labels: Labels, last_ms: int) -> Iterator[Clip]:
    for ask in asked(labels, last_ms):
        turn = ask.turn
        if turn.kind in (Kind.COMMENT, Kind.TYPED):
            continue
        first_ms = max(0, turn.question_start_ms - _LEAD_MS)
        pauses = [_event("[PAUSE]", pause, first_ms) for pause in _pauses(labels, turn)]
        if pauses:
            yield Clip("pause_handling", Span(first_ms, turn.question_end_ms), "pause.json", pauses)
        taken = [_event("[TURN-TAKING]", Span(turn.question_end_ms, turn.reply_start_ms), first_ms)]
        span = Span(first_ms, max(ask.until_ms, turn.reply_start_ms))
        yield Clip("smooth_turn_taking", span, "turn_taking.json", taken)
    for overlap in overlaps(labels):
        yield _overlap_clip(labels, overlap, last_ms)


def _pauses(labels: Labels, turn: Turn) -> list[Span]:
    """Inside a question."""
    lines = [s for s in labels.user_ms if turn.question_start_ms <= s[0] < turn.question_end_ms]
    return [Span(before[1], after[0]) for before, after in itertools.pairwise(lines)]


def _overlap_clip(labels: Labels, overlap: Overlap, last_ms: int) -> Clip:
    turn, over = overlap.turn, Span(overlap.start_ms, overlap.end_ms)
    span = Span(max(0, turn.question_start_ms - _LEAD_MS), min(last_ms, overlap.end_ms + _TAIL_MS))
    words = [w for w in labels.words if w.who in (Who.USER, Who.BACKGROUND)]
    text = " ".join(w.text for w in words if over.start_ms <= w.start_ms < over.end_ms)
    about = {"context_text": turn.question, "current_turn_text": text, "timestamps": _seconds(over, span.start_ms)}
    return Clip(_OVERLAP_TASKS[turn.kind], span, "metadata.json", about)


def _event(text: str, span: Span, zero_ms: int) -> dict[str, Any]:
    return {"text": text, "timestamp": _seconds(span, zero_ms)}


# ---- VideoFDB


def add_videofdb(folder: Path, session: Session, lived: Lived) -> None:
    """Add the clips of a session: the user interrupts, shows something, speaks while the agent listens."""
    last_ms = len(lived.samples) // SAMPLES_PER_MS
    for number, (bucket, dynamic, turn, event) in enumerate(_dynamics(session.labels)):
        place = folder / bucket / dynamic / f"{session.labels.seed}-{number:02d}"
        place.mkdir(parents=True)
        span = Span(max(0, turn.question_start_ms - _LEAD_MS), min(last_ms, turn.reply_end_ms + _TAIL_MS))
        sides = {
            "user": (session.user_frames, session.user_samples),
            "agent": (lived.frames, lived.samples),
            "reference": (session.agent_frames, session.agent_samples),
        }
        frames = slice(span.start_ms // FRAME_MS, span.end_ms // FRAME_MS)
        samples = slice(frames.start * SAMPLES_PER_FRAME, frames.stop * SAMPLES_PER_FRAME)
        for name, (pictures, sound) in sides.items():
            write_film(place / f"{name}.mp4", pictures[frames], sound[samples])
        zero_ms = frames.start * FRAME_MS
        onset_s, end_s = _seconds(event, zero_ms)
        about = {"bucket": bucket, "dynamic": dynamic, "onset_s": onset_s, "end_s": end_s}
        _write_json(place / "metadata.json", about | {"context": turn.question, "reference_text": turn.expected})


def _dynamics(labels: Labels) -> Iterator[tuple[str, str, Turn, Span]]:
    """Bucket, dynamic, turn and when it happens: the user's are perceived, the agent's generated."""
    for turn in labels.turns:
        question = Span(turn.question_start_ms, turn.question_end_ms)
        if turn.kind is Kind.COMMENT:
            yield "perception", "visual_event", turn, question
        elif turn.kind is not Kind.TYPED:
            yield "generation", "nonverbal_backchanneling", turn, question
        if turn.stop_ms is not None:
            yield "perception", "interruption", turn, Span(turn.stop_ms, turn.reply_end_ms)


LAYOUTS: Mapping[str, Add] = {"full-duplex-bench": add_full_duplex_bench, "videofdb": add_videofdb}


def _cut(samples: Float32[np.ndarray, " n"], span: Span) -> Float32[np.ndarray, " m"]:
    return samples[span.start_ms * SAMPLES_PER_MS : span.end_ms * SAMPLES_PER_MS]


def _seconds(span: Span, zero_ms: int) -> list[float]:
    return [round((ms - zero_ms) / 1000, 3) for ms in span]


def _write_json(path: Path, contents: Any) -> None:
    path.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
