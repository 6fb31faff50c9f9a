"""Where the steps of a unit run.

    Unified   all on one device, sharing one history
    Split     thinker on one device, performer on one or more ranks, each side with a history of its own

Both live through a unit in the same order, and `stream` overlaps what two devices can do at once:

    thinker    observe k+1 | think k+1, commit | render k | observe k+2 | ...
    slice                        | to the performer
    performer     perform k       | perform k+1                  | ...
    latents                | of k, to think k+1 and to render k

B sessions.
"""

import functools
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, Int, UInt8

from wanstreamer_jax.cache import History, Slice, append
from wanstreamer_jax.config import Config
from wanstreamer_jax.layers import rope_angles, rope_frequencies
from wanstreamer_jax.model import Latents, Params
from wanstreamer_jax.parallel.mesh import AXIS, Devices
from wanstreamer_jax.parallel.ulysses import Ulysses, Whole
from wanstreamer_jax.stream import steps
from wanstreamer_jax.stream.types import Beat, Observation, SessionState, Thought
from wanstreamer_jax.stream.world import World

STEPS = ("observe", "think", "perform", "render")
STALLED_S = 300.0  # no unit takes so long, not even with compilation


class Reply(NamedTuple):
    """What the agent does in a unit, on the host, and how long each step took."""

    unit: int
    frames: UInt8[np.ndarray, "B f H W 3"]
    samples: Float[np.ndarray, "B n"]
    text: list[list[int]]  # of each session, <unit_end> left out
    step_ms: dict[str, float]


class HistoryFullError(RuntimeError):
    """The history has kept everything until its capacity; the session is over."""


class Performing(NamedTuple):
    """A unit whose latents are on their way."""

    unit: int
    thought: Thought
    latents: Future[Latents]
    step_ms: dict[str, float]


def start_angles(config: Config, positions: np.ndarray) -> Float[np.ndarray, "B G"]:
    """Angles of positions in time, one a session."""
    t = config.transformer
    everywhere = np.repeat(positions[:, None], 3, axis=1)
    return rope_angles(everywhere, rope_frequencies(t.head_size, t.rope_theta), t.rope_sections)


class Placement:
    """B sessions. `begin` them, then `step` through their units one by one, or `stream` many."""

    _params: Params
    _state: SessionState
    _response: Future[Latents]  # y_{k-1}, once there is one

    def __init__(self, config: Config):
        self.config = config
        # The thinker's jits. What a step replaces is donated to it; parameters never are.
        self._jit_begin = jax.jit(functools.partial(steps.begin, config))
        self._jit_observe = jax.jit(functools.partial(steps.observe, config), donate_argnums=1)
        self._jit_think = jax.jit(functools.partial(steps.think, config))
        self._jit_render = jax.jit(functools.partial(steps.render, config), donate_argnums=(1, 2))

    def begin(self, world: World, world_end: Int[np.ndarray, " B"], seeds: list[int]) -> None:
        """Prefill the worlds of B sessions; `world_end` is the position in time at which each world ends."""
        self._state = self._jit_begin(self._params, world)
        self._world_end = world_end
        self._unit = 0
        self._keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        self._n_tokens = np.zeros(len(seeds), np.int64)

    def step(self, seen: Observation) -> Reply:
        """Live through one unit.

        Raises:
            HistoryFullError: the policy is `full` and the next unit might not fit.
        """
        return next(self.stream([seen]))

    def stream(self, units: Iterable[Observation]) -> Iterator[Reply]:
        """Live through units; the reply to one comes while the next is being performed.

        Raises:
            HistoryFullError: the policy is `full` and the next unit might not fit; every reply has been given.
        """
        performing, is_full = None, False
        for seen in units:
            if is_full := not self._has_room():
                break
            following = self._think_and_send(seen)
            if performing is not None:
                yield self._render(performing)
            performing = following
        if performing is not None:
            yield self._render(performing)
        if is_full:
            raise HistoryFullError(self._full())

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
    def _perform(self, thought: Thought, beat: Beat, step_ms: dict[str, float]) -> Future[Latents]:
        """Have a unit's latents made, and its slice committed."""

    def _think_and_send(self, seen: Observation) -> Performing:
        state, params, beat = self._state, self._params, self._beat()
        step_ms: dict[str, float] = {}
        observed, hearing = timed(step_ms, "observe", self._jit_observe, params, state.hearing, seen)
        response = self._response.result(STALLED_S) if self._unit else state.response
        thought = timed(step_ms, "think", self._jit_think, params, state.history, observed, response, beat)
        self._state = state._replace(hearing=hearing)
        self._response = self._perform(thought, beat, step_ms)
        self._n_tokens += np.asarray(thought.new.n_tokens)
        self._unit += 1
        return Performing(self._unit - 1, thought, self._response, step_ms)

    def _render(self, unit: Performing) -> Reply:
        response, state = unit.latents.result(STALLED_S), self._state
        shown, voice, face = timed(
            unit.step_ms, "render", self._jit_render, self._params, state.voice, state.face, response
        )
        self._state = self._state._replace(voice=voice, face=face)
        written = zip(np.asarray(unit.thought.text), np.asarray(unit.thought.n_text), strict=True)
        text = [[int(i) for i in ids[:n] if i != self.config.text.unit_end] for ids, n in written]
        return Reply(unit.unit, np.asarray(shown.frames), np.asarray(shown.samples), text, unit.step_ms)

    def _beat(self) -> Beat:
        positions = self._world_end + self._unit * self.config.layout.advance
        unit = jnp.full(len(positions), self._unit, jnp.int32)
        return Beat(unit, jnp.asarray(start_angles(self.config, positions)), self._keys)

    def _has_room(self) -> bool:
        history, held = self.config.history, int(self._n_tokens.max())
        return history.policy == "window" or held + self.config.layout.n_slice <= history.n_tokens

    def _full(self) -> str:
        return (
            f"the history holds {self._n_tokens.max()} of {self.config.history.n_tokens} tokens after {self._unit} "
            "units and keeps everything (history.policy full): the session ends here; raise history.n_tokens, or set "
            "history.policy window"
        )


