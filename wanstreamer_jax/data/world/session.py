"""A session of the world: both pictures, both sounds, every word, and what is true of each moment."""

import collections
import dataclasses
import functools
import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.data.world.camera import Look, film
from wanstreamer_jax.data.world.character import portray
from wanstreamer_jax.data.world.dialogues import make_script
from wanstreamer_jax.data.world.identity import Composition, Identity, Pose
from wanstreamer_jax.data.world.labels import Labels, make_labels
from wanstreamer_jax.data.world.lexicon import Kind, Split
from wanstreamer_jax.data.world.performance import behave, pose
from wanstreamer_jax.data.world.sound import Room, agent_sound, user_sound
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, UNIT_MS, Picture, n_units

T = TypeVar("T")

EVEN_MIXTURE: Mapping[Kind, float] = dict.fromkeys(Kind, 1.0)


@dataclasses.dataclass(frozen=True)
class World:
    """What sessions are drawn from, besides a seed."""

    split: Split = Split.TRAIN
    mixture: Mapping[Kind, float] = dataclasses.field(default_factory=lambda: EVEN_MIXTURE)  # kinds and weights
    seconds: float = 20.0  # rounded up to whole units
    user_picture: Picture = dataclasses.field(default=Picture(128, 64))
    agent_picture: Picture = dataclasses.field(default=Picture(112, 64))
    composition: Composition | None = None  # none: sometimes one, sometimes the other
    identity: Identity = dataclasses.field(default=Identity())

    def __post_init__(self) -> None:
        """Raise ValueError when there is nothing to draw from."""
        weights = list(self.mixture.values())
        if not weights or min(weights) < 0 or sum(weights) == 0:
            raise ValueError(f"mixture: weights {weights} are not all at least 0, with one above")
        if self.seconds <= 0:
            raise ValueError(f"seconds: {self.seconds} is not above 0")


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """Whole units of a conversation: T frames at 25 a second, n samples at 24 kHz in [-1, 1]."""

    user_frames: UInt8[np.ndarray, "T H W 3"]
    user_samples: Float32[np.ndarray, " n"]
    agent_frames: UInt8[np.ndarray, "T h w 3"]
    agent_samples: Float32[np.ndarray, " n"]
    portrait: UInt8[np.ndarray, "h w 3"]  # the agent at rest
    labels: Labels

    @property
    def n_units(self) -> int:
        """How long it is."""
        return len(self.user_frames) // FRAMES_PER_UNIT


def make_session(seed: int, world: World) -> Session:
    """The session of a seed: the same to the bit wherever, whenever and after whatever it is made.

    Dialogues follow one another while they fit; what is left is silence.

    Raises:
        RuntimeError: espeak-ng is not installed.
    """
    units = n_units(world.seconds)
    n_frames, n_samples = units * FRAMES_PER_UNIT, units * SAMPLES_PER_UNIT
    # A generator for each part: a change of one leaves the others as they are.
    script_rng, look_rng, room_rng, agent_rng, pose_rng = (np.random.default_rng((seed, i)) for i in range(5))
    script = make_script(script_rng, world.mixture, world.split, units)
    composition = world.composition or list(Composition)[int(agent_rng.integers(len(Composition)))]
    behaviour = behave(agent_rng, script, units * UNIT_MS)
    poses, mouth = pose(pose_rng, script, behaviour, n_frames)
    return Session(
        user_frames=film(Look.draw(look_rng), script.showings, world.user_picture, n_frames),
        user_samples=user_sound(script, Room.draw(room_rng), n_samples),
        agent_frames=portray(world.identity, composition, world.agent_picture, poses),
        agent_samples=agent_sound(script, n_samples),
        portrait=portray(world.identity, composition, world.agent_picture, Pose.rest(1))[0],
        labels=make_labels(seed, composition, script, behaviour, mouth, world.user_picture),
    )


def make_sessions(seeds: Iterable[int], world: World, workers: int = 1) -> Iterator[Session]:
    """The sessions of seeds, in their order, made by so many processes; a few are kept ready, never all."""
    return in_processes(functools.partial(make_session, world=world), seeds, workers)


def in_processes(make: Callable[[int], T], seeds: Iterable[int], workers: int) -> Iterator[T]:
    """What `make` returns for each seed, in order."""
    if workers == 1:
        yield from map(make, seeds)
        return
    # Not forked: the program may run threads, and JAX does.
    context = multiprocessing.get_context("spawn")
    remaining = iter(seeds)
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        pending: collections.deque[Future[T]] = collections.deque()
        pending.extend(pool.submit(make, seed) for seed in itertools.islice(remaining, 2 * workers))
        while pending:
            done = pending.popleft().result()
            pending.extend(pool.submit(make, seed) for seed in itertools.islice(remaining, 1))
            yield done
