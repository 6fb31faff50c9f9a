"""What a stage takes from a record: pure functions of (record, rng), each giving arrays of fixed shapes by name.

W units or so many samples are drawn from anywhere in the record. A record that is shorter is completed with black,
silence and nothing said, and `unit_mask` or `n_samples` says how much of it is real.
"""

import functools
from collections.abc import Callable

import numpy as np

from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.record import AgentLatents, Record, StoredFrames, to_float32
from wanstreamer_jax.timeline import SAMPLES_PER_AUDIO_LATENT

Sample = dict[str, np.ndarray]
Transform = Callable[[Record, np.random.Generator], Sample]

_LATENTS = ("audio_mean", "audio_log_variance", "video_mean", "video_log_variance")
_TEXT = ("user_text", "n_user_text", "agent_text", "n_agent_text", "heard", "n_heard")


def video_clip(n_units: int) -> Transform:
    """A frame and the units after it, of the agent's side, for the video VAE.

    Gives `frames` [1 + W f, h, w, 3] (uint8; the first is the portrait at a session's start, else the frame before),
    `unit_mask` [W] and `has_video`.
    """
    return functools.partial(_video_clip, n_units=n_units)


def audio_clip(n_samples: int) -> Transform:
    """Sound of the agent's side, for the audio VAE.

    Gives `samples` [n] (float32 in [-1, 1]), `n_samples` of which are real, and `has_audio`.
    """
    return functools.partial(_audio_clip, n_samples=n_samples)


def session_window(n_units: int, layout: Layout, *, latents: bool) -> Transform:
    """A stretch of a session from the beginning of a unit, with the world and everything that was seen and said.

    Gives, besides the fields of `Record` of the same names, which here have W units:
    `unit_mask` [W]; `first_unit`, how many units of the session came before;
    `persona` [P] and `n_persona`; `voice` [m] (float32) and `n_voice` latents; `portrait`;
    `has_` and the name of each of `Streams`. With `latents` those of the agent (float32), which must have been
    prepared; without, `agent_frames`, `agent_samples` and `frame_before`, the agent's frame before the window.
    """
    return functools.partial(_session_window, n_units=n_units, layout=layout, latents=latents)


def _video_clip(record: Record, rng: np.random.Generator, *, n_units: int) -> Sample:
    start, mask = _draw(record.n_units, n_units, rng)
    units = _cut(record.agent_frames, start, n_units)
    frames = np.concatenate([_frame_before(record, start)[None], units.reshape(-1, *units.shape[2:])])
    return {"frames": frames, "unit_mask": mask, "has_video": np.array(record.streams.agent_video)}


def _audio_clip(record: Record, rng: np.random.Generator, *, n_samples: int) -> Sample:
    whole = record.agent_samples.reshape(-1)
    start, mask = _draw(len(whole), n_samples, rng)
    samples = to_float32(_cut(whole, start, n_samples))
    has_audio = np.array(record.streams.agent_audio)
    return {"samples": samples, "n_samples": np.array(mask.sum(), np.int32), "has_audio": has_audio}


def _session_window(record: Record, rng: np.random.Generator, *, n_units: int, layout: Layout, latents: bool) -> Sample:
    start, mask = _draw(record.n_units, n_units, rng)
    sample = {name: _cut(getattr(record, name), start, n_units) for name in (*_TEXT, "user_frames")}
    sample["user_samples"] = to_float32(_cut(record.user_samples, start, n_units))
    sample |= {"unit_mask": mask, "first_unit": np.array(record.first_unit + start, np.int32)}
    sample |= world_fields(record, layout)
    sample |= {f"has_{name}": np.array(is_there) for name, is_there in record.streams._asdict().items()}
    return sample | (_latents(record, start, n_units) if latents else _agent_media(record, start, n_units))


def world_fields(record: Record, layout: Layout) -> Sample:
    """What a session begins with, padded to the sizes of a layout."""
    return {
        "persona": _cut(record.persona, 0, layout.max_persona),
        "n_persona": np.array(len(record.persona), np.int32),
        "voice": to_float32(_cut(record.voice, 0, layout.n_voice_samples)),
        "n_voice": np.array(len(record.voice) // SAMPLES_PER_AUDIO_LATENT, np.int32),
        "portrait": record.portrait,
    }


def _agent_media(record: Record, start: int, n_units: int) -> Sample:
    return {
        "agent_frames": _cut(record.agent_frames, start, n_units),
        "agent_samples": to_float32(_cut(record.agent_samples, start, n_units)),
        "frame_before": _frame_before(record, start),
    }


def _latents(record: Record, start: int, n_units: int) -> Sample:
    found = record.latents
    if found is None:
        raise ValueError(f"{record.name}: was prepared without latents; prepare with --agent")
    sample = {name: _cut(getattr(found, name), start, n_units) for name in _LATENTS}
    sample |= {name: getattr(found, name) for name in AgentLatents._fields if name not in _LATENTS}
    return {name: x.astype(np.float32) for name, x in sample.items()}


def _frame_before(record: Record, start: int) -> np.ndarray:
    return record.agent_frames[start - 1][-1] if start else record.frame_before


def _draw(n_there: int, n_wanted: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """Where a stretch begins, and which of it is there."""
    start = int(rng.integers(max(0, n_there - n_wanted) + 1))
    return start, np.arange(n_wanted) < n_there - start


def _cut(x: np.ndarray | StoredFrames, start: int, n: int) -> np.ndarray:
    """`n` of `x` from `start` on, completed with zeros."""
    there = x[start : start + n]
    if len(there) == n:
        return there
    return np.concatenate([there, np.zeros((n - len(there), *x.shape[1:]), x.dtype)])
