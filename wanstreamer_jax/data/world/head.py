"""A drawn head: hair, face, eyes, mouth.

It is laid out around the middle of the face in units in which a face is 0.62 high. It turns and nods by moving
features further than the outline: what is nearer to the camera moves more.
"""

import numpy as np

from wanstreamer_jax.data.world.drawing import Colour, Number, Patch, Shade, darker
from wanstreamer_jax.data.world.identity import Hair, Identity, Pose

MOUTH_BOX = (-0.125, 0.075, 0.125, 0.325)  # left, top, right, bottom of where the mouth is, in any pose
FACE_BOX = (-0.27, -0.36, 0.27, 0.07)  # of the face above the mouth, with its hair, at rest
REACH = (-0.42, -0.5, 0.42, 0.62)  # of a head with its hair, in any pose
_MOUTH_Y = 0.165
_INSIDE, _TEETH = (64, 14, 22), (250, 246, 238)
_WHITE, _PUPIL, _GLINT = (250, 248, 244), (20, 16, 16), (255, 255, 255)


def outline(base: Patch, now: Pose) -> Patch:
    """The head as it moves; `base` is seen from the middle of a face at rest."""
    return base.moved(0.012 * now.turn, 0.02 * now.nod - 0.006 * now.breath)


def features(base: Patch, now: Pose) -> Patch:
    """The features as they move."""
    return base.moved(0.034 * now.turn, 0.055 * now.nod - 0.006 * now.breath)


def draw_back_hair(head: Patch, identity: Identity) -> None:
    """What of the hair lies behind neck and shoulders."""
    dark = darker(identity.hair, 0.72)
    if identity.style is Hair.LONG:
        head.fill(head.box(0.0, 0.14, 0.268, 0.42, 0.2), dark)
    if identity.style is Hair.BUN:
        bun = head.crop(-0.14, -0.5, 0.14, -0.2)
        bun.fill(bun.disc(0.0, -0.37, 0.11), dark)


def draw_head(head: Patch, face: Patch, identity: Identity, now: Pose) -> None:
    """All that lies before neck and shoulders."""
    _draw_skin(head, identity)
    _draw_nose_and_cheeks(face, identity)
    for side in (-1, 1):
        _draw_eye(face, side, identity, now)
    _draw_mouth(face, identity, now)
    _draw_front_hair(head, identity)
    if identity.glasses:
        _draw_glasses(face)


def _draw_skin(head: Patch, identity: Identity) -> None:
    shadow = darker(identity.skin, 0.8)
    head.fill(head.ellipse(0.0, -0.06, 0.262, 0.315), identity.hair)
    for side in (-1, 1):
        ear = head.crop(side * 0.24 - 0.06, -0.08, side * 0.24 + 0.06, 0.14)
        ear.fill(ear.ellipse(side * 0.235, 0.03, 0.042, 0.072), shadow)
    skin = np.minimum(head.ellipse(0.0, 0.0, 0.236, 0.3), head.ellipse(0.0, 0.1, 0.2, 0.215))
    light = head.x * head.x + (head.y + 0.06) * (head.y + 0.06)
    head.fill(skin, Shade.between(identity.skin, shadow, 9 * light - 0.25))


def _draw_nose_and_cheeks(face: Patch, identity: Identity) -> None:
    nose = face.crop(-0.05, -0.02, 0.05, 0.12)
    nose.fill(nose.line((0.004, 0.0), (0.012, 0.062), 0.008), darker(identity.skin, 0.84), soft=0.02)
    nose.fill(nose.ellipse(0.0, 0.078, 0.034, 0.017), darker(identity.skin, 0.8), soft=0.012)
    blush = (min(identity.skin[0] + 4, 255), int(0.82 * identity.skin[1]), int(0.8 * identity.skin[2]))
    for side in (-1, 1):
        cheek = face.crop(side * 0.135 - 0.09, 0.02, side * 0.135 + 0.09, 0.18)
        cheek.fill(cheek.ellipse(side * 0.135, 0.1, 0.05, 0.035), blush, alpha=0.6, soft=0.05)


