"""What a replay file says of a conversation: how it began, what was seen, replied and shown, in that order.

Everything that replaying needs is there to the bit. Of what came out, there is a checksum, and some pixels and samples,
which tell by how much something else came out.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.config import Config
from wanstreamer_jax.media.picture import black
from wanstreamer_jax.serving.replay.arrays import digest, pack_frames, pack_samples
from wanstreamer_jax.serving.replay.lines import LineWriter
from wanstreamer_jax.serving.world_file import Setting
from wanstreamer_jax.stream.placement import Reply
from wanstreamer_jax.timeline import SAMPLES_PER_MS

SOME_COLUMNS = 16  # of the last frame of a unit, and every so many milliseconds a sample
SAMPLE_STEP = SAMPLES_PER_MS


class Seen(NamedTuple):
    """A unit that was about to be lived: so many were skipped before it, and so many solver steps it was given."""

    unit: int
    n_skipped: int
    solver_steps: int
    text: list[int]
    frames: UInt8[np.ndarray, "f H W 3"]
    samples: Float32[np.ndarray, " n"]


class Replied(NamedTuple):
    """What came of the unit that was seen last, in checksums, and some of it."""

    unit: int
    text: list[int]
    frames: str
    samples: str
    some_pixels: UInt8[np.ndarray, "h w 3"]
    some_samples: Float32[np.ndarray, " n"]


class Shown(NamedTuple):
    """A unit of output time; so many replies had come too late by then."""

    unit: int
    concealed: bool
    n_missed: int
    sha256: str


class End(NamedTuple):
    """The conversation ended here, and nothing cut the file off."""


Record = Seen | Replied | Shown | End


def some_pixels(frames: UInt8[np.ndarray, "f H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels of the last frame, a few in each direction."""
    step = -(-frames.shape[2] // SOME_COLUMNS)
    return frames[-1, ::step, ::step]


def sha256_shown(frames: np.ndarray, samples: np.ndarray, text: str) -> str:
    """A checksum of all that is shown in a unit."""
    parts = (digest(frames), digest(samples), text)
    return digest(np.frombuffer("\n".join(parts).encode(errors="replace"), np.uint8))


class RecordWriter:
    """Writes a conversation as it is lived; each record is on its way to the disk when a method returns."""

    def __init__(self, path: Path, header: dict[str, Any], config: Config) -> None:
        """Begin the file, with `header_fields` and more; ReplayError when it cannot be written, as of all methods."""
        self._lines = LineWriter(path, header)
        self._frame = black(config.vision.picture)

    def seen(self, seen: Seen) -> None:
        """A unit is about to be lived."""
        fields = {"seen": seen.unit, "skipped": seen.n_skipped, "solver_steps": seen.solver_steps, "text": seen.text}
        frames, samples = pack_frames(seen.frames, self._frame), pack_samples(seen.samples)
        self._frame = seen.frames[-1]
        self._lines.write(fields | {"frames": frames, "samples": samples})

    def replied(self, unit: int, reply: Reply) -> None:
        """It has been lived."""
        frames, samples = reply.frames[0], np.asarray(reply.samples[0], np.float32)
        pixels = some_pixels(frames)
        self._lines.write(
            {
                "reply": unit,
                "text": reply.text[0],
                "frames": digest(frames),
                "samples": digest(samples),
                "some_pixels": pack_frames(pixels[None], np.zeros_like(pixels)),
                "some_samples": pack_samples(samples[::SAMPLE_STEP]),
            }
        )

    def shown(self, shown: Shown) -> None:
        """A unit of output time is filled."""
        fields = {"concealed": shown.concealed, "missed": shown.n_missed, "sha256": shown.sha256}
        self._lines.write({"shown": shown.unit} | fields)

    def end(self) -> None:
        """All of it is there."""
        self._lines.write({"end": True})

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()


def header_fields(source: str, began: str, seed: int, setting: Setting, limits: Config) -> dict[str, Any]:
    """The first line, without what `origin` adds; of a voice, as much as a world holds."""
    portrait = voice = None
    if setting.portrait is not None:
        portrait = pack_frames(setting.portrait[None], np.zeros_like(setting.portrait))
    if setting.voice is not None:
        voice = pack_samples(np.asarray(setting.voice[: limits.world.n_voice_samples], np.float32))
    world = {"persona": setting.persona, "portrait": portrait, "voice": voice}
    return {"source": source, "began": began, "seed": seed, "world": world}
