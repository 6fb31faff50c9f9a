"""The user's camera: cards with coloured shapes, held up by a hand before a room. It sees noise and uneven light."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from wanstreamer_jax.data.world.drawing import (
    Canvas,
    Colour,
    Frame,
    Patch,
    Planes,
    Shade,
    darker,
    draw_frames,
    track,
)
from wanstreamer_jax.data.world.lexicon import Card
from wanstreamer_jax.data.world.motion import Curve, frame_ms, frame_range, through
from wanstreamer_jax.timeline import VIDEO_FPS, Picture

PALETTE: dict[str, Colour] = {
    "red": (208, 32, 36),
    "orange": (244, 134, 24),
    "yellow": (246, 214, 40),
    "green": (40, 156, 66),
    "blue": (36, 88, 206),
    "purple": (128, 48, 160),
    "black": (26, 26, 30),
}
PAPER = (232, 228, 218)
ROOM_ASPECT = 1.7
HALF_CARD = 0.33
_BELOW, _SEEN = 1.5, 0.8  # y of the middle of a card that is out of view, or mostly in view
_SWAY = 0.01  # no hand is still
_HALF_ONE, _HALF_SOME = 0.215, 0.115  # of a shape that is alone on its card, or not
_PLACES: dict[int, tuple[tuple[float, float], ...]] = {
    1: ((0.0, 0.0),),
    2: ((-0.15, 0.0), (0.15, 0.0)),
    3: ((0.0, -0.15), (-0.15, 0.14), (0.15, 0.14)),
    4: ((-0.15, -0.15), (0.15, -0.15), (-0.15, 0.14), (0.15, 0.14)),
}


@dataclasses.dataclass(frozen=True)
class Showing:
    """A card held up: it rises until `settled_ms`, moves about, sinks from `leave_ms` until `gone_ms`."""

    card: Card
    appear_ms: int
    settled_ms: int
    places: tuple[tuple[int, float, float], ...]  # ms, x, y: where it rests, in heights of the picture
    leave_ms: int | None = None  # none: it stays
    gone_ms: int | None = None

    @classmethod
    def still(cls, card: Card, x: float, y: float) -> "Showing":
        """A card that has been held up for a while."""
        return cls(card, -1000, -500, ((-500, x, y),))

    def middle(self, n_frames: int) -> tuple[Curve, Curve]:
        """Where its middle is in each frame: x and y."""
        _, first_x, _ = self.places[0]
        stops = [(self.appear_ms, first_x, _BELOW), *self.places]
        if self.leave_ms is not None and self.gone_ms is not None:
            _, x, y = self.places[-1]
            stops += [(self.leave_ms, x, y), (self.gone_ms, x, _BELOW)]
        at = frame_ms(n_frames) / 1000
        x_at = through(((ms, x) for ms, x, _ in stops), n_frames) + _SWAY * np.sin(2.3 * at)
        y_at = through(((ms, y) for ms, _, y in stops), n_frames) + _SWAY * np.sin(3.1 * at)
        return x_at, y_at

    def seen(self, n_frames: int) -> list[int]:
        """The frames in which most of it is in view."""
        _, y = self.middle(n_frames)
        return np.flatnonzero(y < _SEEN).tolist()


def somewhere(rng: np.random.Generator) -> tuple[float, float]:
    """Where somebody holds up a card: x and y of its middle."""
    return float(rng.uniform(-0.5, 0.5)), float(rng.uniform(0.42, 0.54))


@dataclasses.dataclass(frozen=True)
class Look:
    """How a camera sees: the room behind, who holds the cards, light and noise."""

    room: int  # a seed
    skin: Colour
    sleeve: Colour
    light: tuple[float, float, float]  # gain of each channel
    noise: float  # standard deviation, of 255
    tilt: float  # how far cards lean as they sway, in radians

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Look":
        """Some look."""
        skins = ((238, 196, 164), (214, 162, 126), (164, 112, 80), (108, 72, 52))
        gain = rng.uniform(0.85, 1.08)
        light = gain * rng.uniform(0.96, 1.04, 3)
        return cls(
            room=int(rng.integers(2**31)),
            skin=skins[int(rng.integers(len(skins)))],
            sleeve=_muted(rng, 40, 170),
            light=(float(light[0]), float(light[1]), float(light[2])),
            noise=float(rng.uniform(0, 6)),
            tilt=float(rng.uniform(0.02, 0.12)),
        )


def film(look: Look, showings: tuple[Showing, ...], picture: Picture, n_frames: int) -> UInt8[np.ndarray, "n H W 3"]:
    """What the camera sees, frame by frame."""
    background = _room(look, Frame(picture, ROOM_ASPECT))
    held = [(s, *s.middle(n_frames)) for s in showings]
    last_ms = n_frames * 1000 // VIDEO_FPS
    noise = np.random.default_rng((look.room, 1))

    def draw(canvas: Canvas, which: slice) -> None:
        for showing, x, y in held:
            seen = frame_range(showing.appear_ms, showing.gone_ms or last_ms, n_frames)
            first, last = max(which.start, seen.start), min(which.stop, seen.stop)
            if first < last:
                part = canvas.frames(first - which.start, last - which.start)
                _draw_held(part, look, showing.card, x[first:last], y[first:last])
        grain = noise.standard_normal(canvas.pixels.shape[1:], np.float32)
        grain *= np.float32(look.noise)
        canvas.pixels[:] *= np.array(look.light, np.float32)[:, None, None, None]
        canvas.pixels[:] += grain

    return draw_frames(background, n_frames, draw)


def _room(look: Look, frame: Frame) -> Canvas:
    """A wall, and things before it, dull and out of focus."""
    rng = np.random.default_rng((look.room, 0))
    canvas = Canvas.blank(frame)
    whole = canvas.whole
    slope = rng.uniform(-0.8, 0.8)
    whole.fill(whole.y * 0 - 1, Shade.between(_muted(rng, 90, 220), _muted(rng, 60, 180), whole.y + slope * whole.x))
    for _ in range(int(rng.integers(0, 6))):
        x, y, half_width, half_height = rng.uniform((-1, 0, 0.05, 0.05), (1, 1, 0.3, 0.4))
        shape = whole.ellipse if rng.random() < 0.4 else whole.box
        whole.fill(shape(x, y, half_width, half_height), _muted(rng, 50, 220), soft=rng.uniform(0.02, 0.12))
    if rng.random() < 0.5:  # a shelf, or a blind
        lines = np.abs((whole.y * rng.uniform(2, 7) + rng.random()) % 1 - 0.5) - 0.1
        whole.fill(lines + 0 * whole.x, _muted(rng, 50, 220), alpha=0.5, soft=0.1)
    return canvas


def _muted(rng: np.random.Generator, low: int, high: int) -> Colour:
    """A colour near grey: none of a card's."""
    grey = rng.integers(low, high)
    r, g, b = (int(c) for c in np.clip(grey + rng.integers(-16, 17, 3), 0, 255))
    return r, g, b


