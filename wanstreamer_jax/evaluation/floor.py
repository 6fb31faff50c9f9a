"""Who has the floor when somebody speaks while the agent does: it must yield to "stop", and to nothing else."""

import enum
from collections.abc import Sequence
from typing import NamedTuple

from wanstreamer_jax.data.world import Kind, Labels, Turn
from wanstreamer_jax.evaluation.turn_taking import EDGE_MS
from wanstreamer_jax.evaluation.voice import Span

YIELD_MS = 640  # from the onset of "stop" to silence
FINISHED = 0.85  # who has spoken for so much of what the answer takes the world's agent has finished it


class Should(enum.StrEnum):
    """What the agent ought to do."""

    YIELD = "yield"
    HOLD = "hold"


class Did(enum.StrEnum):
    """What it does."""

    YIELDED = "yielded"
    HELD = "held"
    SILENT = "silent"  # it did not speak when the other began


class Overlap(NamedTuple):
    """Somebody begins to speak while the agent should be speaking."""

    should: Should
    start_ms: int
    end_ms: int
    turn: Turn


def overlaps(labels: Labels) -> list[Overlap]:
    """Every "stop", back-channel and voice in the background that begins during an answer."""
    found = []
    for turn in labels.turns:
        others = labels.background_ms if turn.kind is Kind.BACKGROUND else labels.user_ms
        during = [s for s in others if turn.reply_start_ms < s[0] < turn.reply_end_ms]
        if turn.kind is Kind.STOP:
            found += [Overlap(Should.YIELD, *span, turn) for span in during if span[0] == turn.stop_ms]
        elif turn.kind in (Kind.BACK_CHANNEL, Kind.BACKGROUND):
            found += [Overlap(Should.HOLD, *span, turn) for span in during]
    return found


def silent_after_ms(start_ms: int, spoken: Sequence[Span]) -> int | None:
    """How long after `start_ms` an agent that speaks then falls silent; None when it does not speak."""
    return next((s.end_ms - start_ms for s in spoken if s.start_ms < start_ms < s.end_ms), None)


def judged(overlap: Overlap, spoken: Sequence[Span]) -> Did:
    """What the agent does: it yields when it falls silent in time, unless it has finished."""
    silent_ms = silent_after_ms(overlap.start_ms, spoken)
    if silent_ms is None:
        return Did.SILENT
    if overlap.should is Should.YIELD:
        return Did.YIELDED if silent_ms <= YIELD_MS else Did.HELD
    stays = silent_ms > overlap.end_ms - overlap.start_ms + YIELD_MS
    return Did.HELD if stays or _has_finished(overlap, overlap.start_ms + silent_ms, spoken) else Did.YIELDED


def _has_finished(overlap: Overlap, end_ms: int, spoken: Sequence[Span]) -> bool:
    turn = overlap.turn
    begun_ms = next(s.start_ms for s in spoken if s.end_ms > turn.question_end_ms - EDGE_MS)
    return end_ms - begun_ms >= FINISHED * (turn.reply_end_ms - turn.reply_start_ms)
