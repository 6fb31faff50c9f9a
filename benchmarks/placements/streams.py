"""Conversations without end, to be timed."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from wanstreamer_jax.config import Config
from wanstreamer_jax.model import Params, init_params
from wanstreamer_jax.serving.world_file import Setting, make_start
from wanstreamer_jax.stream.placement import Placement, Reply
from wanstreamer_jax.stream.types import Observation
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT
from wanstreamer_jax.tokens import byte_tokenizer


def random_params(config: Config) -> Params:
    """An untrained agent; it writes as much text as a unit may hold."""
    return jax.jit(lambda: init_params(config, 0))()


def streaming(placement: Placement) -> Iterator[Reply]:
    """Replies of one session to darkness and silence."""
    config = placement.config
    placement.begin(make_start(config, byte_tokenizer(), [Setting("You are kind.")], [0]))
    return placement.stream(nothing(config))


def nothing(config: Config) -> Iterator[Observation]:
    """Units of darkness and silence."""
    p = config.vision.picture
    unit = Observation(
        jnp.zeros((1, config.text.max_user), jnp.int32),
        jnp.zeros(1, jnp.int32),
        jnp.zeros((1, SAMPLES_PER_UNIT), jnp.float32),
        jnp.zeros((1, FRAMES_PER_UNIT, p.height, p.width, 3), jnp.uint8),
    )
    while True:
        yield unit
