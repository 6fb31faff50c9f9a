"""Pictures, films and sounds that show what a stage does: arrays in [-1, 1] on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8

from wanstreamer_jax.media import writer
from wanstreamer_jax.media.picture import write_png
from wanstreamer_jax.timeline import SAMPLES_PER_FRAME

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


def write_film(path: Path, clips: Float[np.ndarray, "K T H W 3"]) -> None:
    """Clips one after the other, as MP4."""
    frames = as_bytes(rearrange(clips, "K T H W C -> (K T) H W C"))
    writer.write_film(path, frames, np.zeros(len(frames) * SAMPLES_PER_FRAME, np.float32))


def write_compared(folder: Path, name: str, clips: Sequence[Float[np.ndarray, "K T H W 3"]]) -> None:
    """Six moments of each of several films as a sheet, and the films as one, above each other."""
    at = np.linspace(0, clips[0].shape[1] - 1, 6).astype(int)
    write_sheet(folder / f"{name}.png", [tiles(x[:, at]) for x in clips])
    write_film(folder / f"{name}.mp4", np.concatenate(clips, axis=2))
