"""What of an agent is seen besides its mouth: nods, whether it is still the one of the portrait, brightness."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8

from wanstreamer_jax.data.world import Composition, Labels, face_box, measure_nod
from wanstreamer_jax.evaluation.voice import Span, marked
from wanstreamer_jax.timeline import FRAME_MS, Picture

NOD_HEIGHT = 0.018  # of the room: a third of a nod close up, half of one further away
LISTENS_ON_MS = 400  # after the user has spoken, while a nod that began still shows
LOOK_HEIGHT = 64  # pixels: larger pictures are made smaller before they are compared
IDENTITY_EVERY = 5  # frames: five looks a second
_REACH = 0.06  # of the picture's height: so far a face moves when it nods or turns

Frames = UInt8[np.ndarray, "T h w 3"]


class Nods(NamedTuple):
    """How often the agent nods while the user speaks, and while nobody does."""

    listening: int
    listening_ms: int
    idle: int
    idle_ms: int


def count_nods(frames: Frames, portrait: UInt8[np.ndarray, "h w 3"], labels: Labels, agent_spoken: list[Span]) -> Nods:
    """Nods in the pixels, each where it begins; those while the agent speaks are not counted."""
    is_low = measure_nod(frames, portrait, labels.composition) > NOD_HEIGHT
    begins = is_low & ~np.concatenate([[False], is_low[:-1]])
    heard = [(start_ms, end_ms + LISTENS_ON_MS) for start_ms, end_ms in labels.user_ms]
    listens, speaks = (marked(spans, len(frames), FRAME_MS) for spans in (heard, agent_spoken))
    listening, idle = listens & ~speaks, ~listens & ~speaks
    return Nods(
        listening=int(np.sum(begins & listening)),
        listening_ms=int(np.sum(listening)) * FRAME_MS,
        idle=int(np.sum(begins & idle)),
        idle_ms=int(np.sum(idle)) * FRAME_MS,
    )


def identity(frames: Frames, portrait: UInt8[np.ndarray, "h w 3"], composition: Composition) -> float:
    """How much the face is like the portrait's: 1 is the same, 0 nothing alike. The median over looks.

    Of one look: the correlation (Pearson's) of all colours of the portrait's face, hair included and mouth left out,
    with those of the frame, at the place near the portrait's where it is largest.
    """
    box = face_box(composition, Picture(frames.shape[2], frames.shape[1]))
    scale = max(1, frames.shape[1] // LOOK_HEIGHT)
    reach = max(1, round(_REACH * frames.shape[1] / scale))
    padding = ((0, 0), (scale * reach, scale * reach), (scale * reach, scale * reach), (0, 0))
    looks = np.pad(frames[::IDENTITY_EVERY], padding, mode="edge")
    face = _small(portrait[None, box.rows, box.columns], scale)[0]
    high = slice(box.rows.start, box.rows.stop + 2 * scale * reach)
    wide = slice(box.columns.start, box.columns.stop + 2 * scale * reach)
    around = _small(looks[:, high, wide], scale)
    height, width = face.shape[:2]
    shifts = itertools.product(range(2 * reach + 1), repeat=2)
    likeness = [_alike(face, around[:, r : r + height, c : c + width]) for r, c in shifts]
    return float(np.median(np.max(likeness, axis=0)))


def _small(frames: Frames, scale: int) -> Float64[np.ndarray, "n H W 3"]:
    """Each pixel the mean of `scale` times `scale`."""
    n, h, w, _ = frames.shape
    h, w = h // scale, w // scale
    cut = frames[:, : h * scale, : w * scale].astype(np.float64)
    return cut.reshape(n, h, scale, w, scale, 3).mean(axis=(2, 4))


def _alike(face: np.ndarray, looks: np.ndarray) -> Float64[np.ndarray, " n"]:
    a, b = face.reshape(-1), looks.reshape(len(looks), -1)
    a, b = a - a.mean(), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.sum(a * a) * np.sum(b * b, axis=1))
    return np.divide(b @ a, norm, out=np.zeros(len(b)), where=norm > 0)


def brightness(frames: Frames) -> float:
    """The mean of all pixels, from 0 to 1."""
    return float(np.mean(frames, dtype=np.float64)) / 255
