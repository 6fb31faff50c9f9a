"""What is said and typed in tasks: the world's phrasings, and lists of words that only the ear can tell."""

import numpy as np

from wanstreamer_jax.data.world.lexicon import (
    ASK_COLOUR,
    ASK_COUNT,
    ASK_HOW_MANY,
    ASK_REPEAT,
    ASK_SHAPE,
    COLOURS,
    FAR_TALK,
    GREETINGS,
    MAX_SHAPES,
    NUMBERS,
    SHAPES,
    STOPS,
    WORDS,
    Answer,
    Card,
    Kind,
    Split,
    counting,
    make_card,
    pick,
    repeating,
)

_PHRASINGS = (ASK_COLOUR, ASK_SHAPE, ASK_HOW_MANY, ASK_REPEAT, ASK_COUNT, STOPS)
_ASKED = {
    word.strip("|.,?!").lower()
    for asking in _PHRASINGS
    for text in (*asking.train, *asking.heldout)
    for word in text.split()
}
_KNOWN = (*WORDS, *COLOURS, *SHAPES, *NUMBERS)
# A list begins with one of the first. Words of held-out phrasings are heard in lists, so that only phrasings are new.
LISTED = (*_KNOWN, *sorted(word for word in _ASKED if word.isalpha() and word not in _KNOWN))
_ASK = {Kind.COLOUR: ASK_COLOUR, Kind.SHAPE: ASK_SHAPE, Kind.HOW_MANY: ASK_HOW_MANY}
_COUNTED = (2, 8)
_SPOKEN = (Kind.GREETING, Kind.REPEAT, Kind.COUNT, Kind.COUNT)  # numbers are the hardest to tell
_GUESSED = 4  # of twelve sentences: who has heard their beginning knows the rest, and need not listen


def make_sentence(rng: np.random.Generator, split: Split) -> str:
    """Something to be said, of a split's phrasings, cards and neighbours in lists."""
    kind = int(rng.integers(12))
    if kind >= _GUESSED:
        return make_word_list(rng, split)
    if kind == 0:
        return FAR_TALK.pick(rng, split)
    if kind == 1:
        return make_card(rng, split, int(rng.integers(1, MAX_SHAPES + 1))).answer(Kind.COMMENT).text
    if kind == 2:
        return _of_card(rng, split)
    return make_dialogue(rng, split)[0]


def make_answer(rng: np.random.Generator, split: Split) -> str:
    """Something that the world's agent says, or a part of it; single words most often: it has more of them."""
    kind = int(rng.integers(8))
    if kind < 3:
        return repeating(pick(rng, WORDS)).text
    if kind == 3:
        return GREETINGS.pick(rng, split)[1].text
    if kind == 4:
        first = int(rng.integers(len(NUMBERS) - 2))
        return f"Good, {', '.join(NUMBERS[first : first + 3])}."
    about = pick(rng, (Kind.COLOUR, Kind.SHAPE, Kind.HOW_MANY, Kind.COMMENT, Kind.COMMENT))
    return make_card(rng, split, int(rng.integers(1, MAX_SHAPES + 1))).answer(about).text


def make_word_list(rng: np.random.Generator, split: Split) -> str:
    """Two to five words, most of which tell what is asked; no two that stand side by side do so in the other split."""
    places = [int(rng.integers(len(WORDS)))]
    for _ in range(int(rng.integers(1, 5))):
        free = [i for i in range(len(LISTED)) if i not in places]
        follows = [i for i in free if is_heldout_pair(places[-1], i) is (split is Split.HELDOUT)]
        places += [pick(rng, tuple(follows))] if follows else []
    return (", ".join(LISTED[i] for i in places) + ".").capitalize()


def is_heldout_pair(first: int, second: int) -> bool:
    """Whether two words, by their places in `LISTED`, stand side by side in held-out lists only: one pair in seven."""
    return (first + second) % 7 == 3


def _of_card(rng: np.random.Generator, split: Split) -> str:
    """A question about a card that the speaker names."""
    card = make_card(rng, split)
    phrasing = pick(rng, (*ASK_COLOUR.of(split), *ASK_SHAPE.of(split), *ASK_HOW_MANY.of(split)))
    return _without_pauses(phrasing).format(colour=card.colour, shape=card.shape)


def make_dialogue(rng: np.random.Generator, split: Split) -> tuple[str, Answer]:
    """Something that is typed, and the answer to it."""
    about = pick(rng, (Kind.GREETING, Kind.REPEAT, Kind.COUNT, *_ASK))
    if about not in _ASK:
        phrasing, answer = _for_ears(rng, split, about, _COUNTED)
        return _without_pauses(phrasing), answer
    card = make_card(rng, split, int(rng.integers(1, MAX_SHAPES + 1)))
    asked = pick(rng, tuple(p for p in _ASK[about].of(split) if "{" not in p))
    return f"I hold {noun_of(card)}. {_without_pauses(asked)}", card.answer(about)


def make_spoken_dialogue(rng: np.random.Generator, split: Split) -> tuple[Kind, str, Answer]:
    """A question that needs no eyes, with the pauses that it may have, and its answer; every number is as likely."""
    kind = pick(rng, _SPOKEN)
    return kind, *_for_ears(rng, split, kind, (1, len(NUMBERS)))


def _for_ears(rng: np.random.Generator, split: Split, kind: Kind, counted: tuple[int, int]) -> tuple[str, Answer]:
    if kind is Kind.GREETING:
        return GREETINGS.pick(rng, split)
    if kind is Kind.REPEAT:
        word = pick(rng, WORDS)
        return ASK_REPEAT.pick(rng, split).format(word=word), repeating(word)
    last = int(rng.integers(counted[0], counted[1] + 1))
    return ASK_COUNT.pick(rng, split).format(number=NUMBERS[last - 1]), counting(last)


def noun_of(card: Card) -> str:
    """What it is called: "a red circle", "three red circles"."""
    return card.answer(Kind.COMMENT).text.removeprefix("I see ").removesuffix(".")


def _without_pauses(phrasing: str) -> str:
    return phrasing.replace("| ", "")
