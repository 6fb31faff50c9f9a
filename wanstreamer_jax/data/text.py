"""Words in time as tokens in units: a stream of text that is never early, loses nothing and keeps its order.

    words      due in unit 0: "one two"     1: -     2: "three"           4 tokens a unit, the last one <unit_end>
    unit 0     one two two' .
    unit 1     two'' .                      a word's tokens that do not fit move on
    unit 2     three .

A word is a word of `words.jsonl`; joined by spaces they are what a person reads.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from wanstreamer_jax.timeline import AUDIO_LATENT_MS, UNIT_MS
from wanstreamer_jax.tokens import Tokenizer

TOLD_LATE_MS = AUDIO_LATENT_MS  # a token of hearing


class Due(NamedTuple):
    """A word's tokens and the first unit in which they may stand."""

    unit: int
    ids: list[int]


class UnitText(NamedTuple):
    """Text of U units of at most N tokens; unused places are 0."""

    ids: Int32[np.ndarray, "U N"]
    n: Int32[np.ndarray, " U"]
    n_moved: Int32[np.ndarray, " U"]  # words that end in this unit and were due in an earlier one
    left_over: list[int]  # what stands after the last unit


def unit_of_start(start_ms: int) -> int:
    """The unit in which something begins."""
    return start_ms // UNIT_MS


def unit_of_end(end_ms: int) -> int:
    """The unit in which something has been heard or typed: what ends with a unit was in it."""
    return max(0, end_ms - 1) // UNIT_MS


def unit_of_told(end_ms: int) -> int:
    """The unit in which something that was said can be told: the sound that follows it tells its end."""
    return unit_of_end(end_ms + TOLD_LATE_MS)


def tokenise(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each word, with the space before it but for the first: together they are the text."""
    return [tokenizer.encode(f" {text}" if i else text) for i, text in enumerate(texts)]


def lay_out(words: Sequence[Due], n_units: int, most: int, unit_end: int | None = None) -> UnitText:
    """Put words, in the order in which they are due, into units of at most `most` tokens.

    With `unit_end`, every unit ends with that token, which is one of the `most`.
    """
    ids, n = np.zeros((n_units, most), np.int32), np.zeros(n_units, np.int32)
    ending = [] if unit_end is None else [unit_end]
    coming, waiting, n_moved = deque(words), deque[tuple[int, int, bool]](), np.zeros_like(n)
    for unit in range(n_units):
        while coming and coming[0].unit <= unit:
            due = coming.popleft()
            waiting.extend((i, due.unit, j == len(due.ids)) for j, i in enumerate(due.ids, 1))
        taken = [waiting.popleft() for _ in range(min(len(waiting), most - len(ending)))]
        n_moved[unit] = sum(is_last and due < unit for _, due, is_last in taken)
        row = [i for i, _, _ in taken] + ending
        ids[unit, : len(row)], n[unit] = row, len(row)
    left_over = [i for i, _, _ in waiting] + [i for due in coming for i in due.ids]
    return UnitText(ids, n, n_moved, left_over)
