"""Pictures from signed distances, many frames at once: areas with soft edges on a planar canvas.

Positions are in heights of the picture's room: y runs from 0 at its top to 1 at the bottom edge of the picture, x from
the middle to the right. A picture that is wider or taller than the room shows more around it, never less.

    T frames   h, w rows and columns of a picture or of a part of it
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.timeline import Picture

Colour = tuple[int, int, int]
Planes = np.ndarray  # [T, h, w], or ones in place of T, h and w where all are equal
Track = Float32[np.ndarray, "T 1 1"]  # a number for each frame
Number = float | Track

_FAR = 1e3  # beyond the edge of every picture
_CHUNK_PIXELS = 1 << 16  # of all frames drawn at once: what is drawn on stays in the cache


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where the room lies in a picture."""

    picture: Picture
    room_aspect: float  # width of the room over its height

    @property
    def pixels_per_height(self) -> float:
        """How large the room is drawn: as large as fits."""
        return min(float(self.picture.height), self.picture.width / self.room_aspect)

    def x_pixel(self, x: float) -> float:
        """Where `x` is, in pixels from the left."""
        return self.picture.width / 2 + x * self.pixels_per_height

    def y_pixel(self, y: float) -> float:
        """Where `y` is, in pixels from the top."""
        return self.picture.height + (y - 1) * self.pixels_per_height

    def column(self, x: float) -> int:
        """The column of pixels that `x` is in, or the nearest in the picture."""
        return int(np.clip(np.floor(self.x_pixel(x)), 0, self.picture.width))

    def row(self, y: float) -> int:
        """The row of pixels that `y` is in, or the nearest in the picture."""
        return int(np.clip(np.floor(self.y_pixel(y)), 0, self.picture.height))


@dataclasses.dataclass(frozen=True, eq=False)
class Patch:
    """A rectangle of a canvas: its pixels, to be painted on, and where their centres are."""

    pixels: Float32[np.ndarray, "3 T h w"]
    x: np.ndarray  # [1, 1, w]; [T, 1, w] where it moves, [T, h, w] where it turns
    y: np.ndarray  # [1, h, 1]; the same
    pixel: float  # size of one

    def moved(self, x: Number, y: Number) -> "Patch":
        """The same pixels, seen from a point."""
        return dataclasses.replace(self, x=self.x - x, y=self.y - y)

    def scaled(self, size: float) -> "Patch":
        """The same pixels, measured in units of `size`."""
        return Patch(self.pixels, self.x / size, self.y / size, self.pixel / size)

    def turned(self, angle: Number) -> "Patch":
        """The same pixels, turned around the origin."""
        cosine, sine = np.cos(angle), np.sin(angle)
        return dataclasses.replace(self, x=self.x * cosine + self.y * sine, y=self.y * cosine - self.x * sine)

    def crop(self, left: float, top: float, right: float, bottom: float) -> "Patch":
        """The pixels that in some frame lie between these positions; not of a patch that was turned."""
        columns = _span((self.x >= left - 2 * self.pixel) & (self.x <= right + 2 * self.pixel), axis=2)
        rows = _span((self.y >= top - 2 * self.pixel) & (self.y <= bottom + 2 * self.pixel), axis=1)
        return Patch(self.pixels[:, :, rows, columns], self.x[:, :, columns], self.y[:, rows], self.pixel)

    def fill(self, distance: np.ndarray, colour: "Colour | Shade", alpha: Number = 1.0, soft: float = 0.0) -> None:
        """Paint where `distance` is negative; the edge is one pixel wide, or `soft` if that is more."""
        cover = np.float32(-1 / max(soft, self.pixel)) * distance
        cover += np.float32(0.5)
        np.clip(cover, 0, 1, out=cover)
        if not isinstance(alpha, float) or alpha != 1:
            cover = cover * np.float32(alpha)
        channels = colour.channels if isinstance(colour, Shade) else colour
        for i, value in enumerate(channels):
            self.pixels[i] += cover * (value - self.pixels[i])

    def ellipse(self, x: Number, y: Number, half_width: Number, half_height: Number) -> Planes:
        """Distance to an ellipse; exact on its edge."""
        u, v = (self.x - x) / half_width, (self.y - y) / half_height
        near = np.sqrt(u * u + v * v) + np.float32(1e-6)
        u, v = u / half_width, v / half_height
        return near * (near - 1) / (np.sqrt(u * u + v * v) + np.float32(1e-6))

    def disc(self, x: Number, y: Number, radius: Number) -> Planes:
        """Distance to a disc."""
        u, v = self.x - x, self.y - y
        return np.sqrt(u * u + v * v) - radius

    def line(self, start: tuple[Number, Number], end: tuple[Number, Number], radius: Number) -> Planes:
        """Distance to a thick line with round ends."""
        (x, y), (dx, dy) = start, (end[0] - start[0], end[1] - start[1])
        u, v = self.x - x, self.y - y
        along = np.clip((u * dx + v * dy) / (dx * dx + dy * dy), 0, 1)
        u, v = u - along * dx, v - along * dy
        return np.sqrt(u * u + v * v) - radius

    def box(self, x: Number, y: Number, half_width: Number, half_height: Number, corner: float = 0.0) -> Planes:
        """Distance to a rectangle with round corners, less exact outside them when there are none."""
        u, v = np.abs(self.x - x) - (half_width - corner), np.abs(self.y - y) - (half_height - corner)
        outside = np.maximum(u, v)
        if corner == 0:
            return outside
        a, b = np.maximum(u, 0), np.maximum(v, 0)
        return np.sqrt(a * a + b * b) + np.minimum(outside, 0) - corner


