"""How the agent may look, in words, and what it may be told to do."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from wanstreamer_jax.data.world import Composition, Identity, Split
from wanstreamer_jax.data.world.character import portray
from wanstreamer_jax.data.world.identity import Pose
from wanstreamer_jax.data.world.lexicon import Either, pick
from wanstreamer_jax.data.world.motion import bumps
from wanstreamer_jax.timeline import Picture

Curves = Mapping[str, float]  # values of fields of `Pose`

SHOTS = {Composition.CLOSE_UP: "a close-up", Composition.MID_SHOT: "a mid-shot"}
EYES: Mapping[str, Curves] = {
    "eyes on you": {},
    "eyes closed": {"lids": 1.0},
    "looking left": {"gaze_x": -1.0},
    "looking right": {"gaze_x": 1.0},
    "looking up": {"gaze_y": -1.0},
    "looking down": {"gaze_y": 1.0},
}
MOUTHS: Mapping[str, Curves] = {
    "mouth closed": {},
    "mouth open": {"opening": 1.0},
    "lips pursed": {"opening": 0.35, "width": -0.5},
}
HANDS: Mapping[str, Curves] = {
    "hands down": {},
    "left hand up": {"left_hand": 1.0},
    "right hand up": {"right_hand": 1.0},
    "both hands up": {"left_hand": 1.0, "right_hand": 1.0},
}
FACES = Either(  # eyes and mouth: each mouth is held out with one look
    train=tuple((e, m) for (i, e), (j, m) in itertools.product(enumerate(EYES), enumerate(MOUTHS)) if i + j != 3),
    heldout=tuple((tuple(EYES)[3 - j], m) for j, m in enumerate(MOUTHS)),
)
DESCRIBE = Either(
    train=("{shot}, {eyes}, {mouth}{hands}.", "{shot}{hands}, {mouth}, {eyes}."),
    heldout=("{shot}: {mouth}, {eyes}{hands}.",),
)


@dataclasses.dataclass(frozen=True)
class Action:
    """Something to be done: a curve that rises and falls again."""

    name: str
    curve: str  # a field of `Pose`
    peak: float
    length_ms: int
    composition: Composition | None = None  # in which it is seen; none: in all


ACTIONS = (
    Action("nod", "nod", 1.0, 480),
    Action("blink", "lids", 1.0, 240),
    Action("look left", "gaze_x", -1.0, 720),
    Action("look right", "gaze_x", 1.0, 720),
    Action("look up", "gaze_y", -1.0, 720),
    Action("look down", "gaze_y", 1.0, 720),
    Action("turn left", "turn", -1.0, 800),
    Action("turn right", "turn", 1.0, 800),
    Action("open your mouth", "opening", 1.0, 600),
    Action("raise your left hand", "left_hand", 1.0, 800, Composition.MID_SHOT),
    Action("raise your right hand", "right_hand", 1.0, 800, Composition.MID_SHOT),
)
TIMES = ("", " twice", " three times")
PERFORMANCES = Either(  # what and how often: each action is held out once
    train=tuple((a, n) for (i, a), n in itertools.product(enumerate(ACTIONS), range(len(TIMES))) if (i + n) % 3),
    heldout=tuple((a, -i % 3) for i, a in enumerate(ACTIONS)),
)
COMMAND = Either(train=("{action}.", "Please {action}.", "Now {action}."), heldout=("Can you {action}?", "{action}!"))
_PAUSE_MS = 240  # between one time and the next


class Likeness(NamedTuple):
    """A picture of the agent, in words and in pixels."""

    text: str
    picture: UInt8[np.ndarray, "h w 3"]


def make_likeness(rng: np.random.Generator, split: Split, picture: Picture) -> Likeness:
    """A composition and a pose; held-out ones are of faces that training does not meet."""
    composition = pick(rng, tuple(SHOTS))
    eyes, mouth = FACES.pick(rng, split)
    hands = pick(rng, tuple(HANDS))
    curves = {**EYES[eyes], **MOUTHS[mouth], **HANDS[hands]}
    said = f", {hands}" if composition is Composition.MID_SHOT else ""
    text = DESCRIBE.pick(rng, split).format(shot=SHOTS[composition], eyes=eyes, mouth=mouth, hands=said)
    rest = Pose.rest(1)
    pose = rest._replace(**{name: getattr(rest, name) + np.float32(value) for name, value in curves.items()})
    return Likeness(sentence(text), portray(Identity(), composition, picture, pose)[0])


class Told(NamedTuple):
    """Something that the agent is told to do, so often, in a composition in which it is seen."""

    text: str
    action: Action
    n_times: int
    composition: Composition

    @property
    def length_ms(self) -> int:
        """How long it takes."""
        return self.n_times * (self.action.length_ms + _PAUSE_MS) - _PAUSE_MS

    def pose(self, start_ms: int, n_frames: int) -> Pose:
        """At rest but for what was told."""
        step = self.action.length_ms + _PAUSE_MS
        spans = ((start_ms + i * step, start_ms + i * step + self.action.length_ms) for i in range(self.n_times))
        curve = (self.action.peak * bumps(spans, n_frames)).astype(np.float32)
        return Pose.rest(n_frames)._replace(**{self.action.curve: curve})


def make_command(rng: np.random.Generator, split: Split) -> Told:
    """A command of a split."""
    action, more = PERFORMANCES.pick(rng, split)
    text = COMMAND.pick(rng, split).format(action=f"{action.name}{TIMES[more]}")
    return Told(sentence(text), action, more + 1, action.composition or pick(rng, tuple(Composition)))


def sentence(text: str) -> str:
    """With a capital letter; the rest as it is."""
    return text[0].upper() + text[1:]
