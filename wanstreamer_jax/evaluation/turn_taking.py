"""Does the agent speak when it should, and only then? Of speech spans and labels.

    user       |---question---|                    |--question--|
    agent                        |--answer--|
    must be         silent    until  ^latency     idle   silent

A false start begins inside a question, pauses included. What begins when nothing was asked or shown is unasked.
"""

from collections.abc import Sequence
from typing import NamedTuple

from wanstreamer_jax.data.world import Kind, Labels, Turn
from wanstreamer_jax.evaluation.voice import Span

EDGE_MS = 60  # so far before a question's end an answer may begin: its last sound fades
ANSWER_MS = 1200  # an answer is in time
COMMENT_MS = 2000  # from when a card appears
LATEST_MS = 3000  # what begins later is no answer to what was asked
SETTLE_MS = 500  # after an answer, before idle time begins
SHORTEST_IDLE_MS = 500


class Asked(NamedTuple):
    """A turn, and when the next thing happens or the session ends."""

    turn: Turn
    until_ms: int

    @property
    def is_comment(self) -> bool:
        """A card appears, and nobody asks."""
        return self.turn.kind is Kind.COMMENT

    @property
    def answer_from_ms(self) -> int:
        """From when on speech is an answer, or a comment."""
        return self.turn.question_start_ms if self.is_comment else self.turn.question_end_ms - EDGE_MS


def asked(labels: Labels, last_ms: int) -> list[Asked]:
    """The turns of a session, in order."""
    turns = sorted(labels.turns, key=lambda turn: turn.question_start_ms)
    untils = [turn.question_start_ms for turn in turns[1:]] + [last_ms]
    return [Asked(turn, until) for turn, until in zip(turns, untils, strict=False)]


def answer_start_ms(ask: Asked, spoken: Sequence[Span]) -> int | None:
    """When the agent begins to answer; None when it does not."""
    latest_ms = min(ask.until_ms, ask.answer_from_ms + LATEST_MS)
    return next((s.start_ms for s in spoken if ask.answer_from_ms <= s.start_ms < latest_ms), None)


def latency_ms(ask: Asked, spoken: Sequence[Span]) -> int | None:
    """From the end of the question (of a comment: from when the card appears) to the answer; None without one."""
    start_ms = answer_start_ms(ask, spoken)
    since_ms = ask.turn.question_start_ms if ask.is_comment else ask.turn.question_end_ms
    return None if start_ms is None else start_ms - since_ms


def is_false_start(ask: Asked, spoken: Sequence[Span]) -> bool:
    """Does the agent begin to speak inside the question?"""
    first_ms, beyond_ms = ask.turn.question_start_ms, ask.turn.question_end_ms - EDGE_MS
    return any(first_ms <= s.start_ms < beyond_ms for s in spoken)


def idle(labels: Labels, last_ms: int) -> list[Span]:
    """When nothing is asked, nothing new appears, and no answer is due: nobody expects the agent to speak."""
    busy = [(t.question_start_ms, t.reply_end_ms + SETTLE_MS) for t in labels.turns]
    stretches, at_ms = [], 0
    for start_ms, end_ms in [*sorted(busy), (last_ms, last_ms)]:
        stretches.append(Span(at_ms, start_ms))
        at_ms = max(at_ms, end_ms)
    return [s for s in stretches if s.end_ms - s.start_ms >= SHORTEST_IDLE_MS]


def is_unasked(stretch: Span, spoken: Sequence[Span], answers_ms: Sequence[int]) -> bool:
    """Does the agent begin to speak in idle time? `answers_ms` are starts that are answers, if late ones."""
    return any(stretch.start_ms <= s.start_ms < stretch.end_ms and s.start_ms not in answers_ms for s in spoken)
