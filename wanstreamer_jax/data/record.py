"""A record: a stretch of a session as arrays, everything that training needs of it.

U units, f frames a unit, n samples a unit, H W the user's picture, h w the agent's, Nu and Na most text tokens of a
unit, C channels and y x the grid of latents.

A record is stored as several items, of which a sample reads only those that it needs:

    head     length of a JSON header (8 bytes, little-endian), the header, all arrays but frames in its order, each
             at a multiple of 8 bytes
    pieces   frames of the user, PIECE_UNITS units in each, then frames of the agent
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float16, Int16, Int32, UInt8

from wanstreamer_jax.media.sound import FULL_SCALE

PIECE_UNITS = 16  # whose frames are stored, and read, together
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


class StoredFrames:
    """Frames [U, f, H, W, 3] (uint8) that are read when they are asked for, by unit: `frames[3]`, `frames[5:9]`."""

    dtype = np.dtype(np.uint8)

    def __init__(self, read: Callable[[int], bytes], first_item: int, shape: tuple[int, ...]) -> None:
        self._read, self._first_item, self.shape = read, first_item, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, units: slice | int) -> np.ndarray:
        if isinstance(units, int):
            unit = range(len(self))[units]
            return self[unit : unit + 1][0]
        start, stop, _ = units.indices(len(self))
        if start >= stop:
            return np.zeros((0, *self.shape[1:]), self.dtype)
        first = start // PIECE_UNITS
        pieces = [self._piece(i) for i in range(first, -(-stop // PIECE_UNITS))]
        return np.concatenate(pieces)[start - first * PIECE_UNITS : stop - first * PIECE_UNITS]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them."""
        del copy
        return self[:].astype(dtype or self.dtype, copy=False)

    def _piece(self, i: int) -> np.ndarray:
        return np.frombuffer(self._read(self._first_item + i), self.dtype).reshape(-1, *self.shape[1:])


class Record(NamedTuple):
    """A stretch of a session; what is typed, said and heard stands in the unit in which it can be known."""

    name: str  # of the session, and where in it the record begins
    licence: str
    first_unit: int  # units of the session before this record
    words: list[dict[str, Any]]  # {"who", "start_ms", "end_ms", "text"} that begin in it; times since the session began
    words_moved: int  # whose last token stands in a later unit than they were typed or said in
    labels: dict[str, Any]  # of the whole session, as session.json has them
    streams: Streams
    user_frames: UInt8[np.ndarray, "U f H W 3"] | StoredFrames
    user_samples: Int16[np.ndarray, "U n"]
    agent_frames: UInt8[np.ndarray, "U f h w 3"] | StoredFrames
    agent_samples: Int16[np.ndarray, "U n"]
    frame_before: UInt8[np.ndarray, "h w 3"]  # of the agent, before the first unit: at a session's start its portrait
    user_text: Int32[np.ndarray, "U Nu"]  # typed
    n_user_text: Int32[np.ndarray, " U"]
    agent_text: Int32[np.ndarray, "U Na"]  # each unit's with <unit_end>
    n_agent_text: Int32[np.ndarray, " U"]
    heard: Int32[np.ndarray, "U Na"]  # the user's words, each in the unit in which it can be told, with <unit_end>
    n_heard: Int32[np.ndarray, " U"]
    persona: Int32[np.ndarray, " P"]
    portrait: UInt8[np.ndarray, "h w 3"]
    voice: Int16[np.ndarray, " m"]
    latents: AgentLatents | None = None

    @property
    def n_units(self) -> int:
        """How long it is."""
        return len(self.n_agent_text)


_ABOUT = ("name", "licence", "first_unit", "words", "words_moved", "labels", "streams")
_FRAMES = ("user_frames", "agent_frames")
_ARRAYS = tuple(field for field in Record._fields if field not in (*_ABOUT, *_FRAMES, "latents"))


def encode(record: Record) -> Iterator[bytes]:
    """A record as items: the head and the pieces."""
    yield _head(record)
    for name in _FRAMES:
        frames = getattr(record, name)
        for start in range(0, record.n_units, PIECE_UNITS):
            yield np.ascontiguousarray(frames[start : start + PIECE_UNITS]).tobytes()


def decode(read: Callable[[int], bytes]) -> Record:
    """The record whose items `read` gives by number; of its frames none is read yet, its arrays are read-only.

    Raises:
        ValueError: item 0 is no head of a record.
    """
    data = read(0)
    try:
        (length,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size + length
        header = json.loads(data[_LENGTH.size : start])
        found: dict[str, Any] = dict(_views(data, start + len(_padding(start)), header["arrays"] | header["latents"]))
        latents = AgentLatents(**{name: found.pop(name) for name in header["latents"]}) if header["latents"] else None
        first_item = 1
        for name in _FRAMES:
            shape = tuple(header["frames"][name])
            found[name] = StoredFrames(read, first_item, shape)
            first_item += -(-shape[0] // PIECE_UNITS)
        about = header["about"] | {"streams": Streams(**header["about"]["streams"])}
        return Record(**about, **found, latents=latents)
    except (struct.error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no record: {type(error).__name__}: {error}") from error


def _head(record: Record) -> bytes:
    arrays = {name: getattr(record, name) for name in _ARRAYS}
    latents = {} if record.latents is None else record.latents._asdict()
    header = {
        "about": {name: getattr(record, name) for name in _ABOUT} | {"streams": record.streams._asdict()},
        "frames": {name: list(getattr(record, name).shape) for name in _FRAMES},
        "arrays": {name: [x.dtype.str, list(x.shape)] for name, x in arrays.items()},
        "latents": {name: [x.dtype.str, list(x.shape)] for name, x in latents.items()},
    }
    text = json.dumps(header).encode()
    parts = [_LENGTH.pack(len(text)), text, _padding(_LENGTH.size + len(text))]
    for x in (*arrays.values(), *latents.values()):
        parts += [np.ascontiguousarray(x).tobytes(), _padding(x.nbytes)]
    return b"".join(parts)


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
