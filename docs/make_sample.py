"""Render `wanstreamer_jax/assets/sample.mp4`: a drawn person who holds up coloured things and asks about them.

    apt-get install espeak-ng      # the voice; needed for this command only
    python docs/make_sample.py

About 10 s of 320x240 with pauses in which an agent may answer. Everything in it is drawn here: shapes are signed
distances in pixels, whose edges are blended over one pixel.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from wanstreamer_jax import media
from wanstreamer_jax.timeline import (
    FRAMES_PER_UNIT,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_FRAME,
    SAMPLES_PER_UNIT,
    VIDEO_FPS,
    Picture,
)

PICTURE = Picture(320, 240)
N_UNITS = 64
LINES = ((0.5, "Hello!"), (1.6, "What colour is this?"), (5.6, "And this one?"), (8.7, "Thank you."))  # seconds, words
VOICE = ("-v", "en-gb", "-s", "150", "-p", "42")
SWAP_S = (4.9, 5.7)  # the hand goes down with the ball and comes up with the cube
BLINKS_S = (0.9, 3.4, 4.6, 7.3, 9.6)

SKIN, SKIN_DARK, HAIR, LIP = (232, 183, 150), (196, 138, 108), (62, 42, 34), (190, 92, 88)
SHIRT, SHIRT_DARK, WALL, WALL_DARK = (64, 116, 122), (44, 84, 92), (226, 218, 204), (170, 160, 150)
RED, BLUE = (214, 48, 44), (46, 92, 214)

Y, X = np.mgrid[0 : PICTURE.height, 0 : PICTURE.width].astype(np.float32)


def main() -> None:
    """Write the clip."""
    sound = speech()
    loudness = mouth_opening(sound)
    output = Path(media.__file__).parents[1] / "assets" / "sample.mp4"
    output.parent.mkdir(exist_ok=True)
    with media.MediaWriter(output, PICTURE) as writer:
        for unit in range(N_UNITS):
            first = unit * FRAMES_PER_UNIT
            frames = np.stack([draw(i / VIDEO_FPS, loudness[i]) for i in range(first, first + FRAMES_PER_UNIT)])
            writer.write(frames, sound[unit * SAMPLES_PER_UNIT :][:SAMPLES_PER_UNIT])
    print(f"{output}: {output.stat().st_size / 1000:.0f} kB")


def speech() -> np.ndarray:
    """Samples of the whole clip: the lines at their times, silence between them."""
    samples = np.zeros(N_UNITS * SAMPLES_PER_UNIT, np.float32)
    for start_s, words in LINES:
        start, spoken = round(start_s * SAMPLE_RATE_HZ), speak(words)
        samples[start : start + len(spoken)] = spoken
    return samples


def speak(words: str) -> np.ndarray:
    """One line in the voice of espeak-ng."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "line.wav"
        subprocess.run(["espeak-ng", *VOICE, "-w", str(path), words], check=True)  # noqa: S603, S607
        with media.open_media(path, PICTURE) as reader:
            return 0.8 * np.concatenate([unit.samples[: unit.n_samples] for unit in reader])


def mouth_opening(samples: np.ndarray) -> np.ndarray:
    """From 0 (closed) to 1 for each frame: loudness, smoothed over three frames."""
    power = np.mean(samples.reshape(-1, SAMPLES_PER_FRAME) ** 2, axis=1)
    smooth = np.convolve(np.sqrt(power), (0.25, 0.5, 0.25), mode="same")
    return np.clip(smooth / 0.14, 0, 1) ** 0.7


def draw(time_s: float, opening: float) -> np.ndarray:
    """One frame, uint8 RGB."""
    image = BACKGROUND.copy()
    sway = np.array([1.6 * np.sin(1.1 * time_s), 1.2 * np.sin(1.7 * time_s) - 1.5 * opening])
    head = np.array([132.0, 108.0]) + sway
    draw_body(image, 132 + 0.4 * sway[0], head)
    draw_head(image, head)
    draw_eyes(image, head, eyelids(time_s), gaze(time_s))
    draw_brows(image, head, opening)
    draw_mouth(image, moved(head, 0, 31), opening)
    draw_hand(image, time_s)
    return (np.clip(image, 0, 255) + 0.5).astype(np.uint8)


