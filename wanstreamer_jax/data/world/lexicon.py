"""What can be shown and said in the world, and which of it training never meets.

Held out are user voices, user speeds, pairs of colour and shape, and phrasings. What the agent says is the same in
both splits: an answer depends on what was asked and on nothing else. `|` in a phrasing is where a user may pause:
what is before it is no question yet.
"""

import dataclasses
import enum
import itertools
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from wanstreamer_jax.data.world.speech import Voice
from wanstreamer_jax.timeline import UNIT_MS

T = TypeVar("T")


class Split(enum.StrEnum):
    """Training never meets what is held out."""

    TRAIN = "train"
    HELDOUT = "heldout"


class Kind(enum.StrEnum):
    """What a dialogue is about."""

    GREETING = "greeting"
    COLOUR = "colour"
    SHAPE = "shape"
    HOW_MANY = "how_many"
    REPEAT = "repeat"
    COUNT = "count"  # to the end
    STOP = "stop"  # counting, until the user says stop
    BACK_CHANNEL = "back_channel"  # counting, while the user hums along
    BACKGROUND = "background"  # counting, while somebody else talks far away
    COMMENT = "comment"  # a card appears, nobody asks
    SILENCE = "silence"
    TYPED = "typed"  # a question about a card or a greeting, on the keyboard


@dataclasses.dataclass(frozen=True)
class Either(Generic[T]):
    """Choices of each split."""

    train: tuple[T, ...]
    heldout: tuple[T, ...]

    def of(self, split: Split) -> tuple[T, ...]:
        """The choices of one split."""
        return self.train if split is Split.TRAIN else self.heldout

    def pick(self, rng: np.random.Generator, split: Split) -> T:
        """One of them."""
        return pick(rng, self.of(split))


def pick(rng: np.random.Generator, choices: tuple[T, ...]) -> T:
    """One of the choices, each as likely."""
    return choices[int(rng.integers(len(choices)))]


class Answer(NamedTuple):
    """What the agent says, and the word in it that shows whether it is right."""

    text: str
    keyword: str


AGENT_NAME = "Wanda"
# What an independent recogniser understands best. Words begin with units, so that a word always has the same latents.
AGENT_VOICE = Voice("en-us+f5", words_per_min=190, pitch=65, word_ms=UNIT_MS)
PERSONA = "You are Wanda. You answer, repeat, count, and speak up when a card appears."

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring")
NUMBERS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
MAX_SHAPES = 4  # on a card

# Each colour and each shape is held out once, and met in training with six others.
PAIRS = Either(
    train=tuple(
        (c, s) for (i, c), (j, s) in itertools.product(enumerate(COLOURS), enumerate(SHAPES)) if (i + j) % 7 != 3
    ),
    heldout=tuple((c, SHAPES[(3 - i) % 7]) for i, c in enumerate(COLOURS)),
)

ACCENTS = ("en-us", "en", "en-gb-x-rp")
VARIANTS = Either(  # neither f5, which is the agent's, nor any that a recogniser does not understand
    train=(
        "m1",
        "m3",
        "m5",
        "f1",
        "f3",
        "f4",
        "adam",
        "announcer",
        "caleb",
        "david",
        "Hugo",
        "klatt4",
        "Reed",
        "victor",
    ),
    heldout=("m2", "m6", "f2", "benjamin", "sandro"),
)
THROATS = (86, 117)  # percent, the last is none of them
WORDS_PER_MIN = Either(train=(125, 135, 145, 155, 165, 175, 185), heldout=(130, 150, 170, 190))

ASK_COLOUR = Either(
    train=(
        "What colour | is this?",
        "What colour is the {shape}?",
        "Tell me | what colour this is.",
        "Which colour | do you see?",
        "Look at this card | and tell me its colour.",
    ),
    heldout=("Can you tell me | what colour that is?", "What is the colour | of the {shape}?"),
)
ASK_SHAPE = Either(
    train=(
        "What shape | is this?",
        "Tell me | what shape this is.",
        "Which shape | do you see?",
        "What is the {colour} shape?",
        "Look at this card | and tell me its shape.",
    ),
    heldout=("Can you tell me | what shape that is?", "Which shape | is {colour}?"),
)
ASK_HOW_MANY = Either(
    train=(
        "How many | are there?",
        "How many | do you see?",
        "How many shapes | are on the card?",
        "Tell me | how many there are.",
        "Look at this card | and count the shapes.",
    ),
    heldout=("Can you tell me | how many there are?", "How many of them | can you see?"),
)
NOTHING = Answer("I see nothing.", "nothing")

