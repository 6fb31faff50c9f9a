"""What goes over a connection (docs/serving.md has it as tables): binary messages for media, JSON for all else.

    binary    1 byte kind | 8 bytes media time in ms, float64 | payload          little endian
    JSON      {"type": "...", ...}

Whatever is wrong with a message has a name, and is found before anything is decoded.
"""

import json
import math
import struct
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from wanstreamer_jax.media.sound import FULL_SCALE
from wanstreamer_jax.serving.pictures import LARGEST_PORTRAIT_SIDE, BadPictureError, check_picture
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

PROTOCOL = "wan-streamer.v1"  # the subprotocol of the WebSocket

PICTURE, SOUND, PORTRAIT, VOICE = 1, 2, 3, 4  # kinds
HEADER = struct.Struct("<Bd")

MOST_MESSAGE_BYTES = 1 << 20
MOST_JSON_BYTES = 1 << 14
MOST_TEXT = 2000  # characters of a message or a persona
MOST_SOUND_S, MOST_VOICE_S = 1.0, 10.0
MOST_PICTURE_BYTES = 1 << 19
LATEST_MS = 2.0**43  # centuries: a time beyond is none
PORTRAIT_FORMATS = ("JPEG", "PNG", "WEBP")


class WireError(ValueError):
    """A message that is wrong; `name` is for programs, the message for people."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class PictureIn(NamedTuple):
    """A picture of the user."""

    time_ms: float
    jpeg: bytes


class SoundIn(NamedTuple):
    """Sound of the user; the time is that of its first sample."""

    time_ms: float
    samples: Float32[np.ndarray, " n"]


class PortraitIn(NamedTuple):
    """What the agent is to look like; before `start`."""

    data: bytes


class VoiceIn(NamedTuple):
    """What the agent is to sound like; before `start`."""

    samples: Float32[np.ndarray, " n"]


class StartIn(NamedTuple):
    """Begin the conversation."""

    persona: str
    seed: int | None
    record: bool


class TextIn(NamedTuple):
    """What the user typed."""

    text: str


class PingIn(NamedTuple):
    """To be answered at once, with the same time."""

    time_ms: float


class StopIn(NamedTuple):
    """End the conversation."""


BinaryIn = PictureIn | SoundIn | PortraitIn | VoiceIn
JsonIn = StartIn | TextIn | PingIn | StopIn


def parse_binary(data: bytes) -> BinaryIn:
    """A binary message of a user.

    Raises:
        WireError: no_message, bad_time, bad_picture, bad_sound, unknown_kind.
    """
    if len(data) <= HEADER.size:
        raise WireError("no_message", f"a binary message has {HEADER.size} bytes before its payload, not {len(data)}")
    kind, time_ms = HEADER.unpack_from(data)
    payload = data[HEADER.size :]
    if not (math.isfinite(time_ms) and abs(time_ms) < LATEST_MS):
        raise WireError("bad_time", f"a media time of {time_ms} ms")
    if kind == PICTURE:
        return PictureIn(time_ms, _picture(payload))
    if kind == SOUND:
        return SoundIn(time_ms, _sound(payload, MOST_SOUND_S))
    if kind == PORTRAIT:
        return PortraitIn(_portrait(payload))
    if kind == VOICE:
        return VoiceIn(_sound(payload, MOST_VOICE_S))
    raise WireError("unknown_kind", f"kind {kind}: 1 is a picture, 2 sound, 3 a portrait, 4 a voice")


def parse_json(text: str) -> JsonIn:
    """A JSON message of a user.

    Raises:
        WireError: bad_json, unknown_type, unknown_field, bad_field, text_too_long.
    """
    if len(text) > MOST_JSON_BYTES:
        raise WireError("text_too_long", f"a JSON message of {len(text)} characters: {MOST_JSON_BYTES} at most")
    try:
        fields: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError("bad_json", "a text message is a JSON object, and this is no JSON") from error
    if not isinstance(fields, dict):
        raise WireError("bad_json", 'a text message is a JSON object, such as {"type": "ping", "time_ms": 0}')
    kind = fields.pop("type", None)
    if kind == "start":
        return _start(fields)
    if kind == "text":
        return TextIn(**_fields(fields, text=_text))
    if kind == "ping":
        return PingIn(**_fields(fields, time_ms=_time))
    if kind == "stop":
        return StopIn(**_fields(fields))
    raise WireError("unknown_type", 'unknown "type": there are start, text, ping and stop')


def pack(kind: int, time_ms: float, payload: bytes) -> bytes:
    """A binary message."""
    return HEADER.pack(kind, time_ms) + payload


def pcm16(samples: Float[np.ndarray, " n"]) -> bytes:
    """Sound in [-1, 1] as integers of 16 bits."""
    return np.round(np.clip(samples, -1, 1) * FULL_SCALE).astype("<i2").tobytes()


def _picture(payload: bytes) -> bytes:
    if len(payload) > MOST_PICTURE_BYTES:
        raise WireError("bad_picture", f"a picture of {len(payload)} bytes: {MOST_PICTURE_BYTES} at most")
    try:
        check_picture(payload)
    except BadPictureError as error:
        raise WireError("bad_picture", str(error)) from error
    return payload


def _portrait(payload: bytes) -> bytes:
    try:
        check_picture(payload, LARGEST_PORTRAIT_SIDE, PORTRAIT_FORMATS)
    except BadPictureError as error:
        raise WireError("bad_picture", str(error)) from error
    return payload


def _sound(payload: bytes, most_s: float) -> Float32[np.ndarray, " n"]:
    n_samples, odd = divmod(len(payload), 2)
    if odd or not 0 < n_samples <= most_s * SAMPLE_RATE_HZ:
        raise WireError(
            "bad_sound",
            f"sound of {len(payload)} bytes: 16-bit samples, {SAMPLE_RATE_HZ} a second, for {most_s:g} s at most",
        )
    return np.frombuffer(payload, "<i2").astype(np.float32) / (FULL_SCALE + 1)


def _start(fields: dict[str, Any]) -> StartIn:
    given = _fields({"persona": "", "seed": None, "record": False} | fields, persona=_text, seed=_seed, record=_flag)
    return StartIn(**given)


def _fields(fields: dict[str, Any], **checks: Any) -> dict[str, Any]:
    """Exactly these fields, each as its check returns it."""
    if unknown := sorted(fields.keys() - checks.keys()):
        raise WireError("unknown_field", f"unknown field {unknown[0][:40]!r}")
    if missing := sorted(checks.keys() - fields.keys()):
        raise WireError("bad_field", f"the field {missing[0]!r} is missing")
    return {name: check(name, fields[name]) for name, check in checks.items()}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise WireError("bad_field", f"{name} is to be a text")
    if len(value) > MOST_TEXT:
        raise WireError("text_too_long", f"a {name} of {len(value)} characters: {MOST_TEXT} at most")
    return value


def _time(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < LATEST_MS:
        raise WireError("bad_field", f"{name} is to be a number of milliseconds")
    return float(value)


def _seed(name: str, value: Any) -> int | None:
    if value is None or (type(value) is int and 0 <= value < 2**31):
        return value
    raise WireError("bad_field", f"{name} is to be an integer of 31 bits")


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise WireError("bad_field", f"{name} is to be true or false")
    return value
