"""What is counted as taken or missed, and how sure a share of few chances is."""

import enum
from typing import NamedTuple

import numpy as np

_Z = 1.96  # of a 95 % interval


class Share(enum.StrEnum):
    """Shares of chances."""

    ANSWER_SEEN = "answer_seen"
    ANSWER_UNSEEN = "answer_unseen"
    ANSWER_TYPED = "answer_typed"
    ANSWER_OTHER = "answer_other"
    HEARD = "heard"
    IN_TIME = "in_time"
    TYPED_IN_TIME = "typed_in_time"
    FALSE_START = "false_start"
    SPEAKING = "speaking"
    STOPPED = "stopped"
    HELD = "held"
    COMMENTED = "commented"
    COMMENT_RIGHT = "comment_right"
    UNASKED = "unasked"


BAD = (Share.FALSE_START, Share.UNASKED)  # better missed than taken


class Chance(NamedTuple):
    """One chance, taken or missed."""

    share: Share
    taken: bool


def interval(taken: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: what it may be where so many of so many chances were taken."""
    share, widening = taken / n, _Z**2 / n
    middle = (share + widening / 2) / (1 + widening)
    half = _Z * float(np.sqrt(share * (1 - share) / n + widening / (4 * n))) / (1 + widening)
    return max(0.0, middle - half), min(1.0, middle + half)
