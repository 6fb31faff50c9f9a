"""Clips of the synthetic world: what the VAEs learn from when there are no recordings."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.data.world import Session, Split, World, make_session
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_AUDIO_LATENT
from wanstreamer_jax.training.stage import Sample

Cut = Callable[[np.random.Generator, Session], Sample]


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
        seed = int(index) + (_HELDOUT_SEED if self.world.split is Split.HELDOUT else 0)
        return self.cut(np.random.default_rng((seed, _CUTS)), make_session(seed, self.world))


_HELDOUT_SEED, _CUTS = 2**31, 99
PLACES = 4  # that a clip of sound is chosen from


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


def cut_sound(rng: np.random.Generator, session: Session, n_clips: int, n_latents: int) -> Float32[np.ndarray, "K n"]:
    """Clips of the agent's and the user's sound in turn, the loudest of a few places: silence is soon learned."""
    n_samples = n_latents * SAMPLES_PER_AUDIO_LATENT
    clips = []
    for k in range(n_clips):
        sound = (session.agent_samples, session.user_samples)[k % 2]
        places = [sound[start : start + n_samples] for start in rng.integers(0, len(sound) - n_samples + 1, PLACES)]
        clips.append(max(places, key=lambda clip: float(np.square(clip).sum())))
    return np.stack(clips)
