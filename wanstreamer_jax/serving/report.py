"""What a run took: latencies of every step, late units, compilations, memory, and what was written."""

from typing import Any

import jax
import numpy as np

from wanstreamer_jax.stream.placement import STEPS
from wanstreamer_jax.timeline import UNIT_MS

COMPILED = "/jax/core/compile/backend_compile_duration"


class CompileCounter:
    """Counts compilations from the moment it is made; programs fetched from the cache count too."""

    def __init__(self) -> None:
        self.n = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: Any) -> None:
        del duration_secs
        self.n += event == COMPILED

    def close(self) -> None:
        """Stop counting."""
        jax.monitoring.unregister_event_duration_listener(self._hear)


class Latencies:
    """The time of each step of every unit, in milliseconds."""

    def __init__(self) -> None:
        self._step_ms: dict[str, list[float]] = {name: [] for name in STEPS}

    def add(self, step_ms: dict[str, float]) -> None:
        """Note the steps of one unit."""
        for name in STEPS:
            self._step_ms[name].append(step_ms[name])

    def signal_to_signal_ms(self) -> list[float]:
        """Of each unit: from its observation being there to its response being there."""
        return [sum(steps) for steps in zip(*self._step_ms.values(), strict=True)]

    def n_late(self) -> int:
        """Units that took longer than a unit lasts."""
        return sum(ms > UNIT_MS for ms in self.signal_to_signal_ms())

    def summary(self) -> dict[str, dict[str, float]]:
        """p50, p95, p99 and max of every step and of the whole unit; empty without units."""
        series = {**self._step_ms, "signal_to_signal": self.signal_to_signal_ms()}
        return {name: _percentiles(values) for name, values in series.items() if values}


def _percentiles(values: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": round(p50, 3), "p95": round(p95, 3), "p99": round(p99, 3), "max": round(max(values), 3)}
