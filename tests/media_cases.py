"""Awkward recordings, made with PyAV: each source frame shows its own number, the sound is beeps at known times."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

N_BITS = 8
BEEP_S = 0.12
BEEP_HZ = 1000
MS = Fraction(1, 1000)


class Video(NamedTuple):
    codec: str = "libx264"
    starts_s: tuple[float, ...] = tuple(i / 25 for i in range(50))  # of its frames
    time_base: Fraction = Fraction(1, 12_800)
    size: tuple[int, int] = (112, 64)
    pix_fmt: str = "yuv420p"
    pixel_aspect: Fraction | None = None
    options: tuple[tuple[str, str], ...] = ()


class Audio(NamedTuple):
    codec: str = "aac"
    rate: int = 48_000
    layout: str = "stereo"
    start_s: float = 0.0
    seconds: float = 2.0
    beeps_s: tuple[float, ...] = (0.5, 1.3)  # on the recording's clock
    gap_s: tuple[float, float] = (0.0, 0.0)  # from, to: not recorded


def steady(fps: float, start_s: float = 0.0) -> tuple[float, ...]:
    """Two seconds of frames."""
    return tuple(start_s + i / fps for i in range(round(fps * 2)))


def record(path: Path, video: Video | None, audio: Audio | None, **options: str) -> Path:
    with av.open(str(path), "w", options=options) as container:
        # Both streams must be there before the first packet is written.
        sources = [_video(container, video)] if video else []
        sources += [_audio(container, audio)] if audio else []
        container.start_encoding()
        for source in sources:
            for packet in source:
                container.mux(packet)
    return path


def _video(container, spec: Video) -> Iterator[av.Packet]:
    rate = 1 / spec.time_base if spec.time_base.denominator <= 1000 else 25
    stream = container.add_stream(spec.codec, rate=rate, options=dict(spec.options))
    stream.codec_context.time_base = spec.time_base
    stream.width, stream.height, stream.pix_fmt = *spec.size, spec.pix_fmt
    if spec.pixel_aspect is not None:
        stream.codec_context.sample_aspect_ratio = spec.pixel_aspect
    return _encoded_video(stream, spec)


def _encoded_video(stream, spec: Video) -> Iterator[av.Packet]:
    for n, start_s in enumerate(spec.starts_s):
        frame = av.VideoFrame.from_ndarray(numbered(n, *spec.size)).reformat(format=spec.pix_fmt)
        frame.pts, frame.time_base = round(start_s / spec.time_base), spec.time_base
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _audio(container, spec: Audio) -> Iterator[av.Packet]:
    return _encoded_audio(container.add_stream(spec.codec, rate=spec.rate, layout=spec.layout), spec)


def _encoded_audio(stream, spec: Audio) -> Iterator[av.Packet]:
    sound, step = beeps(spec), spec.rate // 50
    for first in range(0, len(sound), step):
        if spec.gap_s[0] <= spec.start_s + first / spec.rate < spec.gap_s[1]:
            continue
        channels = np.tile(sound[first : first + step], (stream.layout.nb_channels, 1))
        frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=spec.layout)
        frame.sample_rate, frame.time_base = spec.rate, Fraction(1, spec.rate)
        frame.pts = round(spec.start_s * spec.rate) + first
        yield from stream.encode(frame)
    yield from stream.encode(None)


def beeps(spec: Audio) -> np.ndarray:
    time_s = spec.start_s + np.arange(round(spec.seconds * spec.rate)) / spec.rate
    loud = np.any([(b <= time_s) & (time_s < b + BEEP_S) for b in spec.beeps_s], axis=0)
    return (0.5 * loud * np.sin(2 * np.pi * BEEP_HZ * time_s)).astype(np.float32)


def onsets_s(samples: np.ndarray, rate: int) -> list[float]:
    """When beeps start: the first loud sample after at least 50 ms without any."""
    loud = np.flatnonzero(np.abs(samples) > 0.2)
    return [float(n) / rate for n in loud[np.diff(loud, prepend=-rate) > rate // 20]]


def numbered(n: int, width: int, height: int) -> np.ndarray:
    """A frame that shows the number `n` as vertical stripes, highest bit first: white is 1."""
    bits = (n >> np.arange(N_BITS)[::-1]) & 1
    columns = np.repeat(bits, -(-width // N_BITS))[:width] * 255
    return np.broadcast_to(columns[None, :, None], (height, width, 3)).astype(np.uint8)


def number_of(frame: np.ndarray) -> int:
    """The number shown by a frame that fills its picture."""
    rows, columns = frame.shape[:2]
    centres = ((np.arange(N_BITS) + 0.5) * columns / N_BITS).astype(int)
    bits = frame[rows // 4 : -rows // 4, centres].mean((0, 2)) > 128
    return int(bits @ (1 << np.arange(N_BITS)[::-1]))


def quadrants(width: int, height: int) -> np.ndarray:
    """Red, green / blue, white: whichever way it is turned, it can be told."""
    small = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8)
    return small.repeat(height // 2, 0).repeat(width // 2, 1)


def record_still(path: Path, rgb: np.ndarray, codec: str = "ffv1", pix_fmt: str = "bgr0") -> Path:
    """Half a second of one picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *rgb.shape[:2], pix_fmt
        for n in range(5):
            frame = av.VideoFrame.from_ndarray(rgb).reformat(format=pix_fmt)
            frame.pts, frame.time_base = n, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn_clockwise(mp4: Path) -> None:
    """Write "show me turned by 90 degrees, clockwise" into the track header, as phones do."""
    data = bytearray(mp4.read_bytes())
    matrix = data.index(b"tkhd") + 44
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    mp4.write_bytes(data)


def claim_size(avi: Path, width: int, height: int) -> None:
    """Write another picture size into the stream format of an AVI file."""
    data = bytearray(avi.read_bytes())
    size = data.index(b"strf") + 12
    data[size : size + 8] = struct.pack("<2i", width, height)
    avi.write_bytes(data)


def damage_packets(path: Path, kind: str, first: int, n_packets: int) -> None:
    """Overwrite packets of the first stream of a kind with noise."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(**{kind: 0}) if p.size][first : first + n_packets]
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    for pos, size in places:
        data[pos : pos + size] = rng.bytes(size)
    path.write_bytes(data)
