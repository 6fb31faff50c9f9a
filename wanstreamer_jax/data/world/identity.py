"""Who the agent is and what it does: what its picture is drawn from."""

import dataclasses
import enum
from typing import NamedTuple

import numpy as np

from wanstreamer_jax.data.world.drawing import Colour, Track
from wanstreamer_jax.data.world.motion import Curve


class Composition(enum.StrEnum):
    """How much of the agent is seen."""

    CLOSE_UP = "close_up"  # head and shoulders
    MID_SHOT = "mid_shot"  # with hands, things at hand and a room


class Hair(enum.StrEnum):
    """How the hair is worn."""

    SHORT = "short"
    LONG = "long"
    BUN = "bun"


@dataclasses.dataclass(frozen=True)
class Identity:
    """What makes the character somebody; as it stands, the default one."""

    skin: Colour = (238, 194, 164)
    hair: Colour = (122, 58, 36)
    shirt: Colour = (34, 112, 126)
    wall: Colour = (222, 214, 200)
    iris: Colour = (64, 104, 72)
    style: Hair = Hair.LONG
    glasses: bool = False

    @classmethod
    def from_seed(cls, seed: int) -> "Identity":
        """Somebody else."""
        rng = np.random.default_rng((seed, 7))

        def one_of(*choices: Colour) -> Colour:
            return choices[int(rng.integers(len(choices)))]

        return cls(
            skin=one_of((242, 204, 178), (238, 194, 164), (210, 158, 122), (170, 116, 84), (132, 90, 66)),
            hair=one_of((40, 30, 28), (84, 52, 34), (122, 58, 36), (206, 164, 92), (150, 146, 144)),
            shirt=one_of((34, 112, 126), (150, 54, 62), (66, 74, 132), (216, 206, 190), (88, 116, 70)),
            wall=one_of((222, 214, 200), (190, 206, 210), (206, 188, 170), (176, 190, 168)),
            iris=one_of((64, 104, 72), (84, 56, 36), (70, 104, 140)),
            style=list(Hair)[int(rng.integers(len(Hair)))],
            glasses=bool(rng.random() < 0.3),
        )


class Pose(NamedTuple):
    """What the character does: a curve each, or while frames are drawn, a track."""

    opening: Curve | Track  # of the mouth, 0 to 1
    width: Curve | Track  # of the mouth, 0 pursed to 1 spread
    nod: Curve | Track  # 0 up, 1 down
    turn: Curve | Track  # -1 to 1, to the right of the picture
    lids: Curve | Track  # 0 open, 1 closed
    gaze_x: Curve | Track  # -1 to 1
    gaze_y: Curve | Track  # -1 to 1, down
    brows: Curve | Track  # 0 to 1, up
    breath: Curve | Track  # 0 to 1
    left_hand: Curve | Track  # 0 on the table to 1 raised
    right_hand: Curve | Track

    @classmethod
    def rest(cls, n_frames: int) -> "Pose":
        """Silent, still, eyes on the camera."""
        still = np.zeros(n_frames, np.float32)
        return cls(*(still for _ in cls._fields))._replace(width=still + np.float32(0.6))
