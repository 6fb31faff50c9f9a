"""Where the steps of a unit run. `Unified`: all on one device, one after the other, sharing one history.

B sessions.
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from wanstreamer_jax.config import Config
from wanstreamer_jax.layers import rope_angles, rope_frequencies
from wanstreamer_jax.model import Params
from wanstreamer_jax.stream import steps
from wanstreamer_jax.stream.types import Beat, Observation, SessionState
from wanstreamer_jax.stream.world import World

STEPS = ("observe", "think", "perform", "render")


class Reply(NamedTuple):
    """What the agent does in a unit, on the host, and how long each step took."""

    frames: UInt8[np.ndarray, "B f H W 3"]
    samples: Float[np.ndarray, "B n"]
    text: list[list[int]]  # of each session, <unit_end> left out
    step_ms: dict[str, float]


class HistoryFullError(RuntimeError):
    """The history has kept everything until its capacity; the session is over."""


def start_angles(config: Config, positions: np.ndarray) -> Float[np.ndarray, "B G"]:
    """Angles of positions in time, one a session."""
    t = config.transformer
    everywhere = np.repeat(positions[:, None], 3, axis=1)
    return rope_angles(everywhere, rope_frequencies(t.head_size, t.rope_theta), t.rope_sections)


class Unified:
    """B sessions on one device. `begin` them, then `step` through their units."""

    def __init__(self, config: Config, params: Params):
        self.config = config
        self._params = jax.device_put(params)
        # Every jit of a session is here. What a step replaces is donated to it; parameters never are.
        self._begin = jax.jit(functools.partial(steps.begin, config))
        self._observe = jax.jit(functools.partial(steps.observe, config), donate_argnums=1)
        self._think = jax.jit(functools.partial(steps.think, config))
        self._unit_noise = jax.jit(functools.partial(steps.unit_noise, config))
        self._perform = jax.jit(functools.partial(steps.perform, config), donate_argnums=1)
        self._render = jax.jit(functools.partial(steps.render, config), donate_argnums=(1, 2))

    def begin(self, world: World, world_end: Int[np.ndarray, " B"], seeds: list[int]) -> None:
        """Prefill the worlds of B sessions; `world_end` is the position in time at which each world ends."""
        self._state: SessionState = self._begin(self._params, world)
        self._world_end = world_end
        self._unit = 0
        self._key = jnp.stack([jax.random.key(seed) for seed in seeds])
        self._n_tokens = np.zeros(len(seeds), np.int64)

    def step(self, seen: Observation) -> Reply:
        """Live through one unit.

        Raises:
            HistoryFullError: the policy is `full` and the next unit might not fit.
        """
        self._check_room()
        state, params, beat = self._state, self._params, self._beat()
        clock = StepClock()
        observed, hearing = clock.time("observe", self._observe, params, state.hearing, seen)
        thought = clock.time("think", self._think, params, state.history, observed, state.response, beat)
        noise = self._unit_noise(beat)
        response, history = clock.time("perform", self._perform, params, state.history, thought.new, noise, beat)
        shown, voice, face = clock.time("render", self._render, params, state.voice, state.face, response)
        self._state = SessionState(history, hearing, voice, face, response)
        self._unit += 1
        self._n_tokens += np.asarray(thought.new.n_tokens)
        written = zip(np.asarray(thought.text), np.asarray(thought.n_text), strict=True)
        text = [[int(i) for i in ids[:n] if i != self.config.text.unit_end] for ids, n in written]
        return Reply(np.asarray(shown.frames), np.asarray(shown.samples), text, clock.step_ms)

    @property
    def history_tokens(self) -> list[int]:
        """Tokens that each session's history holds, its world included."""
        kept = np.minimum(self._n_tokens, self.config.history.n_tokens)
        return [int(n) for n in np.asarray(self._state.history.world) + kept]

    @property
    def bytes_per_session(self) -> int:
        """Memory that the state of one session takes on the device."""
        return sum(x.nbytes for x in jax.tree.leaves(self._state)) // len(self._n_tokens)

    def _beat(self) -> Beat:
        positions = self._world_end + self._unit * self.config.layout.advance
        unit = jnp.full(len(positions), self._unit, jnp.int32)
        return Beat(unit, jnp.asarray(start_angles(self.config, positions)), self._key)

    def _check_room(self) -> None:
        history = self.config.history
        if history.policy == "full" and self._n_tokens.max() + self.config.layout.n_slice > history.n_tokens:
            raise HistoryFullError(
                f"the history holds {self._n_tokens.max()} of {history.n_tokens} tokens after {self._unit} units and "
                "keeps everything (history.policy full): the session ends here; raise history.n_tokens, or set "
                "history.policy window"
            )


class StepClock:
    """How long each step of a unit took, until its result was there."""

    def __init__(self) -> None:
        self.step_ms: dict[str, float] = {}

    def time(self, name: str, step: Any, *args: Any) -> Any:
        """Run a step, wait for its result, and note how long that took."""
        start = time.perf_counter()
        result = jax.block_until_ready(step(*args))
        self.step_ms[name] = (time.perf_counter() - start) * 1000
        return result
