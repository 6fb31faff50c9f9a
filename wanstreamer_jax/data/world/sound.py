"""What the microphones hear: lines at their times, and around the user a room."""

import dataclasses
import enum

import numpy as np
from jaxtyping import Float32

from wanstreamer_jax.data.world.script import Line, Script, Who
from wanstreamer_jax.data.world.speech import speak
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_MS

Samples = Float32[np.ndarray, " n"]

_FADE_MS = 25  # of a line that is cut, before its end
_FAR_HZ = 1800  # somebody far away sounds dull


class Noise(enum.StrEnum):
    """What is heard when nobody speaks."""

    WHITE = "white"
    PINK = "pink"  # as much in each octave: a street
    HUM = "hum"  # of the mains, and some hiss


@dataclasses.dataclass(frozen=True)
class Room:
    """How a user sounds: levels are in dB, against speech at its normal level."""

    seed: int
    noise: Noise
    noise_db: float
    user_db: float
    background_db: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Room":
        """Some room."""
        return cls(
            seed=int(rng.integers(2**31)),
            noise=list(Noise)[int(rng.integers(len(Noise)))],
            noise_db=float(rng.uniform(-45, -22)),
            user_db=float(rng.uniform(-6, 4)),
            background_db=float(rng.uniform(-20, -13)),
        )


def agent_sound(script: Script, n_samples: int) -> Samples:
    """The agent's voice; between its lines, silence."""
    return _mix([line for line in script.lines if line.who is Who.AGENT], n_samples)


def user_sound(script: Script, room: Room, n_samples: int) -> Samples:
    """The user's voice, somebody's further away, and noise."""
    user = _mix([line for line in script.lines if line.who is Who.USER], n_samples)
    far = _mix([line for line in script.lines if line.who is Who.BACKGROUND], n_samples)
    if far.any():
        user += _gain(room.background_db - room.user_db) * _dull(far)
    noise = _noise(room, n_samples)
    return np.clip(_gain(room.user_db) * user + _gain(room.noise_db) * noise, -1, 1).astype(np.float32)


def _mix(lines: list[Line], n_samples: int) -> Samples:
    samples = np.zeros(n_samples, np.float32)
    for line in lines:
        first, last = (ms * SAMPLES_PER_MS for ms in (line.start_ms, line.end_ms))
        whole = speak(line.text, line.voice).samples
        spoken = whole[: last - first].copy()
        if len(whole) - len(spoken) > SAMPLES_PER_MS:  # it is cut, by more than times are rounded
            n_fade = min(_FADE_MS * SAMPLES_PER_MS, len(spoken))
            spoken[len(spoken) - n_fade :] *= np.linspace(1, 0, n_fade, dtype=np.float32)
        samples[first : first + len(spoken)] += spoken[: max(n_samples - first, 0)]
    return samples


def _dull(samples: Samples) -> Samples:
    """Without its high frequencies."""
    spectrum = np.fft.rfft(samples)
    hz = np.linspace(0, SAMPLE_RATE_HZ / 2, len(spectrum))
    return np.fft.irfft(spectrum / (1 + (hz / _FAR_HZ) ** 4), len(samples)).astype(np.float32)


def _noise(room: Room, n_samples: int) -> Samples:
    """As loud as speech is."""
    rng = np.random.default_rng(room.seed)
    white = rng.standard_normal(n_samples, np.float32)
    if room.noise is Noise.PINK:
        spectrum = np.fft.rfft(white)
        white = np.fft.irfft(spectrum / np.sqrt(1 + np.arange(len(spectrum))), n_samples).astype(np.float32)
    if room.noise is Noise.HUM:
        turns = np.arange(n_samples) * (50 / SAMPLE_RATE_HZ)
        white = 0.2 * white + sum(np.sin(2 * np.pi * k * turns + k) / k for k in (1, 2, 3)).astype(np.float32)
    return (0.08 / np.sqrt(np.mean(white**2))) * white


def _gain(db: float) -> np.float32:
    return np.float32(10 ** (db / 20))
