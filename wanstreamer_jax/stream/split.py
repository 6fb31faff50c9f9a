"""Thinker on one device, performer on ranks of their own.

B sessions.
"""

import functools
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Bool

from wanstreamer_jax.cache import History, Slice, append
from wanstreamer_jax.config import Config
from wanstreamer_jax.model import Latents, Params
from wanstreamer_jax.parallel.mesh import Devices
from wanstreamer_jax.stream import steps
from wanstreamer_jax.stream.executables import Executables, keep
from wanstreamer_jax.stream.performer import EVERYWHERE, HEADS, SLICE_HEADS, performer_program
from wanstreamer_jax.stream.placement import Placement, Start
from wanstreamer_jax.stream.types import Beat, Thought
from wanstreamer_jax.stream.worker import Event, Worker


class Split(Placement):
    """Thinker on one device, performer on ranks of their own, dispatched from a thread of their own.

    Only slices go to the performer and only latents come back. Every rank holds its heads of the history and is sent
    its heads of a slice; one rank alone runs the program of `Unified`.
    """

    def __init__(
        self,
        config: Config,
        params: Params,
        devices: Devices,
        events: list[Event] | None = None,
        executables: Executables | None = None,
    ):
        """Put the parameters on the devices.

        `events`, if given, collects every step that is run; `executables` keeps compiled steps for the next run.
        """
        thinking = functools.partial(keep, executables, [devices.thinker])
        performing = functools.partial(keep, executables, devices.performer)
        super().__init__(config, Worker("thinker", events), Worker("performer", events), thinking)
        mesh = devices.performer_mesh()
        self._on_thinker, self._on_ranks = devices.thinker_sharding(), NamedSharding(mesh, EVERYWHERE)
        self._by_heads, self._slice_by_heads = NamedSharding(mesh, HEADS), NamedSharding(mesh, SLICE_HEADS)
        self._params = jax.device_put(params, self._on_thinker)
        self._performer_params = jax.device_put({"transformer": params["transformer"]}, self._on_ranks)
        commit = functools.partial(append, ring=config.history.n_tokens)
        noise = functools.partial(steps.unit_noise, config)
        self._jit_commit = thinking("commit", jax.jit(commit, donate_argnums=0))
        self._jit_noise = performing("noise", jax.jit(noise, out_shardings=self._on_ranks))
        self._jit_perform = functools.cache(functools.partial(performer_program, config, mesh, performing))

    def begin(self, start: Start) -> None:
        """Prefill on the thinker; the performer is sent the history once."""
        super().begin(start)
        self._history = self._to_ranks(self._state.history)

    def restart(self, ended: Bool[np.ndarray, " B"], start: Start) -> None:
        """End some sessions and begin others in their place; the rest do not notice."""
        super().restart(ended, start)
        self._history = self._to_ranks(self._state.history)

    def close(self) -> None:
        """End the threads and let go of the sessions."""
        super().close()
        vars(self).pop("_history", None)

    def _to_ranks(self, history: History) -> History:
        """A history of the thinker, each rank's heads on that rank."""
        k, v = (tuple(jax.device_put(x, self._by_heads) for x in layers) for layers in (history.k, history.v))
        return History(k, v, *jax.device_put((history.world, history.n_committed), self._on_ranks))

    @property
    def name(self) -> str:
        """What reports call this placement."""
        return "split" if self.n_ranks == 1 else "ulysses"

    @property
    def n_ranks(self) -> int:
        """Devices of the performer."""
        return self._on_ranks.mesh.size

    def _held(self) -> Any:
        return self._state, self._history

    def _perform(self, thought: Thought, beat: Beat, solver_steps: int) -> Future:
        new = Slice(
            jax.device_put(thought.new.kv, self._slice_by_heads), jax.device_put(thought.new.n_tokens, self._on_ranks)
        )
        perform = self._jit_perform(solver_steps)
        performing = self._performer.submit("perform", self._unit, self._make, perform, new, beat)
        history, _ = self._thinker.run("commit", self._unit, self._jit_commit, self._state.history, thought.new)
        self._state = self._state._replace(history=history)
        return performing

    def _make(self, perform: Any, new: Slice, beat: Beat) -> Latents:
        beat = jax.device_put(beat, self._on_ranks)
        noise = self._jit_noise(beat)
        latents, self._history = perform(self._performer_params, self._history, new, noise, beat)
        return jax.device_put(latents, self._on_thinker)