def _draw_eye(face: Patch, side: int, identity: Identity, now: Pose) -> None:
    x, y, skin = 0.1 * side, -0.03, identity.skin
    eye = face.crop(x - 0.09, y - 0.17, x + 0.09, y + 0.08)
    white = eye.ellipse(x, y, 0.054, 0.04)
    look_x, look_y = x + 0.02 * now.gaze_x, y + 0.014 * now.gaze_y
    eye.fill(white, _WHITE)
    eye.fill(np.maximum(white, eye.disc(look_x, look_y, 0.031)), identity.iris)
    eye.fill(np.maximum(white, eye.disc(look_x, look_y, 0.016)), _PUPIL)
    eye.fill(np.maximum(white, eye.disc(look_x - 0.011, look_y - 0.012, 0.008)), _GLINT)
    lid = y - 0.05 + 0.086 * now.lids  # its lower edge
    eye.fill(np.maximum(white - 0.006, eye.y - lid), darker(skin, 0.9))
    edge = np.maximum(np.abs(white) - 0.008, eye.y - y + 0.012)  # of an open eye, above
    lash = np.maximum(np.abs(eye.y - lid) - 0.008, white)  # of a closed one
    eye.fill(np.minimum(edge, lash), darker(identity.hair, 0.45))
    brow = y - 0.082 - 0.03 * now.brows
    inner, outer = (x - 0.045 * side, brow + 0.006), (x + 0.055 * side, brow + 0.004)
    eye.fill(eye.line(inner, (x, brow - 0.008), 0.011), darker(identity.hair, 0.75))
    eye.fill(eye.line((x, brow - 0.008), outer, 0.009), darker(identity.hair, 0.75))


def _draw_mouth(face: Patch, identity: Identity, now: Pose) -> None:
    """Lips around an inside whose dark area grows with the opening, from nothing."""
    mouth = face.crop(-0.15, 0.06, 0.15, 0.3)
    half_width, half_height = 0.046 + 0.042 * now.width, 0.064 * now.opening
    x, y = mouth.x / half_width, mouth.y - _MOUTH_Y
    smile = 0.018 * (1 - now.opening) * now.width  # corners are up while it is closed
    bend = np.sqrt(np.maximum(1 - x * x, 0))
    middle = smile * (1 - 2 * x * x) - 0.016 * now.opening
    beyond = (np.abs(x) - 1) * half_width
    wide = mouth.x / (half_width + 0.016)
    round_off = np.sqrt(np.maximum(1 - wide * wide, 0))
    lips = np.maximum(np.abs(y - middle) - round_off * (half_height + 0.019), beyond - 0.016)
    inside = np.maximum(np.abs(y - middle) - bend * half_height, beyond)
    mouth.fill(lips, _lip(identity.skin))
    mouth.fill(np.abs(y - middle) - 0.003 + 0.05 * (np.abs(x) > 1), darker(_lip(identity.skin), 0.8))
    mouth.fill(inside, _INSIDE, alpha=_fade_in(now.opening))
    teeth = np.maximum(inside + 0.004, y - middle + 0.62 * half_height)
    mouth.fill(teeth, _TEETH, alpha=_fade_in(now.opening - 0.25))


def _fade_in(opening: Number) -> Number:
    return np.clip(opening * 8, 0, 1)


def _lip(skin: Colour) -> Colour:
    return int(0.86 * skin[0]), int(0.5 * skin[1]), int(0.55 * skin[2])


def _draw_front_hair(head: Patch, identity: Identity) -> None:
    top = head.crop(-0.3, -0.42, 0.3, 0.12)
    shine = Shade.between(
        identity.hair, darker(identity.hair, 1.35), 1 - 6 * np.sqrt((top.x + 0.08) ** 2 + (top.y + 0.28) ** 2)
    )
    hairline = top.y + 0.175 - 0.9 * (top.x + 0.05) * (top.x + 0.05) - 0.12 * top.x
    cap = np.maximum(top.ellipse(0.0, -0.06, 0.262, 0.315), hairline)
    top.fill(cap, shine)
    if identity.style is Hair.LONG:
        for side in (-1, 1):
            lock = head.crop(side * 0.25 - 0.09, -0.2, side * 0.25 + 0.09, 0.6)
            lock.fill(lock.line((side * 0.235, -0.12), (side * 0.265, 0.4), 0.05), identity.hair)


def _draw_glasses(face: Patch) -> None:
    frame = face.crop(-0.26, -0.14, 0.26, 0.08)
    for side in (-1, 1):
        rim = np.abs(frame.box(0.1 * side, -0.03, 0.078, 0.062, 0.03)) - 0.007
        frame.fill(rim, (50, 44, 44))
    frame.fill(frame.box(0.0, -0.04, 0.024, 0.006), (50, 44, 44))
