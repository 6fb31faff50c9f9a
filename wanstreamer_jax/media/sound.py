"""Decoded sound of any rate, format and number of channels, as mono at the clock's rate; sound as a file."""

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from jaxtyping import Float32

from wanstreamer_jax.media.container import Damage
from wanstreamer_jax.media.stamps import Stamps
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

FULL_SCALE = 2**15 - 1  # of samples as integers

# Stamps in whole milliseconds, and clocks that drift, may be off by this much before sound is cut or moved.
LARGEST_SLIP_S = 0.010

# How loud each speaker's channel is in mono (ITU-R BS.775): centre, left and right, those behind; no subwoofer.
_GAINS = {"FC": 1.0, "FL": 0.7071, "FR": 0.7071, "LFE": 0.0, "LFE2": 0.0}
_GAIN_BEHIND = 0.5


class Piece(NamedTuple):
    """Samples that follow each other without a gap."""

    start: int  # first sample, on the clock's rate
    samples: Float32[np.ndarray, " n"]


def pieces(frames: Iterator[AudioFrame], zero_s: float, damage: Damage) -> Iterator[Piece]:
    """Sound where its stamps say it is, counted from `zero_s`: mono, 24 kHz, in [-1, 1].

    Pieces are not empty; they may have gaps between them, or overlap. Frames of a kind that cannot be resampled
    are left out, and counted.
    """
    return (piece for piece in _resampled(frames, zero_s, damage) if len(piece.samples))


def _resampled(frames: Iterator[AudioFrame], zero_s: float, damage: Damage) -> Iterator[Piece]:
    stamps, run = Stamps(), None
    for frame in frames:
        start_s = stamps.place(frame.pts, frame.time_base, frame.samples / frame.sample_rate) - zero_s
        if run is not None and not run.continues_with(frame, start_s):
            yield run.push(None)
            run = None
        run = run or _Run(frame, start_s)
        try:
            piece = run.push(frame)
        except av.error.FFmpegError:
            damage.n += 1
            run = None
            continue
        yield piece
    if run is not None:
        yield run.push(None)


class _Run:
    """Frames of one kind that follow each other: one resampler, so that no seam is heard."""

    def __init__(self, first: AudioFrame, start_s: float) -> None:
        self._kind = _kind(first)
        # Interleaved: PyAV gives arrays of planes for 8 channels at most, and damaged files claim more.
        self._resampler = AudioResampler(format="flt", rate=SAMPLE_RATE_HZ)
        self._gains = _mono_gains(first)
        self._end_s = start_s
        self._next_sample = round(start_s * SAMPLE_RATE_HZ)

    def continues_with(self, frame: AudioFrame, start_s: float) -> bool:
        return self._kind == _kind(frame) and abs(start_s - self._end_s) <= LARGEST_SLIP_S

    def push(self, frame: AudioFrame | None) -> Piece:
        """Resample a frame, or what is left at the end of the run."""
        if frame is not None:
            self._end_s += frame.samples / frame.sample_rate
            frame.pts = None  # what is odd about the stamps has been dealt with
        resampled = [f.to_ndarray() for f in self._resampler.resample(frame) if f is not None]
        samples = np.concatenate([self._mono(r) for r in resampled] or [np.zeros(0, np.float32)])
        piece = Piece(self._next_sample, samples)
        self._next_sample += len(samples)
        return piece

    def _mono(self, interleaved: Float32[np.ndarray, "1 n_interleaved"]) -> Float32[np.ndarray, " n"]:
        mono = interleaved.reshape(-1, len(self._gains)) @ self._gains
        return np.clip(np.nan_to_num(mono), -1, 1).astype(np.float32)


def _kind(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _mono_gains(frame: AudioFrame) -> Float32[np.ndarray, " channels"]:
    """Gains that sum to 1, so that nothing clips. (FFmpeg's own mix to mono adds 3 dB to stereo.)"""
    names = [c.name for c in frame.layout.channels]
    gains = np.array([_GAINS.get(name, _GAIN_BEHIND) for name in names], np.float32)
    return gains / gains.sum() if gains.sum() else np.full_like(gains, 1 / len(gains))


def write_wav(path: Path, samples: Float32[np.ndarray, " n"]) -> None:
    """Write sound in [-1, 1] as WAV of 16 bits; what is beyond is clipped."""
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        out.writeframes(np.round(np.clip(samples, -1, 1) * FULL_SCALE).astype("<i2").tobytes())
