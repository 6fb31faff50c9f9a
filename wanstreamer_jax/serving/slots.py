"""Places for conversations: as many as these devices keep at the pace of the clock, each warmed up before the first.

A slot is a placement of one session. Slots are interleaved on the devices: each runs its own steps when its own unit
is complete, and shares nothing with the others but the parameters.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, runtime_checkable

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.config import Config
from wanstreamer_jax.parallel.mesh import Devices
from wanstreamer_jax.serving.placing import observation, place_agent
from wanstreamer_jax.serving.world_file import Setting, make_start
from wanstreamer_jax.stream.live import measure
from wanstreamer_jax.stream.pace import Pace, Session
from wanstreamer_jax.timeline import UNIT_MS

MOST_SLOTS = 16  # that are tried out; more must be asked for
TRIED_UNITS = 8
BEARABLE = 0.75  # of a unit: histories are still empty, and not all is the model


@runtime_checkable
class Slot(Protocol):
    """A place for one conversation at a time."""

    @property
    def session(self) -> Session:
        """What lives, once it has begun."""

    def begin(self, setting: Setting, seed: int) -> Pace:
        """Begin anew; nothing is left of the conversation before. The pace is the first unit's.

        Raises:
            ValueError: the setting does not fit the agent.
        """

    def close(self) -> None:
        """Let go of the devices."""


class PlacementSlot:
    """A slot on the devices of an agent, warmed up when it is made."""

    def __init__(self, agent: Agent, devices: Devices | None):
        self._agent = agent
        self._placement = place_agent(agent, devices)
        start = make_start(agent.config, agent.tokenizer, [Setting()], [0])
        self._nothing = observation(agent.config, None, None, [])
        self._placement.begin(start)
        self._pace = measure(self._placement, self._nothing, solver_choices(agent.config))

    @property
    def session(self) -> Session:
        """The placement."""
        return self._placement

    @property
    def name(self) -> str:
        """What reports call the placement."""
        return self._placement.name

    def begin(self, setting: Setting, seed: int) -> Pace:
        """Prefill the world."""
        self._placement.begin(make_start(self._agent.config, self._agent.tokenizer, [setting], [seed]))
        return self._pace

    def close(self) -> None:
        """End the placement's threads."""
        self._placement.close()

    def slowest_ms(self, n_units: int) -> float:
        """Live through units of nothing; what the slowest took."""
        took_ms = []
        for _ in range(n_units):
            began = time.perf_counter()
            self._placement.step(self._nothing)
            took_ms.append((time.perf_counter() - began) * 1000)
        return max(took_ms)


def solver_choices(config: Config) -> list[int]:
    """Numbers of solver steps that a unit may be lived with: all, half of them, and so on down to one."""
    n = config.flow.solver_steps
    return [n >> shift for shift in range(n.bit_length())]


def open_slots(make: Callable[[], PlacementSlot], wanted: int | None, tell: Callable[[str], None]) -> list[Slot]:
    """The slots that are wanted; without a number, as many as keep pace when all of them are in use, at least one.

    `tell` is told what is being done.
    """
    tell("compiling, which is remembered")
    slots = [make()]
    most = wanted or (MOST_SLOTS if slots[0].slowest_ms(TRIED_UNITS) <= BEARABLE * UNIT_MS / 2 else 1)
    while len(slots) < most:
        tell(f"warming up slot {len(slots) + 1}")
        slots.append(make())
        if wanted is None and not _keep_pace(slots):
            slots.pop().close()
            break
    return list(slots)


def _keep_pace(slots: list[PlacementSlot]) -> bool:
    """Whether units of all slots at once are lived in time."""
    with ThreadPoolExecutor(len(slots)) as pool:
        slowest_ms = pool.map(lambda slot: slot.slowest_ms(TRIED_UNITS), slots)
        return max(slowest_ms) <= BEARABLE * UNIT_MS


class Load(NamedTuple):
    """How many slots there are, and how many are in use."""

    n_slots: int
    n_used: int


class Slots:
    """Who takes a slot gives it back. From any thread."""

    def __init__(self, slots: list[Slot]):
        self._all = slots
        self._free = list(slots)
        self._lock = threading.Lock()

    def take(self) -> Slot | None:
        """A free slot; None when all are in use."""
        with self._lock:
            return self._free.pop(0) if self._free else None

    def give_back(self, slot: Slot) -> None:
        """It is free."""
        with self._lock:
            self._free.append(slot)

    @property
    def load(self) -> Load:
        """How many there are and how many are in use."""
        with self._lock:
            return Load(len(self._all), len(self._all) - len(self._free))

    def close(self) -> None:
        """Let go of the devices."""
        for slot in self._all:
            slot.close()
