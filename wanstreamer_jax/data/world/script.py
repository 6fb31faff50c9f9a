"""A session before it is drawn and spoken: who says and shows what, and when, in ms since its start."""

import dataclasses
import enum

from wanstreamer_jax.data.world.camera import Showing
from wanstreamer_jax.data.world.lexicon import Kind, Split
from wanstreamer_jax.data.world.speech import Span, Voice, speak
from wanstreamer_jax.timeline import SAMPLES_PER_MS


class Who(enum.StrEnum):
    """Whose words these are."""

    USER = "user"
    AGENT = "agent"
    USER_TYPED = "user_typed"
    BACKGROUND = "background"


@dataclasses.dataclass(frozen=True)
class Word:
    """A word, or what of it was said before its speaker stopped."""

    who: Who
    start_ms: int
    end_ms: int
    text: str


@dataclasses.dataclass(frozen=True)
class Line:
    """Something said in one go; what of the text was to come after `end_ms` is not said."""

    who: Who
    text: str
    start_ms: int
    end_ms: int
    voice: Voice

    @classmethod
    def whole(cls, who: Who, text: str, start_ms: int, voice: Voice) -> "Line":
        """A text from its first to its last sound."""
        return cls(who, text, start_ms, start_ms + speak(text, voice).duration_ms, voice)

    @property
    def words(self) -> list[Word]:
        """Its words, as far as they were said."""
        spans = [
            (self.start_ms + w.start // SAMPLES_PER_MS, self.start_ms + w.end // SAMPLES_PER_MS, w.text)
            for w in speak(self.text, self.voice).words
        ]
        return [Word(self.who, a, min(b, self.end_ms), text) for a, b, text in spans if a < self.end_ms]

    @property
    def phonemes(self) -> list[Span]:
        """Its phonemes, as far as they were said, in samples since the start of the session."""
        first, last = self.start_ms * SAMPLES_PER_MS, self.end_ms * SAMPLES_PER_MS
        spans = speak(self.text, self.voice).phonemes
        return [Span(p.text, first + p.start, min(first + p.end, last)) for p in spans if first + p.start < last]


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the agent had to do and did: an answer, or a comment that nobody asked for."""

    kind: Kind
    about: Kind  # what a typed question is about; else the kind again
    question: str
    question_start_ms: int  # of a comment: when the card appears
    question_end_ms: int  # of a comment: when it has settled
    expected: str
    keyword: str
    reply_start_ms: int
    reply_end_ms: int
    card: int | None = None  # which of the session's, if it is about one
    is_seen_pair: bool | None = None  # of colour and shape
    stop_ms: int | None = None  # the onset of "stop"


@dataclasses.dataclass(frozen=True)
class Script:
    """All that happens."""

    split: Split
    voice: Voice  # the user's
    lines: tuple[Line, ...]
    typed: tuple[Word, ...]
    showings: tuple[Showing, ...]
    turns: tuple[Turn, ...]

    def spans(self, who: Who) -> list[tuple[int, int]]:
        """When somebody speaks, in ms."""
        return sorted((line.start_ms, line.end_ms) for line in self.lines if line.who is who)
