"""Mouth shapes: which one a phoneme is spoken with, and how a mouth moves from one to the next.

Phonemes are espeak-ng's for English. A diphthong is two shapes, one after the other.
"""

import enum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int8

from wanstreamer_jax.data.world.speech import Span
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, VIDEO_FPS


class Viseme(enum.IntEnum):
    """A shape of the mouth."""

    REST = 0
    LIPS = 1  # p b m
    LIP_TEETH = 2  # f v
    TONGUE = 3  # th l
    TEETH = 4  # t d n s z
    THROAT = 5  # k g ng h
    PUCKER = 6  # w r sh ch, and the vowel of "two"
    WIDE = 7  # the vowels of "three" and "six"
    MIDDLE = 8  # of "red" and "the"
    ROUND = 9  # of "four" and "no"
    OPEN = 10  # of "star" and "black"


class MouthShape(NamedTuple):
    """How far a mouth is open and how wide it is, both from 0 to 1, and how strongly it insists on that."""

    opening: float
    width: float
    weight: float


SHAPES = {
    Viseme.REST: MouthShape(0.0, 0.6, 1.0),
    Viseme.LIPS: MouthShape(0.0, 0.5, 3.0),
    Viseme.LIP_TEETH: MouthShape(0.12, 0.6, 2.0),
    Viseme.TONGUE: MouthShape(0.3, 0.6, 0.8),
    Viseme.TEETH: MouthShape(0.2, 0.65, 0.8),
    Viseme.THROAT: MouthShape(0.3, 0.6, 0.6),
    Viseme.PUCKER: MouthShape(0.35, 0.1, 1.2),
    Viseme.WIDE: MouthShape(0.5, 1.0, 1.2),
    Viseme.MIDDLE: MouthShape(0.65, 0.75, 1.2),
    Viseme.ROUND: MouthShape(0.8, 0.3, 1.4),
    Viseme.OPEN: MouthShape(1.0, 0.7, 1.4),
}

# The longest name that a phoneme begins with counts, once stress marks are gone.
_BEGINNINGS = {
    Viseme.LIPS: "p b m",
    Viseme.LIP_TEETH: "f v",
    Viseme.TONGUE: "T D l",
    Viseme.TEETH: "t d n s z ? *",
    Viseme.THROAT: "k g N h x",
    Viseme.PUCKER: "w r S Z tS dZ u u: U",
    Viseme.WIDE: "i i: I j",
    Viseme.MIDDLE: "e E @ 3",
    Viseme.ROUND: "o O",
    Viseme.OPEN: "a A V 0",
}
_VISEME_OF = {name: viseme for viseme, names in _BEGINNINGS.items() for name in names.split()}
_SECOND_HALF = {"aI": Viseme.WIDE, "eI": Viseme.WIDE, "OI": Viseme.WIDE, "aU": Viseme.PUCKER, "oU": Viseme.PUCKER}
_STOPS = tuple("pbtdkg")
_CLOSURE_MS = 40  # espeak-ng marks a stop where it bursts; the mouth closes before

_FINE_HZ = 8 * VIDEO_FPS  # mouths are tracked so finely, then seen by the camera
_SMOOTH_MS = 26  # standard deviation of how far a shape reaches into its neighbours


class MouthTrack(NamedTuple):
    """The mouth in each frame: the shape it is on its way to, and where it is."""

    viseme: Int8[np.ndarray, " T"]
    opening: Float32[np.ndarray, " T"]  # 0 closed, 1 wide open
    width: Float32[np.ndarray, " T"]  # 0 pursed, 1 spread


def visemes_of(phoneme: str) -> tuple[Viseme, ...]:
    """The shape or the two shapes of a phoneme; unknown ones are spoken with the mouth half open."""
    name = phoneme.strip("',%=|")
    known = (name[:n] for n in range(len(name), 0, -1) if name[:n] in _VISEME_OF)
    first = _VISEME_OF.get(next(known, ""), Viseme.MIDDLE)
    return (first, _SECOND_HALF[name[:2]]) if name[:2] in _SECOND_HALF else (first,)


def mouth_track(phonemes: list[Span], n_frames: int) -> MouthTrack:
    """The mouth that says `phonemes`, whose times are samples since the first frame."""
    fine = np.zeros(n_frames * _FINE_HZ // VIDEO_FPS, np.int8)
    for phoneme in phonemes:
        shapes = visemes_of(phoneme.text)
        early = _CLOSURE_MS * SAMPLE_RATE_HZ // 1000 if phoneme.text.startswith(_STOPS) else 0
        bounds = np.linspace(phoneme.start - early, phoneme.end, len(shapes) + 1) * _FINE_HZ / SAMPLE_RATE_HZ
        for shape, start, end in zip(shapes, bounds[:-1], bounds[1:], strict=True):
            fine[max(round(start), 0) : max(round(end), 0)] = shape
    opening, width, weight = np.array([SHAPES[v] for v in Viseme], np.float64).T[:, fine]
    total = _smooth(weight)
    middle = slice(_FINE_HZ // VIDEO_FPS // 2, None, _FINE_HZ // VIDEO_FPS)
    tracks = (_smooth(weight * values) / total for values in (opening, width))
    return MouthTrack(fine[middle], *(values[middle].astype(np.float32) for values in tracks))


def _smooth(values: np.ndarray) -> np.ndarray:
    sigma = _SMOOTH_MS * _FINE_HZ / 1000
    reach = round(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
