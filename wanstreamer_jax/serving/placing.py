"""An agent on its devices, and what one user does in a unit as it is given to it."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.config import Config
from wanstreamer_jax.media.picture import black
from wanstreamer_jax.parallel.mesh import Devices
from wanstreamer_jax.stream.executables import beside_compilation_cache
from wanstreamer_jax.stream.placement import Placement
from wanstreamer_jax.stream.split import Split
from wanstreamer_jax.stream.types import Observation
from wanstreamer_jax.stream.unified import Unified
from wanstreamer_jax.stream.worker import Event
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT

COMPILING = "compiling (slow the first time, then it is remembered) ..."


def place_agent(agent: Agent, devices: Devices | None, events: list[Event] | None = None) -> Placement:
    """The placement that devices ask for, None being one for all; what it does is noted in `events`."""
    executables = beside_compilation_cache(agent.config)
    if devices is None:
        return Unified(agent.config, agent.params, events, executables)
    return Split(agent.config, agent.params, devices, events, executables)


def observation(
    config: Config,
    frames: UInt8[np.ndarray, "f H W 3"] | None,
    samples: Float[np.ndarray, " n"] | None,
    text: list[int],
) -> Observation:
    """What one user did in a unit; without frames darkness, without samples silence."""
    if frames is None:
        frames = np.stack([black(config.vision.picture)] * FRAMES_PER_UNIT)
    samples = np.zeros(SAMPLES_PER_UNIT, np.float32) if samples is None else samples
    ids = np.zeros((1, config.text.max_user), np.int32)
    ids[0, : len(text)] = text
    arrays = (ids, np.array([len(text)], np.int32), samples[None], frames[None])
    return Observation(*(jnp.asarray(x) for x in arrays))