def _draw_held(canvas: Canvas, look: Look, card: Card, x: Curve, y: Curve) -> None:
    """An arm, a card in its hand, the thumb before the card."""
    lean = look.tilt * np.sin(9 * x + 7 * y)
    left, right = float(x.min()) - 0.5, float(x.max()) + 0.5
    patch = canvas.patch(left, float(y.min()) - 0.5, right, 1.0)
    x, y = track(x), track(y)
    patch.fill(patch.line((x + 0.06, y + 0.42), (x + 0.2, y + 1.4), 0.13), look.sleeve)
    patch.fill(patch.ellipse(x + 0.03, y + 0.36, 0.12, 0.1), darker(look.skin, 0.85))
    local = patch.moved(x, y).turned(track(lean))
    local.fill(local.box(0.0, 0.01, HALF_CARD, HALF_CARD, 0.04), (70, 66, 62), alpha=0.5, soft=0.05)
    local.fill(local.box(0.0, 0.0, HALF_CARD, HALF_CARD, 0.04), PAPER)
    half = _HALF_ONE if card.count == 1 else _HALF_SOME
    for at_x, at_y in _PLACES[card.count]:
        local.fill(shape_distance(local, card.shape, (at_x, at_y), half), PALETTE[card.colour])
    patch.fill(patch.line((x - 0.01, y + 0.28), (x + 0.06, y + 0.4), 0.045), look.skin)


def shape_distance(patch: Patch, shape: str, middle: tuple[float, float], half: float) -> Planes:
    """Distance to one of `lexicon.SHAPES`, `half` wide to each side of its middle."""
    x, y = middle
    if shape == "circle":
        return patch.disc(x, y, half)
    if shape == "ring":
        return np.abs(patch.disc(x, y, 0.72 * half)) - 0.28 * half
    if shape == "square":
        return patch.box(x, y, 0.86 * half, 0.86 * half)
    if shape == "cross":
        return np.minimum(patch.box(x, y, half, 0.32 * half), patch.box(x, y, 0.32 * half, half))
    u, v = patch.x - x, patch.y - y
    if shape == "triangle":
        return np.maximum(np.abs(u) * 0.894 - (v + 0.95 * half) * 0.447, v - 0.85 * half)
    return _heart(u, v, half) if shape == "heart" else _star(u, v, half)


def _heart(u: np.ndarray, v: np.ndarray, half: float) -> Planes:
    """A square on its corner, and a disc on each of its upper sides."""
    side = 0.58 * half  # of the square, halved
    u, v = np.abs(u), v + 0.1 * half
    square = (u + np.abs(v)) * 0.707 - side
    a, b = u - 0.707 * side, v + 0.707 * side
    return np.minimum(square, np.sqrt(a * a + b * b) - side)


def _star(u: np.ndarray, v: np.ndarray, half: float) -> Planes:
    """Five points: folded into a tenth of a turn, a star is one straight edge from its tip to its notch."""
    fifth = 2 * np.pi / 5
    tip, notch = 1.1 * half, 0.46 * half
    angle = np.abs((np.arctan2(u, -v) + fifth / 2) % fifth - fifth / 2)
    radius = np.sqrt(u * u + v * v)
    along_x, along_y = notch * np.cos(fifth / 2) - tip, notch * np.sin(fifth / 2)
    across = along_y * (radius * np.cos(angle) - tip) - along_x * radius * np.sin(angle)
    return across / np.hypot(along_x, along_y)