HELLO, MORNING = Answer("Hello!", "hello"), Answer("Good morning!", "morning")
FINE, WELCOME = Answer("I am fine, thank you.", "fine"), Answer("You are welcome.", "welcome")
NAME, GOODBYE = Answer(f"My name is {AGENT_NAME}.", AGENT_NAME.lower()), Answer("See you soon!", "soon")
GREETINGS = Either(
    train=(
        ("Hello!", HELLO),
        (f"Hello {AGENT_NAME}!", HELLO),
        ("Good morning!", MORNING),
        ("How are you?", FINE),
        ("Tell me, | how are you?", FINE),
        ("What is your name?", NAME),
        ("Who are you?", NAME),
        ("Thank you!", WELCOME),
        ("Thanks a lot!", WELCOME),
        ("Goodbye!", GOODBYE),
        (f"Goodbye {AGENT_NAME}!", GOODBYE),
    ),
    heldout=(
        ("Hello there!", HELLO),
        (f"Good morning {AGENT_NAME}!", MORNING),
        ("How are you today?", FINE),
        ("Tell me | your name.", NAME),
        ("Thank you very much!", WELCOME),
        ("Goodbye then!", GOODBYE),
    ),
)

ASK_REPEAT = Either(
    train=("Say {word}.", "Please say | {word}.", "Repeat after me, | {word}.", "Say after me, | {word}."),
    heldout=("Can you say | {word}?", "Please repeat | {word}."),
)
WORDS = (  # that the recogniser tells apart
    *("apple", "banana", "chocolate", "flower", "holiday", "jelly", "lemon", "mountain", "music", "orchestra"),
    *("penguin", "potato", "robot", "sunday", "teacher", "village", "window", "yesterday", "zebra"),
)

ASK_COUNT = Either(
    train=("Count to {number}.", "Please count | to {number}.", "Count up | to {number} please."),
    heldout=("Can you count | to {number}?", "Now count | to {number} for me."),
)
STOPS = Either(train=("Stop!", "Stop now!", "Stop please!"), heldout=("Stop it!", "Stop there!"))
BACK_CHANNELS = Either(train=("Mm-hmm.", "Yeah.", "Right.", "Okay.", "Uh-huh."), heldout=("I see.", "Good.", "Yes."))
FAR_TALK = Either(
    train=(
        "The train was late again this morning.",
        "We should buy some bread and milk.",
        "I left my keys on the table.",
        "It may rain in the afternoon.",
        "They moved to another house last year.",
        "Dinner will be ready at seven.",
    ),
    heldout=(
        "My sister is coming over tonight.",
        "The road is closed because of the snow.",
        "He never answers his phone.",
    ),
)


@dataclasses.dataclass(frozen=True)
class Card:
    """A card with one or more equal shapes."""

    colour: str
    shape: str
    count: int = 1

    @property
    def is_seen(self) -> bool:
        """Does training meet this colour with this shape?"""
        return (self.colour, self.shape) in PAIRS.train

    def answer(self, kind: Kind) -> Answer:
        """To a question about its colour, its shape or how many there are; to `Kind.COMMENT`, what is said unasked."""
        number, several = NUMBERS[self.count - 1], f"They are {_plural(self.shape)}."
        noun = f"{self.colour} {self.shape}"
        one = self.count == 1
        return {
            Kind.COLOUR: Answer(f"It is {self.colour}." if one else f"They are {self.colour}.", self.colour),
            Kind.SHAPE: Answer(f"It is {_article(self.shape)}." if one else several, self.shape),
            Kind.HOW_MANY: Answer(f"There {'is' if one else 'are'} {number}.", number),
            Kind.COMMENT: Answer(f"I see {_article(noun) if one else f'{number} {_plural(noun)}'}.", self.colour),
        }[kind]


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def repeating(word: str) -> Answer:
    """What an agent says that repeats a word."""
    return Answer(f"{word.capitalize()}.", word)


def counting(last: int, end: int | None = None) -> Answer:
    """What an agent says that counts to `last`: first how far, which tells it where to end. It may end before."""
    return Answer(f"Good, {NUMBERS[last - 1]}: {', '.join(NUMBERS[: end or last])}.", NUMBERS[last - 1])


def make_voice(rng: np.random.Generator, split: Split) -> Voice:
    """Somebody other than the agent; in training with a throat of any length, since there are so few variants."""
    name = f"{pick(rng, ACCENTS)}+{VARIANTS.pick(rng, split)}"
    voice = Voice(name, WORDS_PER_MIN.pick(rng, split), int(rng.integers(25, 76)), int(rng.integers(30, 71)))
    return dataclasses.replace(voice, throat=int(rng.integers(*THROATS))) if split is Split.TRAIN else voice


def make_card(rng: np.random.Generator, split: Split, count: int = 1) -> Card:
    """A card; of held-out sessions, every second one is of a held-out pair."""
    pairs = PAIRS.train if split is Split.TRAIN or rng.random() < 0.5 else PAIRS.heldout
    colour, shape = pick(rng, pairs)
    return Card(colour, shape, count)
