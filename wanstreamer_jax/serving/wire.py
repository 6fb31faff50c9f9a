"""What goes over a connection (docs/serving.md has it as tables): binary messages for media, JSON for all else.

    binary    1 byte kind | 8 bytes media time in ms, float64 | payload          little endian
    JSON      {"type": "...", ...}

Whatever is wrong with a message has a name, and is found before anything is decoded.
"""

import json
import math
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from wanstreamer_jax.media.sound import FULL_SCALE
from wanstreamer_jax.serving.codecs import BadSoundError, StreamPicture, check_packet, check_stream_picture
from wanstreamer_jax.serving.pictures import LARGEST_PORTRAIT_SIDE, BadPictureError, check_picture
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

PROTOCOL = "wan-streamer.v1"  # the subprotocol of the WebSocket

PICTURE, SOUND, PORTRAIT, VOICE = 1, 2, 3, 4  # kinds
KEY_PICTURE, NEXT_PICTURE, PACKET = 5, 6, 7  # compressed: H.264, without and with need of those before; Opus
HEADER = struct.Struct("<Bd")

MOST_MESSAGE_BYTES = 1 << 20
MOST_JSON_BYTES = 1 << 14
MOST_TEXT = 2000  # characters of a message or a persona
MOST_SOUND_S, MOST_VOICE_S = 1.0, 10.0
MOST_PICTURE_BYTES = 1 << 19
LATEST_MS = 2.0**43  # centuries: a time beyond is none
MOST_PACKET_BYTES = 1 << 13
PORTRAIT_FORMATS = ("JPEG", "PNG", "WEBP")
PICTURE_FORMS, SOUND_FORMS = ("jpeg", "h264"), ("pcm", "opus")  # the first of each is the default


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


class StreamPictureIn(NamedTuple):
    """A picture of the user, compressed."""

    time_ms: float
    picture: StreamPicture


class PacketIn(NamedTuple):
    """Sound of the user, compressed; the time is that of the first sample it is decoded to."""

    time_ms: float
    data: bytes


class PortraitIn(NamedTuple):
    """What the agent is to look like; before `start`."""

    data: bytes


class VoiceIn(NamedTuple):
    """What the agent is to sound like; before `start`."""

    samples: Float32[np.ndarray, " n"]


class FormsIn(NamedTuple):
    """How the client wants its media; asked for at the start, and at any time after."""

    pictures: str = PICTURE_FORMS[0]
    sound: str = SOUND_FORMS[0]


class KeyFrameIn(NamedTuple):
    """The next picture is to be one that needs none before it."""


class StartIn(NamedTuple):
    """Begin the conversation."""

    persona: str
    seed: int | None
    record: bool
    forms: FormsIn


class TextIn(NamedTuple):
    """What the user typed."""

    text: str


class PingIn(NamedTuple):
    """To be answered at once, with the same time."""

    time_ms: float


class StopIn(NamedTuple):
    """End the conversation."""


MediaIn = PictureIn | SoundIn | StreamPictureIn | PacketIn
BinaryIn = MediaIn | PortraitIn | VoiceIn
JsonIn = StartIn | TextIn | PingIn | StopIn | FormsIn | KeyFrameIn


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
    parse = _PARSERS.get(kind)
    if parse is None:
        raise WireError("unknown_kind", f"kind {kind}: {_KINDS}")
    try:
        return parse(time_ms, payload)
    except BadPictureError as error:
        raise WireError("bad_picture", str(error)) from error
    except BadSoundError as error:
        raise WireError("bad_sound", str(error)) from error


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
    if kind == "forms":
        return _forms(fields)
    if kind == "key_frame":
        return KeyFrameIn(**_fields(fields))
    raise WireError("unknown_type", 'unknown "type": there are start, text, ping, forms, key_frame and stop')


def pack(kind: int, time_ms: float, payload: bytes) -> bytes:
    """A binary message."""
    return HEADER.pack(kind, time_ms) + payload


def pcm16(samples: Float[np.ndarray, " n"]) -> bytes:
    """Sound in [-1, 1] as integers of 16 bits."""
    return np.round(np.clip(samples, -1, 1) * FULL_SCALE).astype("<i2").tobytes()


def _picture(time_ms: float, payload: bytes) -> PictureIn:
    _check_size(payload)
    check_picture(payload)
    return PictureIn(time_ms, payload)


def _stream_picture(time_ms: float, payload: bytes, *, key: bool) -> StreamPictureIn:
    _check_size(payload)
    check_stream_picture(payload)
    return StreamPictureIn(time_ms, StreamPicture(payload, key))


def _check_size(payload: bytes) -> None:
    if len(payload) > MOST_PICTURE_BYTES:
        raise BadPictureError(f"a picture of {len(payload)} bytes: {MOST_PICTURE_BYTES} at most")


def _packet(time_ms: float, payload: bytes) -> PacketIn:
    if len(payload) > MOST_PACKET_BYTES:
        raise BadSoundError(f"an Opus packet of {len(payload)} bytes: {MOST_PACKET_BYTES} at most")
    check_packet(payload)
    return PacketIn(time_ms, payload)


def _portrait(_time_ms: float, payload: bytes) -> PortraitIn:
    check_picture(payload, LARGEST_PORTRAIT_SIDE, PORTRAIT_FORMATS)
    return PortraitIn(payload)


def _samples(payload: bytes, most_s: float) -> Float32[np.ndarray, " n"]:
    n_samples, odd = divmod(len(payload), 2)
    if odd or not 0 < n_samples <= most_s * SAMPLE_RATE_HZ:
        raise BadSoundError(
            f"sound of {len(payload)} bytes: 16-bit samples, {SAMPLE_RATE_HZ} a second, for {most_s:g} s at most"
        )
    return np.frombuffer(payload, "<i2").astype(np.float32) / (FULL_SCALE + 1)


_PARSERS: dict[int, Callable[[float, bytes], BinaryIn]] = {
    PICTURE: _picture,
    SOUND: lambda time_ms, payload: SoundIn(time_ms, _samples(payload, MOST_SOUND_S)),
    PORTRAIT: _portrait,
    VOICE: lambda _, payload: VoiceIn(_samples(payload, MOST_VOICE_S)),
    KEY_PICTURE: partial(_stream_picture, key=True),
    NEXT_PICTURE: partial(_stream_picture, key=False),
    PACKET: _packet,
}
_KINDS = "1 and 2 are a picture and sound, 3 and 4 a portrait and a voice, 5 to 7 H.264 and Opus"


def _start(fields: dict[str, Any]) -> StartIn:
    forms = _forms({name: fields.pop(name) for name in FormsIn._fields if name in fields})
    given = _fields({"persona": "", "seed": None, "record": False} | fields, persona=_text, seed=_seed, record=_flag)
    return StartIn(**given, forms=forms)


def _forms(fields: dict[str, Any]) -> FormsIn:
    given = FormsIn()._asdict() | fields
    return FormsIn(**_fields(given, pictures=_one_of(PICTURE_FORMS), sound=_one_of(SOUND_FORMS)))


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


def _one_of(forms: tuple[str, ...]) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value not in forms:
            raise WireError("bad_field", f"{name} is to be {' or '.join(forms)}")
        return value

    return check


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise WireError("bad_field", f"{name} is to be true or false")
    return value