def moved(point: np.ndarray, x: float, y: float) -> np.ndarray:
    """The point so many pixels to the right and down."""
    return point + np.array([x, y])


def paint(image: np.ndarray, distance: np.ndarray, colour: object, alpha: float = 1.0) -> None:
    """Fill where the distance is negative; `colour` is one colour or one for each pixel."""
    cover = alpha * np.clip(0.5 - distance, 0, 1)[..., None]
    image += cover * (np.asarray(colour, np.float32) - image)


def glow(image: np.ndarray, distance: np.ndarray, colour: object, width: float, alpha: float) -> None:
    """Like paint, with an edge `width` pixels soft."""
    paint(image, distance / width, colour, alpha)


def ellipse(centre: np.ndarray, width: float, height: float) -> np.ndarray:
    """Distance to an ellipse of these half axes; exact on its edge."""
    x, y = X - centre[0], Y - centre[1]
    near = np.hypot(x / width, y / height)
    return near * (near - 1) / np.maximum(np.hypot(x / width**2, y / height**2), 1e-6)


def capsule(start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """Distance to a line with round ends."""
    (x, y), (dx, dy) = start, np.subtract(end, start)
    along = np.clip(((X - x) * dx + (Y - y) * dy) / (dx**2 + dy**2), 0, 1)
    return np.hypot(X - x - along * dx, Y - y - along * dy) - radius


def box(centre: np.ndarray, half: float, angle: float, corner: float) -> np.ndarray:
    """Distance to a turned square with round corners."""
    x, y = X - centre[0], Y - centre[1]
    u = np.abs(x * np.cos(angle) + y * np.sin(angle)) - half + corner
    v = np.abs(y * np.cos(angle) - x * np.sin(angle)) - half + corner
    return np.hypot(np.maximum(u, 0), np.maximum(v, 0)) + np.minimum(np.maximum(u, v), 0) - corner


def mix(a: object, b: object, share: np.ndarray) -> np.ndarray:
    """Each pixel between colour `a` (share 0) and colour `b` (share 1)."""
    share = np.clip(share, 0, 1)[..., None]
    return np.asarray(a, np.float32) * (1 - share) + np.asarray(b, np.float32) * share


def background() -> np.ndarray:
    """A lit wall with a window, a shelf and a plant."""
    image = mix(WALL, WALL_DARK, (np.hypot(X - 110, Y - 40) - 60) / 260)
    window = np.maximum(np.abs(X - 40) - 34, np.abs(Y - 62) - 48)
    paint(image, window - 4, (246, 242, 234))
    paint(image, window, mix((186, 214, 232), (228, 236, 236), (Y - 14) / 96))
    paint(image, np.minimum(np.abs(X - 40), np.abs(Y - 62)) - 1.5 + 99 * (window > 0), (246, 242, 234))
    shelf = np.maximum(np.abs(X - 262) - 52, np.abs(Y - 62) - 3)
    glow(image, shelf - 4, (120, 108, 98), 9, 0.35)
    paint(image, shelf, (150, 112, 82))
    books = ((222, 13, 30, (170, 86, 70)), (237, 11, 36, (88, 118, 96)), (251, 14, 27, (206, 168, 96)))
    for x, width, height, colour in books:
        paint(image, np.maximum(np.abs(X - x) - width / 2, np.abs(Y - 59 + height / 2) - height / 2), colour)
    for angle in np.linspace(-1.1, 1.1, 6):
        tip = (294 + 22 * np.sin(angle), 38 - 22 * np.cos(angle))
        paint(image, capsule((294, 42), tip, 4.0), (96, 140, 84) if angle < 0 else (116, 158, 96))
    paint(image, np.maximum(np.abs(X - 294) - 10 + (Y - 50) * 0.18, np.abs(Y - 50) - 9), (196, 118, 84))
    return image


def draw_body(image: np.ndarray, x: float, head: np.ndarray) -> None:
    """Shoulders, collar, neck."""
    shoulders = 180 + 46 * (np.abs(X - x) / 88) ** 2.7 - Y
    glow(image, shoulders - 5, (90, 84, 80), 10, 0.3)
    paint(image, shoulders, mix(SHIRT, SHIRT_DARK, np.abs(X - x + 24) / 110))
    paint(image, ellipse((x, 180), 27, 13), SHIRT_DARK)
    paint(image, ellipse((x, 178), 23, 12), SKIN_DARK)
    paint(image, capsule((x, 140), (x, 172), 18), mix(SKIN, SKIN_DARK, (176 - Y) / 34))
    glow(image, ellipse(moved(head, 0, 45), 30, 14), SKIN_DARK, 9, 0.6)


def draw_head(image: np.ndarray, head: np.ndarray) -> None:
    """Hair, ears, face, cheeks, nose."""
    paint(image, ellipse(moved(head, 0, -9), 51, 56), mix(HAIR, (96, 68, 54), (60 - Y) / 60))
    for side in (-1, 1):
        paint(image, ellipse(moved(head, 44 * side, 6), 8, 12), SKIN_DARK)
        paint(image, ellipse(moved(head, 44 * side, 5), 6, 10), SKIN)
    face = np.minimum(ellipse(head, 43, 52), ellipse(moved(head, 0, 16), 37, 42))
    paint(image, face, mix(SKIN, SKIN_DARK, (np.hypot(X - head[0] + 12, Y - head[1] + 12) - 34) / 46))
    for side in (-1, 1):
        glow(image, ellipse(moved(head, 23 * side, 20), 9, 6), (236, 150, 128), 7, 0.45)
    fringe = Y - head[1] + 31 + 11 * np.sin((X - head[0]) / 24 - 0.7)
    cap = np.maximum(ellipse(moved(head, 0, -8), 47, 52), fringe)
    glow(image, np.maximum(face, fringe - 5), SKIN_DARK, 5, 0.4)
    paint(image, cap, mix(HAIR, (104, 74, 58), 0.8 - np.hypot(X - head[0] + 16, Y - head[1] + 44) / 34))
    glow(image, capsule(moved(head, 1.5, 0), moved(head, 3, 13), 1.5), SKIN_DARK, 3, 0.5)
    paint(image, ellipse(moved(head, 0, 15), 6, 3), SKIN_DARK, 0.6)
    glow(image, ellipse(moved(head, -1, 12), 3, 3), (250, 214, 188), 3, 0.7)


def draw_eyes(image: np.ndarray, head: np.ndarray, closed: float, look: np.ndarray) -> None:
    """Eyes that follow what is held up, under lids that are `closed` from 0 to 1."""
    for side in (-1, 1):
        eye = moved(head, 17 * side, -3)
        opening = ellipse(eye, 8.5, 6 - 4.8 * closed)
        paint(image, opening, (250, 248, 244), 1 - closed)
        paint(image, np.maximum(opening, ellipse(eye + look, 4.4, 4.4)), (84, 60, 40), 1 - closed)
        paint(image, np.maximum(opening, ellipse(eye + look, 2.2, 2.2)), (20, 16, 16), 1 - closed)
        paint(image, np.maximum(opening, ellipse(moved(eye + look, -1.4, -1.6), 1.1, 1.1)), (255, 255, 255), 1 - closed)
        # The upper edge of an open eye; the lower edge of a closed one.
        edge = Y - eye[1] if closed < 0.5 else eye[1] - Y
        lash = np.maximum(np.maximum(np.abs(opening) - 0.9, edge), np.abs(X - eye[0]) - 8.5)
        paint(image, lash, (52, 36, 32))


def draw_brows(image: np.ndarray, head: np.ndarray, opening: float) -> None:
    """Brows that rise a little with the voice."""
    for side in (-1, 1):
        inner, outer = moved(head, 9 * side, -15 - 2 * opening), moved(head, 26 * side, -15 - 2 * opening)
        middle = (inner + outer) / 2 + (0, -2.5)
        paint(image, np.minimum(capsule(inner, middle, 1.7), capsule(middle, outer, 1.4)), HAIR)


def draw_mouth(image: np.ndarray, centre: np.ndarray, opening: float) -> None:
    """A smile that opens with the voice, with teeth above and a tongue below."""
    half = 15 - 3.5 * opening
    x = X - centre[0]
    bend = np.clip((x / half) ** 2, 0, 1.5)
    upper = centre[1] - 3.5 * bend - 1.5 * opening
    lower = upper + (1 - np.minimum(bend, 1)) * (1 + 12 * opening)
    inside = np.maximum(np.maximum(upper - Y, Y - lower), np.abs(x) - half)
    paint(image, inside - 1.6, LIP)
    paint(image, inside, (92, 30, 36))
    paint(image, np.maximum(inside, Y - upper - 3), (250, 246, 240), min(1.0, 3 * opening))
    tongue = ellipse(moved(centre, 0, 11.5 * opening), 7, 4)
    paint(image, np.maximum(inside, tongue), (214, 112, 112), min(1.0, 2 * opening))


def draw_hand(image: np.ndarray, time_s: float) -> None:
    """An arm that holds up a red ball, and later a blue cube."""
    palm = hand_at(time_s)
    thing, wrist = moved(palm, -2, -32), moved(palm, 5, 16)
    glow(image, ellipse(moved(thing, 8, 8), 30, 30), (96, 88, 82), 14, 0.3)
    paint(image, capsule(wrist, moved(palm, 30, 120), 17), mix(SHIRT, SHIRT_DARK, (X - wrist[0] + 14) / 40))
    paint(image, capsule(moved(wrist, -1, -4), palm, 11), SKIN_DARK)
    paint(image, ellipse(palm, 17, 15), mix(SKIN, SKIN_DARK, (X - palm[0] + 4) / 24))
    if time_s < sum(SWAP_S) / 2:
        draw_ball(image, thing)
    else:
        draw_cube(image, thing, 0.14 * np.sin(2.3 * time_s))
    for x, length in ((-13, 15), (-5, 18), (3, 18), (11, 15)):
        finger = capsule(moved(palm, x, 2), moved(palm, 0.9 * x, -length), 4.4)
        paint(image, finger - 0.9, SKIN_DARK)
        paint(image, finger, mix(SKIN, SKIN_DARK, (Y - palm[1] + 6) / 30))


def draw_ball(image: np.ndarray, centre: np.ndarray) -> None:
    """Red."""
    light = np.hypot(X - centre[0] + 9, Y - centre[1] + 10)
    paint(image, ellipse(centre, 29, 29), mix(RED, (126, 16, 24), (light - 12) / 34))
    glow(image, ellipse(moved(centre, -10, -12), 6, 4.5), (255, 214, 206), 5, 0.8)


def draw_cube(image: np.ndarray, centre: np.ndarray, angle: float) -> None:
    """Blue."""
    paint(image, box(centre, 27, angle, 5), mix(BLUE, (22, 44, 130), (X - centre[0] + Y - centre[1] + 16) / 90))
    paint(image, np.abs(box(centre, 22, angle, 3)) - 0.6, (120, 156, 250), 0.5)
    glow(image, ellipse(moved(centre, -12, -14), 7, 4), (196, 214, 255), 6, 0.6)


def hand_at(time_s: float) -> np.ndarray:
    """Where the palm is: it comes up with the question, waves gently, goes down between the two things."""
    down = 1 - ease((time_s - 1.0) / 0.7)
    down += ease((time_s - SWAP_S[0]) / 0.4) - ease((time_s - np.mean(SWAP_S)) / 0.45)
    down += ease((time_s - 8.3) / 0.6)
    wave = (9 * np.sin(2.0 * time_s), 5 * np.sin(3.1 * time_s))
    return np.array([244.0, 164.0]) + wave + np.array([14, 160]) * down


def gaze(time_s: float) -> np.ndarray:
    """Where the pupils are: at the camera, or for a moment at the thing."""
    glance = sum(ease((time_s - s) / 0.12) - ease((time_s - s - 0.7) / 0.12) for s in (1.3, 5.5))
    return np.array([2.6, 1.0]) * glance


def eyelids(time_s: float) -> float:
    """From 0 (open) to 1, with a blink now and then."""
    return max(float(np.clip(1.4 - abs(time_s - b) / 0.08, 0, 1)) for b in BLINKS_S)


def ease(progress: float) -> float:
    """From 0 to 1, starting and stopping gently."""
    p = float(np.clip(progress, 0, 1))
    return p * p * (3 - 2 * p)


BACKGROUND = background()

if __name__ == "__main__":
    main()
