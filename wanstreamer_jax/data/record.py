"""A record: a stretch of a session as arrays, everything that training needs of it, in one run of bytes.

U units, f frames a unit, n samples a unit, H W the user's picture, h w the agent's, Nu and Na most text tokens of a
unit, C channels and y x the grid of latents.

A record's bytes are the length of a JSON header (8 bytes, little-endian), the header, and the arrays in the order of
the header, each at a multiple of 8 bytes; arrays are read in place, without a copy.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float16, Int16, Int32, UInt8

FULL_SCALE = 2**15 - 1  # of samples as integers
_ALIGNMENT = 8  # bytes
_LENGTH = struct.Struct("<Q")


class AgentLatents(NamedTuple):
    """What the VAEs' encoders say of the agent's side, streamed from the session's start: normalised Gaussians."""

    audio_mean: Float16[np.ndarray, "U a C_audio"]  # a latents of sound a unit
    audio_log_variance: Float16[np.ndarray, "U a C_audio"]
    video_mean: Float16[np.ndarray, "U y x C"]
    video_log_variance: Float16[np.ndarray, "U y x C"]
    portrait_mean: Float16[np.ndarray, "y x C"]
    voice_mean: Float16[np.ndarray, "v C_audio"]


class Streams(NamedTuple):
    """Which streams a session has. What it has not is black, silent or empty in the record."""

    user_video: bool
    user_audio: bool
    agent_video: bool
    agent_audio: bool
    agent_text: bool  # all that the agent says is known in words
    heard: bool  # all that the user says is
    portrait: bool


class Record(NamedTuple):
    """A stretch of a session; what is typed, said and heard stands in the unit in which it can be known."""

    name: str  # of the session, and where in it the record begins
    licence: str
    first_unit: int  # units of the session before this record
    words: list[dict[str, Any]]  # {"who", "start_ms", "end_ms", "text"} that begin in it; times since the session began
    labels: dict[str, Any]  # of the whole session, as session.json has them
    streams: Streams
    user_frames: UInt8[np.ndarray, "U f H W 3"]
    user_samples: Int16[np.ndarray, "U n"]
    agent_frames: UInt8[np.ndarray, "U f h w 3"]
    agent_samples: Int16[np.ndarray, "U n"]
    frame_before: UInt8[np.ndarray, "h w 3"]  # of the agent, before the first unit: at a session's start its portrait
    user_text: Int32[np.ndarray, "U Nu"]  # typed
    n_user_text: Int32[np.ndarray, " U"]
    agent_text: Int32[np.ndarray, "U Na"]  # each unit's with <unit_end>
    n_agent_text: Int32[np.ndarray, " U"]
    heard: Int32[np.ndarray, "U Na"]  # what the user says, each word in the unit in which it ends, with <unit_end>
    n_heard: Int32[np.ndarray, " U"]
    persona: Int32[np.ndarray, " P"]
    portrait: UInt8[np.ndarray, "h w 3"]
    voice: Int16[np.ndarray, " m"]
    latents: AgentLatents | None = None

    @property
    def n_units(self) -> int:
        """How long it is."""
        return len(self.n_agent_text)


_ABOUT = ("name", "licence", "first_unit", "words", "labels", "streams")
_ARRAYS = tuple(field for field in Record._fields if field not in (*_ABOUT, "latents"))


def encode(record: Record) -> bytes:
    """A record as bytes."""
    about = {name: getattr(record, name) for name in _ABOUT} | {"streams": record.streams._asdict()}
    arrays = {name: getattr(record, name) for name in _ARRAYS}
    latents = {} if record.latents is None else record.latents._asdict()
    listed = [{name: [x.dtype.str, list(x.shape)] for name, x in group.items()} for group in (arrays, latents)]
    header = json.dumps({"about": about, "arrays": listed[0], "latents": listed[1]}).encode()
    parts = [_LENGTH.pack(len(header)), header]
    parts.append(_padding(_LENGTH.size + len(header)))
    for x in (*arrays.values(), *latents.values()):
        parts += [np.ascontiguousarray(x).tobytes(), _padding(x.nbytes)]
    return b"".join(parts)


def decode(data: bytes) -> Record:
    """The record of `encode`; its arrays are views of `data`, read-only.

    Raises:
        ValueError: the bytes are no record.
    """
    try:
        (length,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size + length
        header = json.loads(data[_LENGTH.size : start])
        found: dict[str, Any] = dict(_views(data, start + len(_padding(start)), header["arrays"] | header["latents"]))
        latents = AgentLatents(**{name: found.pop(name) for name in header["latents"]}) if header["latents"] else None
        about = header["about"] | {"streams": Streams(**header["about"]["streams"])}
        return Record(**about, **found, latents=latents)
    except (struct.error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no record: {type(error).__name__}: {error}") from error


def _padding(n_bytes: int) -> bytes:
    return bytes(-n_bytes % _ALIGNMENT)


def _views(data: bytes, start: int, arrays: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, (dtype, shape) in arrays.items():
        n = int(np.prod(shape, dtype=np.int64))
        x = np.frombuffer(data, dtype, n, start)
        yield name, x.reshape(shape)
        start += x.nbytes + len(_padding(x.nbytes))


def to_int16(samples: np.ndarray) -> Int16[np.ndarray, "..."]:
    """Samples in [-1, 1] as integers; what is beyond is clipped."""
    return np.round(np.clip(samples, -1, 1) * FULL_SCALE).astype(np.int16)


def to_float32(samples: np.ndarray) -> np.ndarray:
    """Integers of `to_int16` as samples in [-1, 1]."""
    return samples.astype(np.float32) / FULL_SCALE
