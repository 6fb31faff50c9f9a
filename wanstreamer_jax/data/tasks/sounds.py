"""Sounds that have a name: beeps, tones that rise or fall, noises."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wanstreamer_jax.data.world.lexicon import AGENT_VOICE, NUMBERS, Either, Split, pick
from wanstreamer_jax.data.world.script import Line, Script
from wanstreamer_jax.data.world.sound import Noise, Room, user_sound
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

Samples = Float32[np.ndarray, " n"]

PITCHES_HZ = {"low": 250.0, "middle": 550.0, "high": 1200.0}
MOST_BEEPS = 4
BEEPS = Either(  # how many, and how high: each pitch is held out with one number
    train=tuple((n, p) for n, (j, p) in itertools.product(range(MOST_BEEPS), enumerate(PITCHES_HZ)) if n + j != 3),
    heldout=tuple((3 - j, p) for j, p in enumerate(PITCHES_HZ)),
)
NOISES = {Noise.WHITE: "white noise", Noise.PINK: "street noise", Noise.HUM: "a hum"}
_BEEP_MS, _GAP_MS, _TONE_MS, _NOISE_MS, _FADE_MS = 150, 150, 800, 1000, 10
_LOUDNESS = 0.1  # of a tone's amplitude
_SWEEP = 3.0  # from its lowest frequency to its highest


class Sound(NamedTuple):
    """A sound and its name."""

    name: str
    samples: Samples


def make_sound(rng: np.random.Generator, split: Split) -> Sound:
    """Some sound; held-out beeps are none that training meets."""
    kind = int(rng.integers(3))
    if kind == 0:
        return _beeps(rng, split)
    return _sweep(rng) if kind == 1 else _noise(rng)


def in_room(room: Room, lines: tuple[Line, ...], n_samples: int) -> Samples:
    """A room's noise, and lines that its user says."""
    return user_sound(Script(Split.TRAIN, AGENT_VOICE, lines, (), (), ()), room, n_samples)


def place(sound: Samples, start: int, n_samples: int) -> Float32[np.ndarray, " n_samples"]:
    """A sound from one sample on, with silence around it."""
    whole = np.zeros(n_samples, np.float32)
    whole[start : start + len(sound)] = sound[: n_samples - start]
    return whole


def _beeps(rng: np.random.Generator, split: Split) -> Sound:
    more, pitch = BEEPS.pick(rng, split)
    beep = _tone(np.full(_length(_BEEP_MS), PITCHES_HZ[pitch] * rng.uniform(0.9, 1.1)))
    gap = np.zeros(_length(_GAP_MS), np.float32)
    name = f"{NUMBERS[more]} {pitch} beep{'s' if more else ''}"
    return Sound(name, np.concatenate([beep, *([gap, beep] * more)]))


def _sweep(rng: np.random.Generator) -> Sound:
    rises = bool(rng.random() < 0.5)
    low = rng.uniform(200, 400)
    hz = np.geomspace(low, low * _SWEEP, _length(_TONE_MS))
    return Sound(f"a {'rising' if rises else 'falling'} tone", _tone(hz if rises else hz[::-1]))


def _noise(rng: np.random.Generator) -> Sound:
    kind = pick(rng, tuple(NOISES))
    room = Room(int(rng.integers(2**31)), kind, noise_db=0.0, user_db=0.0, background_db=0.0)
    return Sound(NOISES[kind], _faded(in_room(room, (), _length(_NOISE_MS))))


def _tone(hz: np.ndarray) -> Samples:
    return _faded((_LOUDNESS * np.sin(2 * np.pi * np.cumsum(hz) / SAMPLE_RATE_HZ)).astype(np.float32))


def _faded(samples: Samples) -> Samples:
    """Without clicks at its ends."""
    ramp = np.minimum(np.arange(len(samples)) / _length(_FADE_MS), 1).astype(np.float32)
    return samples * ramp * ramp[::-1]


def _length(ms: int) -> int:
    return ms * SAMPLE_RATE_HZ // 1000
