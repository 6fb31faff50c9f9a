"""All on one device, one step after the other.

B sessions.
"""

import functools
from concurrent.futures import Future
from typing import Any

import jax

from wanstreamer_jax.cache import Slice
from wanstreamer_jax.config import Config
from wanstreamer_jax.model import Latents, Params
from wanstreamer_jax.stream import steps
from wanstreamer_jax.stream.executables import Executables, keep
from wanstreamer_jax.stream.performer import performer_program
from wanstreamer_jax.stream.placement import Placement
from wanstreamer_jax.stream.types import Beat, Thought
from wanstreamer_jax.stream.worker import Event, Worker


class Unified(Placement):
    """All on one device, one step after the other; thinker and performer share the history."""

    def __init__(
        self,
        config: Config,
        params: Params,
        events: list[Event] | None = None,
        executables: Executables | None = None,
    ):
        """Put the parameters on the device.

        `events`, if given, collects every step that is run; `executables` keeps compiled steps for the next run.
        """
        worker = Worker("thinker and performer", events)
        kept = functools.partial(keep, executables, jax.devices()[:1])
        super().__init__(config, worker, worker, kept)
        self._params = jax.device_put(params)
        self._jit_noise = kept("noise", jax.jit(functools.partial(steps.unit_noise, config)))
        self._jit_perform = functools.cache(functools.partial(performer_program, config, None, kept))

    @property
    def name(self) -> str:
        """What reports call this placement."""
        return "unified"

    @property
    def n_ranks(self) -> int:
        """None beside the one device."""
        return 0

    def _held(self) -> Any:
        return self._state

    def _perform(self, thought: Thought, beat: Beat, solver_steps: int) -> Future:
        perform = self._jit_perform(solver_steps)
        return self._performer.submit("perform", self._unit, self._make, perform, thought.new, beat)

    def _make(self, perform: Any, new: Slice, beat: Beat) -> Latents:
        # The one thread runs steps in order, so that nobody sees the state between its history and the next.
        noise, history = self._jit_noise(beat), self._state.history
        latents, history = perform(self._params, history, new, noise, beat)
        self._state = self._state._replace(history=history)
        return latents
