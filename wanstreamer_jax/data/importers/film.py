"""Sound in, and films out as session folders have them: sound without loss, pictures as they are."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from jaxtyping import Float32

from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.record import to_int16
from wanstreamer_jax.media import MediaError
from wanstreamer_jax.media.container import open_container
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

_BLOCK = 4096  # samples


def read_sound(file: Path) -> Float32[np.ndarray, "channels n"]:
    """All channels of a sound file, each by itself, at the clock's rate.

    Raises:
        DataError: it cannot be read, or holds no sound.
    """
    try:
        with open_container(file) as container:
            if not container.streams.audio:
                raise DataError(Problem(file, "holds no sound"))
            resampler = AudioResampler(format="fltp", rate=SAMPLE_RATE_HZ)
            frames = (*container.decode(audio=0), None)
            blocks = [part.to_ndarray() for frame in frames for part in resampler.resample(frame)]
    except MediaError as error:
        raise DataError(Problem(file, str(error).removeprefix(f"{file}: "))) from error
    except av.error.FFmpegError as error:
        raise DataError(Problem(file, f"cannot be decoded: {error}")) from error
    if not blocks:
        raise DataError(Problem(file, "holds no sound"))
    return np.concatenate(blocks, axis=1)


def write_film(file: Path, sound: Float32[np.ndarray, " n"], picture: Path | None = None) -> None:
    """Write an MP4 file of sound (FLAC, 16 bits) and the picture of another film, copied packet by packet.

    Raises:
        DataError: the picture cannot be read, or the film cannot be written.
    """
    try:
        with av.open(str(file), "w", format="mp4", options={"strict": "experimental"}) as out:
            audio = out.add_stream("flac", rate=SAMPLE_RATE_HZ, layout="mono", format="s16")
            if picture is not None:
                _copy_picture(picture, out)
            for frame in _frames(sound):
                out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    except MediaError as error:
        raise DataError(Problem(picture or file, str(error).removeprefix(f"{picture}: "))) from error
    except av.error.FFmpegError as error:
        raise DataError(Problem(file, f"cannot be written: {error}")) from error


def _copy_picture(source: Path, out: Any) -> None:
    with open_container(source) as container:
        if not container.streams.video:
            raise DataError(Problem(source, "holds no picture"))
        taken = container.streams.video[0]
        given = out.add_stream_from_template(taken)
        for packet in container.demux(taken):
            if packet.dts is not None:  # the end's marker has none
                packet.stream = given
                out.mux(packet)


def _frames(sound: Float32[np.ndarray, " n"]) -> Iterator[AudioFrame]:
    for start in range(0, len(sound), _BLOCK):
        samples = to_int16(sound[start : start + _BLOCK])
        frame = AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, start, Fraction(1, SAMPLE_RATE_HZ)
        yield frame