@dataclasses.dataclass(frozen=True, eq=False)
class Shade:
    """A colour for each pixel."""

    channels: tuple[np.ndarray, ...]

    @classmethod
    def between(cls, a: Colour, b: Colour, share: np.ndarray) -> "Shade":
        """`a` where the share is 0 or less, `b` where it is 1 or more."""
        share = np.clip(share, 0, 1)
        return cls(tuple(p + share * (q - p) for p, q in zip(a, b, strict=True)))


@dataclasses.dataclass(frozen=True, eq=False)
class Canvas:
    """Some frames of a picture that are drawn together."""

    frame: Frame
    pixels: Float32[np.ndarray, "3 T H W"]

    @classmethod
    def blank(cls, frame: Frame) -> "Canvas":
        """One black frame."""
        return cls(frame, np.zeros((3, 1, frame.picture.height, frame.picture.width), np.float32))

    def copies(self, n_frames: int) -> "Canvas":
        """This frame, so many times."""
        return Canvas(self.frame, np.repeat(self.pixels, n_frames, axis=1))

    def frames(self, first: int, last: int) -> "Canvas":
        """Some of its frames, to be painted on."""
        return Canvas(self.frame, self.pixels[:, first:last])

    def patch(self, left: float, top: float, right: float, bottom: float) -> Patch:
        """The part of the canvas between these positions, and a pixel more on each side."""
        frame, pixel = self.frame, 1 / self.frame.pixels_per_height
        c0, c1 = frame.column(left - pixel), frame.column(right + 2 * pixel)
        r0, r1 = frame.row(top - pixel), frame.row(bottom + 2 * pixel)
        x = (np.arange(c0, c1) + 0.5 - frame.picture.width / 2) * pixel
        y = (np.arange(r0, r1) + 0.5 - frame.picture.height) * pixel + 1
        x, y = x.astype(np.float32).reshape(1, 1, -1), y.astype(np.float32).reshape(1, -1, 1)
        return Patch(self.pixels[:, :, r0:r1, c0:c1], x, y, pixel)

    @property
    def whole(self) -> Patch:
        """All of it."""
        return self.patch(-_FAR, -_FAR, _FAR, _FAR)


def _span(inside: np.ndarray, axis: int) -> slice:
    """From the first to the last place along an axis where anything is inside."""
    found = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
    return slice(int(found[0]), int(found[-1]) + 1)


def darker(colour: Colour, by: float) -> Colour:
    """The colour at so much of its brightness."""
    r, g, b = (int(min(c * by, 255)) for c in colour)
    return r, g, b


def track(values: np.ndarray) -> Track:
    """A number for each frame, to be used like a number."""
    return values.astype(np.float32).reshape(-1, 1, 1)


def draw_frames(
    background: Canvas, n_frames: int, draw: Callable[[Canvas, slice], None]
) -> UInt8[np.ndarray, "n H W 3"]:
    """Draw on copies of a background; `draw` is given some frames at a time, and which they are."""
    picture = background.frame.picture
    frames = np.empty((n_frames, picture.height, picture.width, 3), np.uint8)
    step = max(1, _CHUNK_PIXELS // (picture.width * picture.height))
    for start in range(0, n_frames, step):
        which = slice(start, min(start + step, n_frames))
        canvas = background.copies(which.stop - which.start)
        draw(canvas, which)
        rounded = np.clip(canvas.pixels, 0, 255) + np.float32(0.5)
        frames[which] = rounded.transpose(1, 2, 3, 0)
    return frames
