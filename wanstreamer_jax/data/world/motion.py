"""Movement on the frames' clock: a frame shows the middle of its 40 ms."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32

from wanstreamer_jax.timeline import VIDEO_FPS

Curve = Float32[np.ndarray, " T"]  # a number for each frame


def frame_ms(n_frames: int) -> Curve:
    """The times that frames show."""
    return ((np.arange(n_frames) + 0.5) * 1000 / VIDEO_FPS).astype(np.float32)


def frame_range(start_ms: int, end_ms: int, n_frames: int) -> slice:
    """The frames that show times from start to end."""
    first, last = (round(np.clip(ms * VIDEO_FPS / 1000, 0, n_frames)) for ms in (start_ms, end_ms))
    return slice(first, max(first, last))


def ease(progress: np.ndarray) -> np.ndarray:
    """From 0 to 1, starting and stopping gently."""
    p = np.clip(progress, 0, 1)
    return p * p * (3 - 2 * p)


def through(stops: Iterable[tuple[int, float]], n_frames: int) -> Curve:
    """A value that rests at each of its stops (ms, value, in order) and moves gently from one to the next."""
    times, values = np.array(list(stops), np.float32).T
    at = frame_ms(n_frames)
    curve = np.full(n_frames, values[0], np.float32)
    for i in range(1, len(times)):
        share = ease((at - times[i - 1]) / max(times[i] - times[i - 1], 1e-3))
        curve += (values[i] - values[i - 1]) * share
    return curve


def bumps(spans: Iterable[tuple[int, int]], n_frames: int) -> Curve:
    """1 in the middle of each span of ms, 0 outside, smooth between."""
    at, curve = frame_ms(n_frames), np.zeros(n_frames, np.float32)
    for start, end in spans:
        near = frame_range(start, end, n_frames)
        curve[near] += np.sin(np.pi * np.clip((at[near] - start) / (end - start), 0, 1)) ** 2
    return curve