class Unified(Placement):
    """All on one device, one step after the other; thinker and performer share the history."""

    def __init__(self, config: Config, params: Params):
        super().__init__(config)
        self._params = jax.device_put(params)
        self._jit_noise = jax.jit(functools.partial(steps.unit_noise, config))
        self._jit_perform = jax.jit(functools.partial(steps.perform, config), donate_argnums=1)

    def _held(self) -> Any:
        return self._state

    def _perform(self, thought: Thought, beat: Beat, step_ms: dict[str, float]) -> Future[Latents]:
        noise, history = self._jit_noise(beat), self._state.history
        latents, history = timed(step_ms, "perform", self._jit_perform, self._params, history, thought.new, noise, beat)
        self._state = self._state._replace(history=history)
        done: Future[Latents] = Future()
        done.set_result(latents)
        return done


class Split(Placement):
    """Thinker on one device, performer on ranks of their own, dispatched from a thread of their own.

    Only slices go to the performer and only latents come back. Every rank holds its heads of the history and is sent
    its heads of a slice; one rank alone runs the program of `Unified`.
    """

    def __init__(self, config: Config, params: Params, devices: Devices):
        super().__init__(config)
        ranks, layout = len(devices.performer), config.layout
        split = Whole() if ranks == 1 else Ulysses(AXIS, ranks, layout.n_agent_audio, config.picture.n_tokens)
        mesh, everywhere, heads = devices.performer_mesh(), PartitionSpec(), PartitionSpec(None, AXIS)
        history = History(heads, heads, everywhere, everywhere)  # type: ignore[arg-type]
        new = Slice(PartitionSpec(None, None, None, AXIS), everywhere)  # type: ignore[arg-type]
        perform: Any = functools.partial(steps.perform, config, split=split)
        if ranks > 1:
            specs = (everywhere, history, new, everywhere, everywhere)
            perform = jax.shard_map(
                perform, mesh=mesh, in_specs=specs, out_specs=(everywhere, history), check_vma=False
            )
        self._everywhere = NamedSharding(mesh, everywhere)
        self._history_sharding, self._slice_sharding = (
            jax.tree.map(lambda spec: NamedSharding(mesh, spec), tree, is_leaf=lambda x: isinstance(x, PartitionSpec))
            for tree in (history, new)
        )
        self._thinker = devices.thinker_sharding()
        self._params = jax.device_put(params, self._thinker)
        self._performer_params = jax.device_put({"transformer": params["transformer"]}, self._everywhere)
        self._jit_commit = jax.jit(functools.partial(append, ring=config.history.n_tokens), donate_argnums=0)
        self._jit_noise = jax.jit(functools.partial(steps.unit_noise, config), out_shardings=self._everywhere)
        self._jit_perform = jax.jit(perform, donate_argnums=1)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="performer")

    def begin(self, world: World, world_end: Int[np.ndarray, " B"], seeds: list[int]) -> None:
        """Prefill on the thinker; the performer is sent the world once."""
        super().begin(jax.device_put(world, self._thinker), world_end, seeds)
        sharding = self._history_sharding
        history = self._state.history
        spread = [jax.device_put(x, sharding.k) for x in (*history.k, *history.v)]
        n = len(history.k)
        counts = [jax.device_put(x, self._everywhere) for x in (history.world, history.n_committed)]
        self._history = History(tuple(spread[:n]), tuple(spread[n:]), *counts)

    def _held(self) -> Any:
        return self._state, self._history

    def _perform(self, thought: Thought, beat: Beat, step_ms: dict[str, float]) -> Future[Latents]:
        new = jax.device_put(thought.new, self._slice_sharding)
        making = self._thread.submit(self._make, new, jax.device_put(beat, self._everywhere), step_ms)
        self._state = self._state._replace(history=self._jit_commit(self._state.history, thought.new))
        return making

    def _make(self, new: Slice, beat: Beat, step_ms: dict[str, float]) -> Latents:
        noise = self._jit_noise(beat)
        latents, self._history = timed(
            step_ms, "perform", self._jit_perform, self._performer_params, self._history, new, noise, beat
        )
        return jax.device_put(latents, self._thinker)


def timed(step_ms: dict[str, float], name: str, step: Any, *args: Any) -> Any:
    """Run a step, wait for its result, and note how long that took."""
    start = time.perf_counter()
    result = jax.block_until_ready(step(*args))
    step_ms[name] = (time.perf_counter() - start) * 1000
    return result
