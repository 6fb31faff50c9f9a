"""The compressed forms of a conversation's media: H.264 pictures (Annex B) and Opus sound, a packet at a time.

A decoder takes whatever a client sends: it is bounded in memory, its errors have one name, and the next key frame
makes all well again. Times are those of the media: an encoder's delay has been taken off.
"""

import re
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from jaxtyping import Float, Float32, UInt8

from wanstreamer_jax.media.picture import Fitter
from wanstreamer_jax.serving.pictures import LARGEST_SIDE, BadPictureError
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_MS, VIDEO_FPS, Picture

# Key frames come when they are asked for, so that the one who asks knows which pictures need no others.
_X264 = {
    "preset": "superfast",
    "tune": "zerolatency",
    "profile": "baseline",
    "crf": "21",
    "maxrate": "3M",
    "bufsize": "1M",
    "forced-idr": "1",
    "x264-params": "scenecut=0:keyint=infinite:colorprim=bt709:transfer=iec61966-2-1:colormatrix=smpte170m",
}
# The size is checked again where the memory is taken: who looks at the head of a packet may see another one.
_H264 = {"flags": "low_delay", "err_detect": "explode", "max_pixels": str(LARGEST_SIDE**2)}
_START_CODE = b"\0\0\1"
_SIZE = re.compile(rb"\x00\x00\x01[\x07\x27\x47\x67]")  # a sequence parameter set (7)
MOST_NALS = 32  # of a picture: each may be made to cost as much as the whole picture

PACKET_MS = 20
MOST_PACKET_MS = 120
BIT_RATE = 32_000
_PACKET_SAMPLES = PACKET_MS * SAMPLE_RATE_HZ // 1000
# How long one frame lasts, by the first five bits of a packet (RFC 6716, section 3.1).
_FRAME_MS = 3 * (10, 20, 40, 60) + 2 * (10, 20) + 4 * (2.5, 5, 10, 20)
# Opus decodes to 48 kHz: half of it, below 12 kHz. The filter looks so many samples ahead.
_REACH = 24
_AHEAD_MS = _REACH / 48
_AT = np.arange(-_REACH, _REACH + 1)
_LOW_PASS = (0.47 * np.sinc(0.47 * _AT) * np.hamming(2 * _REACH + 1)).astype(np.float32)
_FULL_SCALE = 2**15


class BadSoundError(ValueError):
    """Bytes that are no packet of sound; the message says why."""


class StreamPicture(NamedTuple):
    """A picture of a stream; one that is `key` can be decoded without those before."""

    data: bytes
    key: bool


class PictureEncoder:
    """Pictures of one size as H.264: the first is a key frame, and whichever is wanted to be."""

    def __init__(self, picture: Picture) -> None:
        """`picture` has even sides, as every picture of an agent."""
        codec = VideoCodecContext.create("libx264", "w")
        assert isinstance(codec, VideoCodecContext)
        codec.width, codec.height, codec.pix_fmt = picture.width, picture.height, "yuv420p"
        codec.time_base, codec.framerate = Fraction(1, VIDEO_FPS), Fraction(VIDEO_FPS)
        codec.thread_count = 1
        codec.options = dict(_X264)
        self._codec, self._n = codec, 0
        self._reformatter = VideoReformatter()

    def encode(self, rgb: UInt8[np.ndarray, "H W 3"], *, key: bool) -> StreamPicture:
        """The next picture."""
        frame = self._reformatter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.SMPTE170M,
            threads=1,
        )
        frame.pts, self._n = self._n, self._n + 1
        frame.pict_type = PictureType.I if key else PictureType.NONE
        (packet,) = self._codec.encode(frame)
        return StreamPicture(bytes(packet), packet.is_keyframe)


def check_stream_picture(data: bytes) -> None:
    """Look at the head of an H.264 picture; nothing is decoded.

    Raises:
        BadPictureError: it is not one picture, or too large.
    """
    n_nals = data.count(_START_CODE)
    if not 0 < n_nals <= MOST_NALS:
        raise BadPictureError(f"an H.264 picture (Annex B) has 1 to {MOST_NALS} NAL units, not {n_nals}")
    head = VideoCodecContext.create("h264", "r")
    assert isinstance(head, VideoCodecContext)
    try:
        n_pictures = len(head.parse(data)) + len(head.parse(None))
    except Exception as error:  # damaged heads raise whatever their reader does
        raise BadPictureError(f"a damaged picture: {error}") from error
    if n_pictures != 1:
        raise BadPictureError(f"one H.264 picture a message, not {n_pictures}")
    if _SIZE.search(data) and not head.width:
        raise BadPictureError("a picture whose size cannot be read, or is absurd")
    if max(head.width, head.height) > LARGEST_SIDE:
        raise BadPictureError(f"a picture of {head.width}x{head.height} pixels: {LARGEST_SIDE} a side at most")


