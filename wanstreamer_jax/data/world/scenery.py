"""What surrounds the agent's head: the room behind it, its body, and the desk before it."""

import numpy as np

from wanstreamer_jax.data.world.drawing import Colour, Number, Patch, Shade, darker
from wanstreamer_jax.data.world.identity import Identity, Pose

_WOOD, _LEAF, _POT = (150, 108, 76), (92, 138, 84), (196, 116, 82)
_BOOKS: tuple[tuple[float, Colour], ...] = (
    (0.15, (150, 70, 62)),
    (0.19, (78, 106, 140)),
    (0.13, (206, 170, 98)),
    (0.17, (96, 120, 90)),
    (0.14, (120, 84, 120)),
)
DESK_Y = 0.87


def draw_room(room: Patch, wall: Colour) -> None:
    """A lit wall with a window on the left, and a shelf and a plant on the right."""
    distance = np.sqrt((room.x + 0.3) ** 2 + (room.y - 0.2) ** 2)
    room.fill(np.full_like(distance, -1), Shade.between(wall, darker(wall, 0.72), distance - 0.2))
    _draw_window(room.crop(-1.0, -0.1, -0.4, 0.7))
    _draw_shelf(room.crop(0.35, -0.1, 1.1, 0.5))
    _draw_plant(room.crop(0.45, 0.2, 1.1, 1.0).moved(0.72, 0.86))


def _draw_window(wall: Patch) -> None:
    pane = wall.box(-0.68, 0.3, 0.2, 0.3)
    wall.fill(pane - 0.025, (244, 240, 232))
    wall.fill(pane, Shade.between((176, 208, 230), (226, 234, 232), 1.8 * wall.y + 0 * wall.x))
    bars = np.minimum(np.abs(wall.x + 0.68), np.abs(wall.y - 0.3)) - 0.009
    wall.fill(np.maximum(bars, pane), (244, 240, 232))


def _draw_shelf(wall: Patch) -> None:
    wall.fill(wall.box(0.7, 0.29, 0.26, 0.016), darker(_WOOD, 0.6), alpha=0.4, soft=0.04)
    wall.fill(wall.box(0.7, 0.28, 0.26, 0.014), _WOOD)
    for i, (height, colour) in enumerate(_BOOKS):
        wall.fill(wall.box(0.5 + 0.055 * i, 0.266 - height / 2, 0.022, height / 2), colour)
    wall.fill(wall.disc(0.88, 0.2, 0.065), (226, 196, 120))


def _draw_plant(plant: Patch) -> None:
    """Seen from where its leaves begin."""
    for angle in np.linspace(-1.1, 1.1, 7):
        tip = (float(0.2 * np.sin(angle)), float(-0.36 * np.cos(angle)))
        plant.fill(plant.line((0.0, 0.0), tip, 0.022), darker(_LEAF, 1 + 0.2 * float(np.sin(7 * angle))))
    plant.fill(np.maximum(np.abs(plant.x) - 0.1 + 0.2 * plant.y, np.abs(plant.y - 0.07) - 0.08), _POT)


def draw_body(body: Patch, identity: Identity, now: Pose, bottom: float) -> None:
    """Neck, shoulders and collar, seen from the middle of the face; they fill the picture down to `bottom`."""
    rise = 0.014 * now.breath
    dark, shadow = darker(identity.shirt, 0.75), darker(identity.skin, 0.72)
    torso = body.crop(-0.7, 0.3, 0.7, bottom)
    x = np.abs(torso.x)
    slope = x / 0.42
    shoulder = 0.36 + 0.115 * slope * slope * slope - rise
    side = 0.5 + 0.03 * torso.y - 0.16 * np.maximum(0.75 - torso.y, 0) ** 2  # arms, rounder towards the shoulders
    surface = np.maximum(shoulder - torso.y, x - side)
    torso.fill(surface, Shade.between(identity.shirt, dark, 1.7 * np.abs(torso.x + 0.1) - 0.1))
    neck = body.crop(-0.16, 0.1, 0.16, 0.55)
    neck.fill(neck.ellipse(0.0, 0.37 - rise, 0.15, 0.075), dark)
    neck.fill(neck.ellipse(0.0, 0.36 - rise, 0.125, 0.066), darker(identity.skin, 0.86))
    neck.fill(neck.box(0.0, 0.25, 0.092, 0.13, 0.02), Shade.between(shadow, identity.skin, 4 * (neck.y - 0.24)))


def draw_desk(room: Patch, identity: Identity, now: Pose) -> None:
    """A desk with a mug and a book on it, and the agent's hands, which rise as it speaks."""
    desk = room.crop(-2.0, DESK_Y - 0.3, 2.0, 1.0)
    wood = Shade.between(_WOOD, darker(_WOOD, 0.7), 5 * (desk.y - DESK_Y) + 0 * desk.x)
    desk.fill(DESK_Y - desk.y + 0 * desk.x, wood)
    desk.fill(desk.box(0.46, DESK_Y + 0.02, 0.13, 0.025, 0.008), (150, 70, 62))
    desk.fill(desk.box(0.44, DESK_Y - 0.022, 0.12, 0.02, 0.008), (78, 106, 140))
    desk.fill(np.abs(desk.disc(-0.53, DESK_Y - 0.06, 0.045)) - 0.012, (232, 228, 220))
    desk.fill(desk.box(-0.46, DESK_Y - 0.05, 0.055, 0.075, 0.015), (232, 228, 220))
    desk.fill(desk.box(-0.46, DESK_Y - 0.04, 0.055, 0.02), (188, 84, 66))
    for side, lift in ((-1, now.left_hand), (1, now.right_hand)):
        _draw_hand(room.crop(-0.5, 0.5, 0.5, 1.0), side, lift, identity)


def _draw_hand(room: Patch, side: int, lift: Number, identity: Identity) -> None:
    x, y = side * (0.15 + 0.06 * lift), DESK_Y + 0.02 - 0.17 * lift
    sleeve, edge = darker(identity.shirt, 0.88), darker(identity.skin, 0.8)
    room.fill(room.line((side * 0.33, DESK_Y - 0.06), (x + side * 0.055, y + 0.012), 0.05), sleeve)
    room.fill(room.ellipse(x, y, 0.058, 0.045), edge)
    room.fill(room.ellipse(x - side * 0.002, y - 0.004, 0.052, 0.038), identity.skin)
    for finger in (-0.02, 0.0, 0.02):
        tip = (x - side * (0.05 - 0.012 * lift), y + finger - 0.03 * lift)
        room.fill(room.line((x - side * 0.01, y + finger), tip, 0.0125), edge, alpha=0.5)
        room.fill(room.line((x - side * 0.01, y + finger), tip, 0.0095), identity.skin)
