"""What an agent did in a session, whoever it is: pictures, sound, and what it wrote, on the session's clock."""

import dataclasses
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.timeline import UNIT_MS

_WORD = re.compile(r"[a-z']+")


class Written(NamedTuple):
    """Text that was written in a unit; a word may be spread over several."""

    unit: int
    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class Lived:
    """An agent's side of a session, as long as the session."""

    frames: UInt8[np.ndarray, "T h w 3"]
    samples: Float32[np.ndarray, " n"]  # at 24 kHz, in [-1, 1]
    written: tuple[Written, ...]


def words_of(text: str) -> list[str]:
    """Words in small letters, without punctuation."""
    return _WORD.findall(text.lower())


def words_between(written: Iterable[Written], start_ms: int, end_ms: int) -> list[str]:
    """The words written from the unit that holds `start_ms` to the one before that which holds `end_ms`."""
    first, beyond = start_ms // UNIT_MS, end_ms // UNIT_MS
    return words_of("".join(text for unit, text in written if first <= unit < beyond))
