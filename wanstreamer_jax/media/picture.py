"""A decoded frame of any size, shape and rotation, fitted into the agent's picture; a picture as a file."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from wanstreamer_jax.timeline import Picture

WIDEST_PIXEL = 8  # a pixel aspect beyond this, or its inverse, is a mistake in the file


def write_png(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write one picture as PNG."""
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.codec_context.width, stream.codec_context.height = image.shape[1], image.shape[0]
        stream.codec_context.pix_fmt = "rgb24"
        for frame in (VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"), None):
            container.mux(stream.encode(frame))


def black(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
    """A black picture."""
    return np.zeros((picture.height, picture.width, 3), np.uint8)


def fitted_size(width: int, height: int, pixel_aspect: Fraction, picture: Picture) -> tuple[int, int]:
    """Width and height in `picture` of a source of `width` x `height` pixels: as large as fits, aspect kept."""
    aspect = float(pixel_aspect) if Fraction(1, WIDEST_PIXEL) <= pixel_aspect <= WIDEST_PIXEL else 1.0
    scale = min(picture.width / (width * aspect), picture.height / height)
    return max(1, round(width * aspect * scale)), max(1, round(height * scale))


class Fitter:
    """Turns, scales and letterboxes frames into `picture`."""

    def __init__(self, picture: Picture, pixel_aspect: Fraction) -> None:
        self._picture = picture
        self._pixel_aspect = pixel_aspect
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """RGB, centred on black.

        Raises:
            av.error.FFmpegError: the frame's pixels are of a kind that cannot be converted.
        """
        quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise
        target = self._picture
        if quarter_turns % 2:
            target = Picture(target.height, target.width)
        size = fitted_size(frame.width, frame.height, self._pixel_aspect, target)
        # Lanczos of swscale widens with the scale: it averages when it shrinks.
        rgb = self._reformatter.reformat(frame, *size, format="rgb24", interpolation="LANCZOS").to_ndarray()
        return self._letterbox(np.rot90(rgb, quarter_turns))

    def _letterbox(self, rgb: UInt8[np.ndarray, "rows columns 3"]) -> UInt8[np.ndarray, "h w 3"]:
        canvas = black(self._picture)
        top, left = (self._picture.height - rgb.shape[0]) // 2, (self._picture.width - rgb.shape[1]) // 2
        canvas[top : top + rgb.shape[0], left : left + rgb.shape[1]] = rgb
        return canvas
