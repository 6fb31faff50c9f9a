"""How the agent behaves while a script runs: mouth, nods, blinks, glances, breath, hands."""

import dataclasses

import numpy as np

from wanstreamer_jax.data.world.identity import Pose
from wanstreamer_jax.data.world.motion import bumps, frame_ms, through
from wanstreamer_jax.data.world.script import Script, Who
from wanstreamer_jax.data.world.stage import next_unit
from wanstreamer_jax.data.world.visemes import MouthTrack, mouth_track
from wanstreamer_jax.timeline import UNIT_MS

Spans = tuple[tuple[int, int], ...]  # of ms

_NOD_MS, _BLINK_MS = 480, 200
# After the user began to speak, with the next unit, and after a nod began: a nod, like speech, is then a function of
# what was perceived, and always the same latents.
_FIRST_NOD_MS, _NEXT_NOD_MS = 400, 7 * UNIT_MS
_IDLE_NODS_PER_MIN = 1.5
_NOTICE_MS = (200, 400)  # from when a card appears to when the agent looks at it


@dataclasses.dataclass(frozen=True)
class Glance:
    """A look away from the camera."""

    start_ms: int
    end_ms: int
    x: float  # -1 to 1, to the right of the agent's picture
    y: float  # -1 to 1, down


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """What the agent does besides speaking."""

    nods: Spans
    blinks: Spans
    glances: tuple[Glance, ...]
    gestures: tuple[Spans, Spans]  # of the left and of the right hand


def behave(rng: np.random.Generator, script: Script, last_ms: int) -> Behaviour:
    """Nods while the user speaks, looks at what appears, hands that go with words; the rest by chance."""
    return Behaviour(
        nods=_nods(rng, script, last_ms),
        blinks=_every(rng, (1800, 5000), _BLINK_MS, last_ms),
        glances=_glances(rng, script, last_ms),
        gestures=(_gestures(rng, script, 0.35), _gestures(rng, script, 0.75)),
    )


def _nods(rng: np.random.Generator, script: Script, last_ms: int) -> Spans:
    """Often while the user speaks, seldom otherwise, never while the agent does."""
    agent = script.spans(Who.AGENT)
    starts = [next_unit(_integer(rng, (0, last_ms))) for _ in range(rng.poisson(_IDLE_NODS_PER_MIN * last_ms / 60_000))]
    for start, end in script.spans(Who.USER):
        starts += range(next_unit(start + _FIRST_NOD_MS), end, _NEXT_NOD_MS)
    nods: list[tuple[int, int]] = []
    for at in sorted(starts):
        is_free = all(at + _NOD_MS // 2 < start or at > end for start, end in agent)
        if is_free and (not nods or at > nods[-1][1]) and at + _NOD_MS <= last_ms:
            nods.append((at, at + _NOD_MS))
    return tuple(nods)


def _glances(rng: np.random.Generator, script: Script, last_ms: int) -> tuple[Glance, ...]:
    """At cards that appear, at the keyboard's text, and now and then into the room; one after the other."""
    wanted = []
    for showing in script.showings:
        start = showing.appear_ms + _integer(rng, _NOTICE_MS)
        _, x, _ = showing.places[0]
        wanted.append(Glance(start, showing.settled_ms + _integer(rng, (400, 900)), -1.6 * x, 0.2))
    if script.typed:
        wanted.append(Glance(script.typed[0].start_ms + 200, script.typed[-1].end_ms, 0.0, 0.9))
    for start, end in _every(rng, (4000, 9000), 700, last_ms):
        wanted.append(Glance(start, end, float(rng.uniform(-0.9, 0.9)), float(rng.uniform(-0.5, 0.3))))
    glances: list[Glance] = []
    for glance in sorted(wanted, key=lambda g: g.start_ms):
        if not glances or glance.start_ms > glances[-1].end_ms + 150:
            glances.append(glance)
    return tuple(glances)


def _gestures(rng: np.random.Generator, script: Script, share: float) -> Spans:
    """A hand that rises with some of the agent's lines, and again while a long one lasts."""
    gestures = []
    for start, end in script.spans(Who.AGENT):
        at = start + _integer(rng, (0, 400))
        while at < end:
            length = _integer(rng, (900, 1600))
            if rng.random() < share:
                gestures.append((at, at + length))
            at += length + _integer(rng, (0, 500))
    return tuple(gestures)


def _every(rng: np.random.Generator, gap_ms: tuple[int, int], length_ms: int, last_ms: int) -> Spans:
    spans, at = [], _integer(rng, gap_ms)
    while at + length_ms <= last_ms:
        spans.append((at, at + length_ms))
        at += length_ms + _integer(rng, gap_ms)
    return tuple(spans)


def _integer(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))


def pose(rng: np.random.Generator, script: Script, behaviour: Behaviour, n_frames: int) -> tuple[Pose, MouthTrack]:
    """Every frame of the agent, and its mouth by name."""
    mouth = mouth_track([p for line in script.lines if line.who is Who.AGENT for p in line.phonemes], n_frames)
    seconds, phase = frame_ms(n_frames) / 1000, rng.uniform(0, 2 * np.pi, 4)
    gaze_x = _gaze([(g, g.x) for g in behaviour.glances], n_frames)
    gaze_y = _gaze([(g, g.y) for g in behaviour.glances], n_frames)
    emphasis = bumps(((start, start + 500) for start, _ in script.spans(Who.AGENT)), n_frames)
    left, right = (bumps(spans, n_frames) for spans in behaviour.gestures)
    curves = Pose(
        opening=mouth.opening,
        width=mouth.width,
        nod=bumps(behaviour.nods, n_frames) + 0.12 * emphasis,
        turn=0.3 * gaze_x + 0.3 * np.sin(0.5 * seconds + phase[0]) + 0.15 * np.sin(1.3 * seconds + phase[1]),
        lids=np.clip(1.6 * bumps(behaviour.blinks, n_frames) + 0.25 * np.maximum(gaze_y, 0), 0, 1),
        gaze_x=gaze_x,
        gaze_y=gaze_y,
        brows=0.6 * emphasis,
        breath=0.5 + 0.5 * np.sin(1.6 * seconds + phase[2]),
        left_hand=np.clip(left, 0, 1),
        right_hand=np.clip(right, 0, 1),
    )
    return Pose(*(np.asarray(curve, np.float32) for curve in curves)), mouth


def _gaze(glances: list[tuple[Glance, float]], n_frames: int) -> np.ndarray:
    """Eyes jump: 80 ms there, 80 ms back."""
    stops = [(-1, 0.0)]
    for glance, value in glances:
        there = float(np.clip(value, -1, 1))
        stops += [(glance.start_ms, 0.0), (glance.start_ms + 80, there), (glance.end_ms, there)]
        stops += [(glance.end_ms + 80, 0.0)]
    return through(stops, n_frames)
