"""Is an answer right? Its key word is among the words, and none that it is not; a count goes from one to it."""

import enum
from collections.abc import Sequence

from wanstreamer_jax.data.world import Kind, Turn
from wanstreamer_jax.data.world.lexicon import COLOURS, NUMBERS, SHAPES

_COUNTS = (Kind.COUNT, Kind.BACK_CHANNEL, Kind.BACKGROUND)
_RIVALS = {Kind.COLOUR: COLOURS, Kind.COMMENT: COLOURS, Kind.SHAPE: SHAPES, Kind.HOW_MANY: NUMBERS}


class Group(enum.StrEnum):
    """Turns whose answers are counted together."""

    SEEN = "seen"  # a question about a card whose colour and shape training has met together
    UNSEEN = "unseen"
    TYPED = "typed"
    COMMENT = "comment"
    OTHER = "other"  # greetings, words to repeat, counts, and cards that are not there


def group_of(turn: Turn) -> Group | None:
    """The group of a turn; None of one that is to be interrupted, and so has no answer to be right."""
    if turn.kind is Kind.STOP:
        return None
    if turn.kind is Kind.TYPED:
        return Group.TYPED
    if turn.kind is Kind.COMMENT:
        return Group.COMMENT
    if turn.is_seen_pair is None:
        return Group.OTHER
    return Group.SEEN if turn.is_seen_pair else Group.UNSEEN


def is_right(turn: Turn, words: Sequence[str]) -> bool:
    """Whether words answer a turn: an agent that names every colour has not named one, nor one that counts on."""
    if turn.about in _COUNTS:
        return NUMBERS[0] in words[:-1] and words[-1] == turn.keyword
    rivals = [word for word in _RIVALS.get(turn.about, ()) if word != turn.keyword]
    return _holds(words, turn.keyword) and not any(_holds(words, rival) for rival in rivals)


def _holds(words: Sequence[str], noun: str) -> bool:
    """One or several of it."""
    return any(form in words for form in (noun, f"{noun}s", f"{noun}es"))
