"""Clips of recordings or, when there are none, of the synthetic world: what the VAEs learn from."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.clips import Sample, video_clip
from wanstreamer_jax.data.dataset import DamagedRecordError
from wanstreamer_jax.data.record import Record, to_float32
from wanstreamer_jax.data.world import Kind, Session, Split, World, make_session
from wanstreamer_jax.timeline import (
    FRAMES_PER_UNIT,
    PIXELS_PER_LATENT,
    PIXELS_PER_TOKEN,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_AUDIO_LATENT,
)
from wanstreamer_jax.training.config import AudioVAEWeights, DistillWeights, SessionWeights, Training

Cut = Callable[[np.random.Generator, Session], Sample]

HELDOUT_SEED, _CUTS = 2**31, 99  # training sessions have lower seeds
PLACES, PLACES_OF_FILM = 16, 4  # that a clip of sound, or of film, is chosen from


@dataclasses.dataclass(frozen=True)
class WorldClips:
    """Sample i: what `cut` takes from the session of seed i; training and held-out sessions share no seed."""

    world: World
    n_samples: int
    cut: Cut

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self.n_samples

    def __getitem__(self, index: int) -> Sample:
        """Make a session and cut it."""
        seed = seed_of(int(index), self.world.split)
        return self.cut(np.random.default_rng((seed, _CUTS)), make_session(seed, self.world))


def synthetic_world(weights: AudioVAEWeights | SessionWeights | DistillWeights, heldout: bool) -> World:
    """What sessions are drawn from: held-out ones have every dialogue as often as any other, to compare runs by."""
    if heldout:
        return World(split=Split.HELDOUT, seconds=weights.seconds)
    mixture = {Kind(name): weight for name, weight in dataclasses.asdict(weights.dialogues).items()}
    return World(mixture=mixture, seconds=weights.seconds)


def seed_of(number: int, split: Split) -> int:
    """The seed of a sample: no two splits share one."""
    return number + (HELDOUT_SEED if split is Split.HELDOUT else 0)


def cut_video(rng: np.random.Generator, session: Session, n_clips: int, n_units: int) -> UInt8[np.ndarray, "K T H W 3"]:
    """Clips of one frame and `n_units` units of the agent, the liveliest of a few: a still is soon learned.

    The first frame is what a stream starts from: in every other clip the portrait, else the frame before the clip.
    """
    n_frames = n_units * FRAMES_PER_UNIT
    starts = 1 + rng.integers(0, len(session.agent_frames) - n_frames, (n_clips, PLACES_OF_FILM))
    moved = changes(session.agent_frames).mean((1, 2))
    liveliest = [max(places, key=lambda start: moved[start : start + n_frames - 1].sum()) for places in starts]
    clips = [session.agent_frames[start - 1 : start + n_frames].copy() for start in liveliest]
    for clip in clips[::2]:
        clip[0] = session.portrait
    return np.stack(clips)


def cropped(rng: np.random.Generator, clip: UInt8[np.ndarray, "T H W 3"], crop: int) -> UInt8[np.ndarray, "T h w 3"]:
    """A part of a clip, `crop` times smaller in width and height, on the grid of latents.

    Every other time it is the liveliest of a few: else what does not move would be forgotten.
    """
    sizes = [max(1, size // crop // PIXELS_PER_TOKEN) * PIXELS_PER_TOKEN for size in clip.shape[1:3]]
    free = [(size - part) // PIXELS_PER_LATENT + 1 for size, part in zip(clip.shape[1:3], sizes, strict=True)]
    moved = changes(clip[1:]).sum(0)  # the first frame may be a portrait
    corners = PIXELS_PER_LATENT * rng.integers(0, free, (PLACES_OF_FILM if rng.random() < 0.5 else 1, 2))
    places = [tuple(slice(at, at + size) for at, size in zip(corner, sizes, strict=True)) for corner in corners]
    rows, columns = max(places, key=lambda place: moved[place].sum())
    return clip[:, rows, columns]


def changes(clip: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "t H W"]:
    """From frame to frame, of each pixel."""
    return np.abs(np.diff(clip.astype(np.int16), axis=0)).mean(-1, dtype=np.float32)


def cut_sound(
    rng: np.random.Generator, sounds: Sequence[Float32[np.ndarray, " m"]], n_clips: int, n_latents: int
) -> Float32[np.ndarray, "K n"]:
    """Clips of several sounds in turn, the loudest of a few places: silence is soon learned.

    They begin where latents do, as in a session: what begins with a unit there is no other sound here.
    """
    n_samples = n_latents * SAMPLES_PER_AUDIO_LATENT
    clips = []
    for k in range(n_clips):
        sound = sounds[k % len(sounds)]
        latents = rng.integers(0, len(sound) // SAMPLES_PER_AUDIO_LATENT - n_latents + 1, PLACES)
        places = [sound[start : start + n_samples] for start in latents * SAMPLES_PER_AUDIO_LATENT]
        clips.append(max(places, key=lambda clip: float(np.square(clip).sum())))
    return np.stack(clips)


def seconds_of_sound(_config: Config, training: Training) -> float:
    """How long the clips of a sample of sound are together."""
    return training.weights.clips * training.weights.latents * SAMPLES_PER_AUDIO_LATENT / SAMPLE_RATE_HZ


# ---- Recordings


def recorded_video(
    record: Record, rng: np.random.Generator, *, n_clips: int, n_units: int, crop: int
) -> dict[str, np.ndarray]:
    """Clips of a recording's agent, cropped; DamagedRecordError when it has no picture or is too short."""
    _check(record, there=record.streams.agent_video and record.n_units >= n_units, what=f"{n_units} units of picture")
    clips = (video_clip(n_units)(record, rng)["frames"] for _ in range(n_clips))
    return {"clips": np.stack([cropped(rng, clip, crop) for clip in clips])}


def recorded_sound(
    record: Record, rng: np.random.Generator, *, n_clips: int, n_latents: int, with_user: bool
) -> dict[str, np.ndarray]:
    """Clips of the sounds that a recording has; DamagedRecordError when it has none or is too short."""
    streams, sides = record.streams, (record.agent_samples, record.user_samples)
    has = (streams.agent_audio, streams.user_audio and with_user)
    sounds = [to_float32(x.reshape(-1)) for x, is_there in zip(sides, has, strict=True) if is_there]
    n_samples = n_latents * SAMPLES_PER_AUDIO_LATENT
    _check(record, there=bool(sounds) and len(sounds[0]) >= n_samples, what=f"{n_samples} samples of sound")
    return {"clips": cut_sound(rng, sounds, n_clips, n_latents)}


def _check(record: Record, *, there: bool, what: str) -> None:
    if not there:
        raise DamagedRecordError(f"{record.name}: does not have {what}")
