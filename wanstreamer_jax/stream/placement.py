"""Where the steps of a unit run: what every placement does.

    unified.py   all on one device, sharing one history
    split.py     thinker on one device, performer on one or more ranks, each side with a history of its own

Both live through a unit in the same order, and `stream` overlaps what two device groups can do at once:

    thinker    observe k+1 | think k+1, commit | render k | observe k+2 | ...
    slice                        | to the performer
    performer     perform k       | perform k+1                  | ...
    latents                | of k, to think k+1 and to render k

B sessions.
"""

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from wanstreamer_jax.config import Config
from wanstreamer_jax.layers import rope_angles, rope_frequencies
from wanstreamer_jax.model import Params
from wanstreamer_jax.stream import steps
from wanstreamer_jax.stream.types import Beat, Observation, SessionState, Thought
from wanstreamer_jax.stream.worker import Worker
from wanstreamer_jax.stream.world import World
from wanstreamer_jax.vae.causal import reset_sessions

STEPS = ("observe", "think", "perform", "render")


class Reply(NamedTuple):
    """What the agent does in a unit, on the host, and how long each step took."""

    unit: int  # since the placement began
    frames: UInt8[np.ndarray, "B f H W 3"]
    samples: Float[np.ndarray, "B n"]
    text: list[list[int]]  # of each session, <unit_end> left out
    step_ms: dict[str, float]


class HistoryFullError(RuntimeError):
    """The history has kept everything until its capacity; the session is over."""


class Start(NamedTuple):
    """How B sessions begin: their worlds, where in time each world ends, the seed of each session."""

    world: World
    world_end: Int[np.ndarray, " B"]
    seeds: list[int]


class Performing(NamedTuple):
    """A unit whose latents are on their way."""

    unit: int
    thought: Thought
    latents: Future
    step_ms: dict[str, float]


def start_angles(config: Config, positions: np.ndarray) -> Float[np.ndarray, "B G"]:
    """Angles of positions in time, one a session."""
    t = config.transformer
    everywhere = np.repeat(positions[:, None], 3, axis=1)
    return rope_angles(everywhere, rope_frequencies(t.head_size, t.rope_theta), t.rope_sections)


