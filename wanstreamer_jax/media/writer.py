"""MP4 out: H.264 and AAC at the rates of the clock, complete or absent."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from jaxtyping import Float32, UInt8

from wanstreamer_jax.media.errors import MediaError
from wanstreamer_jax.media.output import Output, PendingFile
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, VIDEO_FPS, Picture

# Without macroblock trees: x264's AVX-512 code for them reads beyond its rows, so that one film becomes several files.
_VIDEO_OPTIONS = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}
_AUDIO_BITS_PER_S = 96_000
_BT709 = 1  # the code of ITU-T H.273 for its primaries, its transfer and its matrix alike
_LIMITED_RANGE = 1


def write_film(path: Path, frames: UInt8[np.ndarray, "n h w 3"], samples: Float32[np.ndarray, " m"]) -> None:
    """Write a whole film; errors as of `MediaWriter`."""
    with MediaWriter(path, Picture(frames.shape[2], frames.shape[1])) as writer:
        writer.write(frames, samples)


class MediaWriter(Output["MediaWriter"]):
    """Writes frames and samples as they come; the file lasts as long as its frames."""

    def __init__(self, path: Path, picture: Picture, source: Path | None = None) -> None:
        """Open an MP4 file of `picture` (even width and height); `source` is a file that must not be overwritten.

        Raises:
            MediaError: it cannot be written. Nothing has been.
        """
        self._path = path
        self._picture = picture
        self._pending = PendingFile(path, source)
        self._leftovers = ExitStack()
        self._leftovers.callback(self._pending.discard)
        self._is_open = True
        self._n_frames = 0
        self._n_samples = 0
        self._last = np.zeros((picture.height, picture.width, 3), np.uint8)
        with self._or_discard():
            self._open_streams()

    def write(self, frames: UInt8[np.ndarray, "n h w 3"], samples: Float32[np.ndarray, " m"]) -> None:
        """Append frames (RGB) and the sound that goes with them (in [-1, 1]); n and m may be anything.

        Raises:
            MediaError: it cannot be written (a full disk). The file has been discarded.
            ValueError: the frames are not of the writer's picture.
        """
        if frames.shape[1:3] != (self._picture.height, self._picture.width):
            raise ValueError(f"frames of shape {frames.shape} are not {self._picture}")
        with self._or_discard():
            for frame in frames:
                self._write_frame(frame)
            self._write_samples(samples)

    def finish(self) -> None:
        """Fill up the shorter of picture and sound and let the file appear; without a frame or sample, there is none.

        Raises:
            MediaError: it cannot be written (a full disk). The file has been discarded.
        """
        try:
            with self._or_discard():
                if self._is_open and self._n_frames + self._n_samples > 0:
                    self._fill_up()
                    self._close_streams()
                    self._pending.commit()
                    self._is_open = False
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._is_open:
            self._is_open = False
            with suppress(av.error.FFmpegError):  # a container that cannot be completed is deleted all the same
                self._leftovers.close()

    def _open_streams(self) -> None:
        self._container = av.open(str(self._pending.part), "w", format="mp4", options={"movflags": "+faststart"})
        self._leftovers.callback(self._container.close)
        self._video = self._container.add_stream("libx264", rate=VIDEO_FPS, options=_VIDEO_OPTIONS)
        context = self._video.codec_context
        context.width, context.height, context.pix_fmt = self._picture.width, self._picture.height, "yuv420p"
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED_RANGE
        self._audio = self._container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        self._audio.codec_context.bit_rate = _AUDIO_BITS_PER_S

    def _write_frame(self, rgb: UInt8[np.ndarray, "h w 3"]) -> None:
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = self._n_frames, Fraction(1, VIDEO_FPS)
        # Counted first: an interrupt may then cost a frame, but never gives two the same stamp.
        self._n_frames += 1
        self._last = rgb
        self._container.mux(self._video.encode(frame))

    def _write_samples(self, samples: Float32[np.ndarray, " m"]) -> None:
        if len(samples) == 0:
            return
        frame = AudioFrame.from_ndarray(np.clip(samples, -1, 1)[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        frame.pts, frame.time_base = self._n_samples, Fraction(1, SAMPLE_RATE_HZ)
        self._n_samples += len(samples)
        self._container.mux(self._audio.encode(frame))

    def _fill_up(self) -> None:
        for _ in range(-(-self._n_samples // SAMPLES_PER_FRAME) - self._n_frames):
            self._write_frame(self._last)
        self._write_samples(np.zeros(self._n_frames * SAMPLES_PER_FRAME - self._n_samples, np.float32))

    def _close_streams(self) -> None:
        for stream in (self._video, self._audio):
            self._container.mux(stream.encode(None))
        self._container.close()

    @contextmanager
    def _or_discard(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            self.discard()
            raise MediaError(
                self._path, f"cannot be written ({error.strerror})", "make room or name another place"
            ) from error
