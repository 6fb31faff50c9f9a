"""A media file as units on the clock: any container, codec, size, shape, rate and layout that PyAV reads."""

import itertools
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import av.error
import numpy as np
from av.video.frame import VideoFrame
from jaxtyping import Float32, UInt8

from wanstreamer_jax.media.clocks import PictureClock, SoundClock
from wanstreamer_jax.media.container import Damage, decode
from wanstreamer_jax.media.picture import Fitter, black
from wanstreamer_jax.media.probe import Track, probe
from wanstreamer_jax.media.sound import pieces
from wanstreamer_jax.media.stamps import Stamps
from wanstreamer_jax.timeline import (
    FRAMES_PER_UNIT,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_UNIT,
    VIDEO_FPS,
    Picture,
)

FRAME_S = 1 / VIDEO_FPS
STAMP_ERROR_S = 0.002  # containers round stamps to milliseconds: so little past the end of a frame is not a frame


class MediaUnit(NamedTuple):
    """What is seen and heard in one unit. After the end of the recording: its last picture, and silence."""

    frames: UInt8[np.ndarray, "frames h w 3"]  # RGB, FRAMES_PER_UNIT of them
    samples: Float32[np.ndarray, " samples"]  # in [-1, 1], SAMPLES_PER_UNIT of them
    n_frames: int  # of these, how many before the end: all but in the last unit
    n_samples: int


class MediaReader(AbstractContextManager["MediaReader"]):
    """The units of a media file, decoded as they are asked for; each iteration starts at the beginning.

    Frame i of the clock is the newest source frame that has started at i / 25 s, to the nearest frame; sound is
    placed by its stamps. Both count from the earlier of the first picture and the first sound.

    Attributes:
        seconds: how long the recording lasts.
        n_units: how many units that is; the last one may be partial.
        has_video: whether there are pictures; without, they are black.
        has_audio: whether there is sound; without, it is silence.
    """

    def __init__(self, path: Path, picture: Picture) -> None:
        self._path = path
        self._picture = picture
        self._info = probe(path)
        self._damage = Damage()
        self._running: Generator[MediaUnit, None, None] | None = None
        self.seconds = self._info.seconds
        self.has_video = self._info.video is not None
        self.has_audio = self._info.audio is not None
        self._n_frames = max(1, -int((STAMP_ERROR_S - self.seconds) // FRAME_S))
        self.n_units = -(-self._n_frames // FRAMES_PER_UNIT)

    @property
    def n_concealed(self) -> int:
        """Damaged packets and frames so far: the last picture was kept, the sound was silent."""
        return self._damage.n

    def __iter__(self) -> Generator[MediaUnit, None, None]:
        """Start at the beginning."""
        self.close()
        self._damage = Damage()
        self._running = self._units()
        return self._running

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._running is not None:
            self._running.close()

    def _units(self) -> Generator[MediaUnit, None, None]:
        seen, heard = self._seen(), self._heard()
        n_samples = round(self.seconds * SAMPLE_RATE_HZ)
        for k in range(self.n_units):
            yield MediaUnit(
                frames=np.stack(list(itertools.islice(seen, FRAMES_PER_UNIT))),
                samples=next(heard),
                n_frames=min(FRAMES_PER_UNIT, self._n_frames - k * FRAMES_PER_UNIT),
                n_samples=min(SAMPLES_PER_UNIT, n_samples - k * SAMPLES_PER_UNIT),
            )

    def _seen(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Every frame of the clock, for ever."""
        fitted, track = black(self._picture), self._info.video
        if track is None:
            yield from itertools.repeat(fitted)
            return
        clock = PictureClock(self._decoded_video(track), min(track.step_s, FRAME_S) / 2)
        fit, shown = Fitter(self._picture, track.pixel_aspect), None
        for i in itertools.count():
            frame = clock.at(i * FRAME_S)
            if frame is not shown:
                shown, fitted = frame, self._fit_or_keep(fit, frame, fitted)
            yield fitted

    def _decoded_video(self, track: Track) -> Iterator[tuple[float, VideoFrame]]:
        """Frames and when they start; one that comes after a newer one is too late to be seen."""
        stamps, latest_s = Stamps(), float("-inf")
        for frame in decode(self._path, track.stream_index, self._damage):
            start_s = stamps.place(frame.pts, frame.time_base, track.step_s)
            if start_s > latest_s:
                latest_s = start_s
                yield start_s - self._info.start_s, frame

    def _fit_or_keep(
        self, fit: Fitter, frame: VideoFrame, last: UInt8[np.ndarray, "h w 3"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        try:
            return fit(frame)
        except av.error.FFmpegError:
            self._damage.n += 1
            return last

    def _heard(self) -> Iterator[Float32[np.ndarray, " samples"]]:
        """The samples of every unit, for ever."""
        track = self._info.audio
        frames = decode(self._path, track.stream_index, self._damage) if track else iter(())
        clock = SoundClock(pieces(frames, self._info.start_s, self._damage))
        while True:
            yield clock.take(SAMPLES_PER_UNIT)


def open_media(path: Path, picture: Picture) -> MediaReader:
    """Open a media file of any kind as units of `picture`.

    Raises:
        MediaError: the file is missing, empty, cut off, no media, encrypted, too large, or lasts no time. The
            message names the file, the reason and what to do.
    """
    return MediaReader(path, picture)