class Placement:
    """B sessions. `begin` them, then `step` through their units one by one, or `stream` many; `close` at the end.

    A step that raises or stalls ends the sessions with a `StepError`.
    """

    _params: Params
    _state: SessionState

    def __init__(self, config: Config, thinker: Worker, performer: Worker, kept: Callable[[str, Any], Any]):
        """`kept` makes a step of the thinker of a name and a jitted function."""
        self.config = config
        self._unit = 0
        self._thinker, self._performer = thinker, performer
        # What a step replaces is donated to it; parameters never are.
        self._jit_begin = kept("begin", jax.jit(functools.partial(steps.begin, config)))
        self._jit_observe = kept("observe", jax.jit(functools.partial(steps.observe, config), donate_argnums=1))
        self._jit_think = kept("think", jax.jit(functools.partial(steps.think, config)))
        self._jit_render = kept("render", jax.jit(functools.partial(steps.render, config), donate_argnums=(1, 2)))

    def begin(self, start: Start) -> None:
        """Prefill the worlds of B sessions."""
        self._state = self._thinker.run("begin", 0, self._jit_begin, self._params, start.world).result
        self._world_end = start.world_end
        self._age = np.zeros(len(start.seeds), np.int64)  # units that each session has lived
        self._answered = np.zeros(len(start.seeds), bool)  # whether the last unit has a response
        self._n_tokens = np.zeros(len(start.seeds), np.int64)
        self._keys = jnp.stack([jax.random.key(seed) for seed in start.seeds])
        self._unit = 0

    def restart(self, ended: Bool[np.ndarray, " B"], start: Start) -> None:
        """End some sessions and begin others in their place; the rest do not notice."""
        fresh = self._thinker.run("begin", self._unit, self._jit_begin, self._params, start.world).result
        self._state = reset_sessions(self._state, fresh, jnp.asarray(ended))
        self._world_end = np.where(ended, start.world_end, self._world_end)
        self._age, self._n_tokens = np.where(ended, 0, self._age), np.where(ended, 0, self._n_tokens)
        self._answered = self._answered & ~ended
        keys = jnp.stack([jax.random.key(seed) for seed in start.seeds])
        self._keys = reset_sessions(self._keys, keys, jnp.asarray(ended))

    def step(self, seen: Observation, solver_steps: int | None = None) -> Reply:
        """Live through one unit, if wanted with another number of solver steps than the configuration's.

        Raises:
            HistoryFullError: the policy is `full` and the next unit might not fit.
        """
        return next(self.stream([seen], solver_steps))

    def skip(self) -> None:
        """Let a unit pass unlived: time goes on, and the next unit finds no response to it."""
        self._answered[:] = False
        self._age += 1
        self._unit += 1

    def stream(self, units: Iterable[Observation], solver_steps: int | None = None) -> Iterator[Reply]:
        """Live through units; the reply to one comes while the next is being performed.

        Raises:
            HistoryFullError: the policy is `full` and the next unit might not fit; every reply has been given.
        """
        solver_steps = solver_steps or self.config.flow.solver_steps
        performing, is_full = None, False
        for seen in units:
            if is_full := not self._has_room():
                break
            following = self._think_and_send(seen, performing, solver_steps)
            if performing is not None:
                yield self._render(performing)
            performing = following
        if performing is not None:
            yield self._render(performing)
        if is_full:
            raise HistoryFullError(self._full())

    def settle(self) -> None:
        """Wait for the steps that are under way; before the sessions have begun there are none."""
        for worker in (self._thinker, self._performer):
            worker.run("settling", self._unit, lambda: None)

    def close(self) -> None:
        """End the threads and let go of the sessions."""
        self._thinker.close()
        self._performer.close()
        vars(self).pop("_state", None)  # there is none when beginning was interrupted

    @property
    @abstractmethod
    def name(self) -> str:
        """What reports call this placement."""

    @property
    @abstractmethod
    def n_ranks(self) -> int:
        """Devices of the performer beside the thinker's; 0 where they share one."""

    @property
    def history_tokens(self) -> list[int]:
        """Tokens that each session's history holds, its world included."""
        kept = np.minimum(self._n_tokens, self.config.history.n_tokens)
        return [int(n) for n in np.asarray(self._state.history.world) + kept]

    @property
    def bytes_per_session(self) -> int:
        """Memory that the state of one session takes on all devices."""
        return sum(x.nbytes for x in jax.tree.leaves(self._held())) // len(self._n_tokens)

    @abstractmethod
    def _held(self) -> Any:
        """All arrays of the sessions."""

    @abstractmethod
    def _perform(self, thought: Thought, beat: Beat, solver_steps: int) -> Future:
        """Have a unit's latents made, and its slice committed."""

    def _think_and_send(self, seen: Observation, last: Performing | None, solver_steps: int) -> Performing:
        params, unit, thinker, step_ms = self._params, self._unit, self._thinker, {}
        beat = self._beat()
        (observed, hearing), step_ms["observe"] = thinker.run(
            "observe", unit, self._jit_observe, params, self._state.hearing, seen
        )
        self._state = self._state._replace(hearing=hearing)
        if last is not None:
            self._receive(last)
        history, response = self._state.history, self._state.response
        thought, step_ms["think"] = thinker.run(
            "think", unit, self._jit_think, params, history, observed, response, beat
        )
        performing = Performing(unit, thought, self._perform(thought, beat, solver_steps), step_ms)
        self._n_tokens += np.asarray(thought.new.n_tokens)
        self._answered[:] = True
        self._age += 1
        self._unit += 1
        return performing

    def _receive(self, unit: Performing) -> None:
        """Take a unit's latents as the last response."""
        response, unit.step_ms["perform"] = self._performer.wait(unit.latents, "perform", unit.unit)
        self._state = self._state._replace(response=response)

    def _render(self, unit: Performing) -> Reply:
        if "perform" not in unit.step_ms:
            self._receive(unit)
        response, state = unit.latents.result().result, self._state
        (shown, voice, face), unit.step_ms["render"] = self._thinker.run(
            "render", unit.unit, self._jit_render, self._params, state.voice, state.face, response
        )
        self._state = self._state._replace(voice=voice, face=face)
        written = zip(np.asarray(unit.thought.text), np.asarray(unit.thought.n_text), strict=True)
        text = [[int(i) for i in ids[:n] if i != self.config.text.unit_end] for ids, n in written]
        return Reply(unit.unit, np.asarray(shown.frames), np.asarray(shown.samples), text, unit.step_ms)

    def _beat(self) -> Beat:
        positions = self._world_end + self._age * self.config.layout.advance
        angles = start_angles(self.config, positions)
        return Beat(jnp.asarray(self._age, jnp.int32), jnp.asarray(self._answered), jnp.asarray(angles), self._keys)

    def _has_room(self) -> bool:
        history, held = self.config.history, int(self._n_tokens.max())
        return history.policy == "window" or held + self.config.layout.n_slice <= history.n_tokens

    def _full(self) -> str:
        return (
            f"the history holds {self._n_tokens.max()} of {self.config.history.n_tokens} tokens after {self._unit} "
            "units and keeps everything (history.policy full): the session ends here; raise history.n_tokens, or set "
            "history.policy window"
        )
