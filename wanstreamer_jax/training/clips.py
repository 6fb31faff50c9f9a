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
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLE_RATE_HZ, SAMPLES_PER_AUDIO_LATENT
from wanstreamer_jax.training.config import AudioVAEWeights, DistillWeights, SessionWeights, Training

Cut = Callable[[np.random.Generator, Session], Sample]

HELDOUT_SEED, _CUTS = 2**31, 99  # training sessions have lower seeds
PLACES = 16  # that a clip of sound is chosen from


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
    """Clips of one frame and `n_units` units of the agent.

    The first frame is what a stream starts from: in every other clip the portrait, else the frame before the clip.
    """
    n_frames = n_units * FRAMES_PER_UNIT
    starts = 1 + rng.integers(0, len(session.agent_frames) - n_frames, n_clips)
    clips = [session.agent_frames[start - 1 : start + n_frames].copy() for start in starts]
    for clip in clips[::2]:
        clip[0] = session.portrait
    return np.stack(clips)


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


def recorded_video(record: Record, rng: np.random.Generator, *, n_clips: int, n_units: int) -> dict[str, np.ndarray]:
    """Clips of a recording's agent; DamagedRecordError when it has no picture or is too short."""
    _check(record, there=record.streams.agent_video and record.n_units >= n_units, what=f"{n_units} units of picture")
    return {"clips": np.stack([video_clip(n_units)(record, rng)["frames"] for _ in range(n_clips)])}


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
