"""Where dialogues are acted out, one after the other: somebody speaks, shows or types something, and time goes on."""

import dataclasses

import numpy as np

from wanstreamer_jax.data.world.camera import Showing, somewhere
from wanstreamer_jax.data.world.lexicon import (
    AGENT_VOICE,
    MAX_SHAPES,
    Answer,
    Card,
    Kind,
    Split,
    make_card,
    make_voice,
)
from wanstreamer_jax.data.world.script import Line, Script, Turn, Who, Word
from wanstreamer_jax.data.world.speech import Voice
from wanstreamer_jax.timeline import UNIT_MS

# The agent lives in units: it begins to speak, and falls silent, with the first one that begins so much later. That
# makes what it does a function of what it perceives, and the same words always the same latents.
ANSWER_MS = 160  # from the end of a question to the answer
COMMENT_MS = 500  # from when a card has settled, and nobody has spoken, to the comment
YIELD_MS = 240  # from the onset of "stop" to silence
PAUSE_MS = (250, 700)  # inside a question
TYPING_MS = (22, 40)  # a letter: a line reaches a tiny agent letter by letter, 8 a unit


def next_unit(ms: int) -> int:
    """When the next unit begins, in ms: at that time, or less than a unit later."""
    return -(-ms // UNIT_MS) * UNIT_MS


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question, spoken or typed."""

    text: str
    start_ms: int
    end_ms: int


@dataclasses.dataclass
class Stage:
    """Where dialogues are acted out one after the other; `now_ms` is when the last one ended."""

    rng: np.random.Generator
    split: Split
    voice: Voice
    last_ms: int  # of the session
    now_ms: int = 0
    lines: list[Line] = dataclasses.field(default_factory=list)
    typed: list[Word] = dataclasses.field(default_factory=list)
    showings: list[Showing] = dataclasses.field(default_factory=list)
    turns: list[Turn] = dataclasses.field(default_factory=list)
    is_held: bool = False  # the last card, now

    @classmethod
    def empty(cls, rng: np.random.Generator, split: Split, last_ms: int) -> "Stage":
        """With somebody before the camera."""
        return cls(rng, split, make_voice(rng, split), last_ms, now_ms=int(rng.integers(400, 1200)))

    def copy(self) -> "Stage":
        """To try a dialogue on."""
        return dataclasses.replace(
            self,
            lines=list(self.lines),
            typed=list(self.typed),
            showings=list(self.showings),
            turns=list(self.turns),
        )

    def script(self) -> Script:
        """What was acted."""
        lines, typed, showings, turns = self.lines, self.typed, self.showings, self.turns
        return Script(self.split, self.voice, tuple(lines), tuple(typed), tuple(showings), tuple(turns))

    def between(self, bounds: tuple[int, int]) -> int:
        """Some time, in ms."""
        return int(self.rng.integers(bounds[0], bounds[1] + 1))

    def wait(self, bounds: tuple[int, int]) -> None:
        """Nothing happens."""
        self.now_ms += self.between(bounds)

    def say(self, who: Who, text: str, start_ms: int, voice: Voice | None = None) -> Line:
        """Somebody speaks."""
        voice = voice or (AGENT_VOICE if who is Who.AGENT else self.voice)
        line = Line.whole(who, text, start_ms, voice)
        self.lines.append(line)
        self.now_ms = max(self.now_ms, line.end_ms)
        return line

    def ask(self, phrasing: str) -> Asked:
        """The user speaks, and may pause where the phrasing has a `|`."""
        parts = [part.strip() for part in phrasing.split("|")]
        if self.rng.random() > 0.3:
            parts = [" ".join(parts)]
        start = self.now_ms
        self.say(Who.USER, parts[0], start)
        for part in parts[1:]:
            self.wait(PAUSE_MS)
            self.say(Who.USER, part, self.now_ms)
        return Asked(" ".join(parts), start, self.now_ms)

    def type(self, phrasing: str) -> Asked:
        """The user writes; a word is there when its last letter is."""
        start, text = self.now_ms, phrasing.replace("| ", "")
        letter_ms = self.between(TYPING_MS)
        for word in text.split():
            end = self.now_ms + letter_ms * (len(word) + 1)
            self.typed.append(Word(Who.USER_TYPED, self.now_ms, end, word))
            self.now_ms = end
        return Asked(text, start, self.now_ms)

    def reply(self, kind: Kind, asked: Asked, answer: Answer, about: Kind | None = None) -> Line:
        """The agent answers."""
        line = self.say(Who.AGENT, answer.text, next_unit(asked.end_ms + ANSWER_MS))
        self.note(kind, asked, answer, line, about)
        return line

    def note(self, kind: Kind, asked: Asked, answer: Answer, line: Line, about: Kind | None = None) -> None:
        """Write down what the agent had to do."""
        about = about or kind
        is_about_card = self.is_held and about in (Kind.COLOUR, Kind.SHAPE, Kind.HOW_MANY, Kind.COMMENT)
        self.turns.append(
            Turn(
                kind=kind,
                about=about,
                question=asked.text,
                question_start_ms=asked.start_ms,
                question_end_ms=asked.end_ms,
                expected=answer.text,
                keyword=answer.keyword,
                reply_start_ms=line.start_ms,
                reply_end_ms=line.end_ms,
                card=len(self.showings) - 1 if is_about_card else None,
                is_seen_pair=self.showings[-1].card.is_seen if is_about_card else None,
            )
        )

    def cut(self, line: Line, stop_ms: int) -> None:
        """The agent falls silent in the middle of a line, which is that of the last turn."""
        short = dataclasses.replace(line, end_ms=next_unit(stop_ms + YIELD_MS))
        self.lines[self.lines.index(line)] = short
        self.turns[-1] = dataclasses.replace(self.turns[-1], reply_end_ms=short.end_ms, stop_ms=stop_ms)

    def show(self, count: int) -> Showing:
        """The user holds up another card; `now_ms` stays."""
        self.put_away()
        card = make_card(self.rng, self.split, count)
        if self.showings and self.showings[-1].card == card:  # it would not be another one
            card = Card(card.colour, card.shape, card.count % MAX_SHAPES + 1)
        x, y = somewhere(self.rng)
        settled = self.now_ms + self.between((400, 700))
        self.showings.append(Showing(card, self.now_ms, settled, ((settled, x, y),)))
        self.is_held = True
        return self.showings[-1]

    def move(self) -> None:
        """The user holds the card elsewhere, from now on."""
        held = self.showings[-1]
        _, x, y = held.places[-1]
        there = (self.now_ms + self.between((300, 700)), *somewhere(self.rng))
        self.showings[-1] = dataclasses.replace(held, places=(*held.places, (self.now_ms, x, y), there))
        self.now_ms = there[0]

    def put_away(self) -> None:
        """The card that is held up, if any, is taken down."""
        if self.is_held:
            gone = self.now_ms + self.between((300, 600))
            self.showings[-1] = dataclasses.replace(self.showings[-1], leave_ms=self.now_ms, gone_ms=gone)
            self.now_ms = gone + self.between((50, 300))
            self.is_held = False
