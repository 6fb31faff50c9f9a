"""A session as a film to look at: the user on the left, the agent on the right, both to be heard."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.data.world import Session
from wanstreamer_jax.evaluation.lived import Lived
from wanstreamer_jax.media.writer import write_film


def write_both(path: Path, session: Session, lived: Lived) -> None:
    """Write an MP4 of a session; MediaError when it cannot be written."""
    write_film(path, _side_by_side(session.user_frames, lived.frames), _mixed(session.user_samples, lived.samples))


def _side_by_side(
    left: UInt8[np.ndarray, "T H W 3"], right: UInt8[np.ndarray, "T h w 3"]
) -> UInt8[np.ndarray, "T height width 3"]:
    """The lower picture in the middle of black; H.264 wants even sizes."""
    sides = (left, right)
    height = max(side.shape[1] for side in sides)
    height, width = height + height % 2, sum(side.shape[2] for side in sides)
    film = np.zeros((len(left), height, width + width % 2, 3), np.uint8)
    at = 0
    for side in sides:
        top = (height - side.shape[1]) // 2
        film[:, top : top + side.shape[1], at : at + side.shape[2]] = side
        at += side.shape[2]
    return film


def _mixed(user: Float32[np.ndarray, " n"], agent: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    return np.clip(user + agent, -1, 1).astype(np.float32)