class PictureDecoder:
    """Pictures of one client, fitted into `picture`. After an error it waits for a key frame."""

    def __init__(self, picture: Picture, codec: str = "h264") -> None:
        self._fitter = Fitter(picture, Fraction(1))
        self._name = codec
        self._codec: VideoCodecContext | None = None

    @property
    def waits(self) -> bool:
        """Whether nothing can be decoded before the next key frame."""
        return self._codec is None

    def lose(self) -> None:
        """A picture was left out: what follows cannot be decoded."""
        self._codec = None

    def decode(self, picture: StreamPicture) -> UInt8[np.ndarray, "H W 3"] | None:
        """What a picture shows; None when that needs another one first.

        Raises:
            BadPictureError: it is damaged, or too large.
        """
        if self._codec is None:
            if not picture.key:
                return None
            self._codec = _decoder(self._name)
        try:
            frames = self._codec.decode(Packet(picture.data))
            self._check(frames)
            return self._fitter(frames[-1]) if frames else None
        except Exception as error:  # damaged streams raise whatever their decoder does
            self._codec = None
            raise BadPictureError(f"a picture that cannot be decoded: {error}") from error

    @staticmethod
    def _check(frames: list[VideoFrame]) -> None:
        for frame in frames:
            if frame.is_corrupt:
                raise BadPictureError("parts are missing")
            if max(frame.width, frame.height) > LARGEST_SIDE:
                raise BadPictureError(f"{frame.width}x{frame.height} pixels, {LARGEST_SIDE} a side at most")


def _decoder(name: str) -> VideoCodecContext:
    codec = VideoCodecContext.create(name, "r")
    assert isinstance(codec, VideoCodecContext)
    codec.thread_count = 1
    codec.options = dict(_H264)
    return codec


class SoundEncoder:
    """Sound as Opus packets of 20 ms."""

    def __init__(self) -> None:
        codec = AudioCodecContext.create("libopus", "w")
        assert isinstance(codec, AudioCodecContext)
        codec.sample_rate, codec.layout, codec.format = SAMPLE_RATE_HZ, "mono", "flt"
        codec.bit_rate, codec.time_base = BIT_RATE, Fraction(1, SAMPLE_RATE_HZ)
        codec.options = {"frame_duration": str(PACKET_MS)}
        self._codec = codec

    def encode(self, time_ms: float, samples: Float[np.ndarray, " n"]) -> list[tuple[float, bytes]]:
        """Sound that begins at a time, and follows on what was encoded before.

        Returns:
            Packets, each with the time of the first sample it is decoded to.
        """
        packets = []
        start = round(time_ms * SAMPLES_PER_MS)
        pieces = samples.astype(np.float32).reshape(-1, 1, _PACKET_SAMPLES)
        for i, piece in enumerate(pieces):
            frame = AudioFrame.from_ndarray(piece, format="flt", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, start + i * _PACKET_SAMPLES
            # The encoder's stamps know its delay: they are 6.5 ms earlier than what was put in.
            packets += [((p.pts or 0) / SAMPLES_PER_MS, bytes(p)) for p in self._codec.encode(frame)]
        return packets


def check_packet(data: bytes) -> None:
    """Look at the head of an Opus packet; nothing is decoded.

    Raises:
        BadSoundError: it lasts too long.
    """
    count = data[0] & 3  # 0: one frame, 1 and 2: two, 3: the next byte says how many
    n_frames = (1, 2, 2, data[1] & 63 if len(data) > 1 else 0)[count]
    lasts_ms = n_frames * _FRAME_MS[data[0] >> 3]
    if not 0 < lasts_ms <= MOST_PACKET_MS:
        raise BadSoundError(f"an Opus packet of {lasts_ms:g} ms: {MOST_PACKET_MS} at most")


class SoundDecoder:
    """Opus packets of one client as mono sound of 24 kHz."""

    def __init__(self) -> None:
        codec = AudioCodecContext.create("libopus", "r")
        assert isinstance(codec, AudioCodecContext)
        codec.layout = "mono"  # two channels are mixed
        self._codec = codec
        self._before = np.zeros(2 * _REACH, np.float32)

    def decode(self, time_ms: float, packet: bytes) -> tuple[float, Float32[np.ndarray, " n"]]:
        """The time of the first sample, and the samples.

        Raises:
            BadSoundError: it is damaged.
        """
        try:
            frames = self._codec.decode(Packet(packet))
        except Exception as error:  # damaged packets raise whatever their decoder does
            raise BadSoundError(f"an Opus packet that cannot be decoded: {error}") from error
        if not frames:
            raise BadSoundError("an Opus packet without sound")
        decoded = [frame.to_ndarray().reshape(-1) for frame in frames]
        line = np.concatenate([self._before, *decoded], dtype=np.float32)
        self._before = line[-2 * _REACH :]
        samples = np.convolve(line, _LOW_PASS, "valid")[::2] / _FULL_SCALE
        return time_ms - _AHEAD_MS, samples.astype(np.float32)
