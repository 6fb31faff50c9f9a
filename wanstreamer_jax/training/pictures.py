"""Pictures, films and sounds that show what a stage does: arrays in [-1, 1] on disk."""

import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from einops import rearrange
from jaxtyping import Float, UInt8

from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, VIDEO_FPS

GAP = 2  # pixels between rows of a sheet


def as_bytes(x: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Pixels in [-1, 1] as bytes."""
    return np.clip(np.round((np.asarray(x, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def tiles(clips: Float[np.ndarray, "K T H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Frames side by side in one row."""
    return as_bytes(rearrange(clips, "K T H W C -> H (K T W) C"))


def write_sheet(path: Path, rows: Sequence[UInt8[np.ndarray, "_ w 3"]]) -> None:
    """Rows of equal width, one above the other, as PNG."""
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    write_png(path, np.concatenate([part for row in rows for part in (row, gap)][:-1]))


def write_png(path: Path, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    """One picture."""
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.codec_context.width, stream.codec_context.height = picture.shape[1], picture.shape[0]
        stream.codec_context.pix_fmt = "rgb24"
        for frame in (VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"), None):
            container.mux(stream.encode(frame))


def write_film(path: Path, clips: Float[np.ndarray, "K T H W 3"]) -> None:
    """Clips one after the other, as MP4."""
    frames = as_bytes(rearrange(clips, "K T H W C -> (K T) H W C"))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(VIDEO_FPS), options={"crf": "18"})
        stream.codec_context.width, stream.codec_context.height = frames.shape[2], frames.shape[1]
        stream.codec_context.pix_fmt = "yuv420p"
        for frame in (*(VideoFrame.from_ndarray(f, format="rgb24") for f in frames), None):
            container.mux(stream.encode(frame))


def write_wav(path: Path, samples: Float[np.ndarray, " n"]) -> None:
    """One sound."""
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        out.writeframes(np.round(np.clip(samples, -1, 1) * (2**15 - 1)).astype("<i2").tobytes())
