"""The agent's picture: a drawn person, close up or behind a desk, and how far its mouth is open in the pixels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.data.world import head
from wanstreamer_jax.data.world.drawing import Canvas, Frame, Patch, draw_frames, track
from wanstreamer_jax.data.world.identity import Composition, Identity, Pose
from wanstreamer_jax.data.world.scenery import draw_body, draw_desk, draw_room
from wanstreamer_jax.timeline import Picture


class _Place(NamedTuple):
    """Where the face is, its unit in heights of the room, and how wide the room is."""

    y: float
    unit: float
    room_aspect: float


_PLACES = {
    Composition.CLOSE_UP: _Place(0.47, 1.0, 1.1),
    Composition.MID_SHOT: _Place(0.31, 0.64, 1.3),
}
_BLINK_FRAMES = 7  # shorter than half of them: a blink, longer: a nod
_LIP_RED, _INSIDE_RED = 0.75, 0.3  # of the red of the skin around: not darker, not lighter


class PixelBox(NamedTuple):
    """Rows and columns of pixels."""

    rows: slice
    columns: slice


def portray(identity: Identity, composition: Composition, picture: Picture, pose: Pose) -> UInt8[np.ndarray, "n H W 3"]:
    """Draw the agent in every frame of a pose."""
    place = _PLACES[composition]
    background = Canvas.blank(Frame(picture, place.room_aspect))
    draw_room(background.whole, identity.wall)

    def draw(canvas: Canvas, which: slice) -> None:
        now = Pose(*(track(curve[which]) for curve in pose))
        around = _around_face(canvas, place)
        near = around.crop(*head.REACH)
        outline, features = head.outline(near, now), head.features(near, now)
        head.draw_back_hair(outline, identity)
        draw_body(around, identity, now, bottom=(1 - place.y) / place.unit)
        head.draw_head(outline, features, identity, now)
        if composition is Composition.MID_SHOT:
            draw_desk(canvas.whole, identity, now)

    return draw_frames(background, len(pose.opening), draw)


def _around_face(canvas: Canvas, place: _Place) -> Patch:
    """All of a canvas, seen from the middle of a face at rest, in units of the face."""
    return canvas.whole.moved(0.0, place.y).scaled(place.unit)


def measure_nod(
    frames: UInt8[np.ndarray, "n H W 3"], portrait: UInt8[np.ndarray, "H W 3"], composition: Composition
) -> Float32[np.ndarray, " n"]:
    """How far the features are below where they are at rest, in heights of the picture's room.

    That is how far the rows of the portrait's face above its mouth have to be moved to be most like the frame's; the
    median of some frames, since lids that blink move too.
    """
    place, picture = _PLACES[composition], Picture(frames.shape[2], frames.shape[1])
    frame = Frame(picture, place.room_aspect)
    columns = slice(frame.column(-0.16 * place.unit), frame.column(0.16 * place.unit) + 1)
    rows = np.arange(frame.row(place.y - 0.14 * place.unit), frame.row(place.y + 0.1 * place.unit) + 1)
    profiles = frames[:, :, columns].mean(axis=(2, 3))  # [n, H]
    at_rest = portrait[rows, columns].mean(axis=(1, 2))
    shifts = np.linspace(-0.04, 0.08, 49) * frame.pixels_per_height
    every_row = np.arange(picture.height)
    moved = np.stack([[np.interp(rows + s, every_row, p) for s in shifts] for p in profiles])  # [n, shifts, rows]
    best = np.argmin(np.sum((moved - at_rest) ** 2, axis=2), axis=1)
    lowered = np.pad(shifts[best] / frame.pixels_per_height, _BLINK_FRAMES // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(lowered, _BLINK_FRAMES), axis=1).astype(np.float32)


def mouth_box(composition: Composition, picture: Picture) -> PixelBox:
    """What holds the mouth and nothing else that is dark, whoever the agent is and whatever it does."""
    return _box(head.MOUTH_BOX, composition, picture)


def face_box(composition: Composition, picture: Picture) -> PixelBox:
    """What holds hair, forehead, eyes and nose of a head at rest."""
    return _box(head.FACE_BOX, composition, picture)


def _box(edges: tuple[float, float, float, float], composition: Composition, picture: Picture) -> PixelBox:
    place = _PLACES[composition]
    frame = Frame(picture, place.room_aspect)
    left, top, right, bottom = (edge * place.unit for edge in edges)
    rows = slice(frame.row(place.y + top), frame.row(place.y + bottom) + 1)
    return PixelBox(rows, slice(frame.column(left), frame.column(right) + 1))


def measure_opening(frames: UInt8[np.ndarray, "n H W 3"], composition: Composition) -> Float32[np.ndarray, " n"]:
    """How far the mouth is open in pictures of any identity: the dark share of the mouth box, from 0 up.

    Red light tells the inside of a mouth from lips and skin, which are about as red as each other.
    """
    box = mouth_box(composition, Picture(frames.shape[2], frames.shape[1]))
    red = frames[:, box.rows, box.columns, 0].reshape(len(frames), -1).astype(np.float32)
    skin = np.maximum(np.percentile(red, 75, axis=1, keepdims=True), 1)
    dark = np.clip((_LIP_RED - red / skin) / (_LIP_RED - _INSIDE_RED), 0, 1)
    return np.mean(dark, axis=1).astype(np.float32)
