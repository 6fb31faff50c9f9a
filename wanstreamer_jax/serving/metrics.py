"""Figures for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from wanstreamer_jax.serving.conversation import UnitOut
from wanstreamer_jax.serving.inbox import Losses
from wanstreamer_jax.serving.slots import Load
from wanstreamer_jax.stream.pace import Counters

PREFIX = "wanstreamer_"
UNIT_BUCKETS_S = (0.02, 0.04, 0.08, 0.12, 0.16, 0.2, 0.32, 0.64)  # around a unit of 0.16 s
SESSION_BUCKETS_S = (10, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """All figures of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, says, labels, registry=registry)

        self.sessions = counter("sessions", "Conversations that began", "transport")
        self.endings = counter("sessions_ended", "Conversations that ended", "reason")
        self.refused = counter("sessions_refused", "Requests for a conversation that were refused", "reason")
        self.wrong = counter("wrong_messages", "Messages of clients that were refused", "name")
        self._units = counter("units", "Units shown")
        self._late = counter("units_late", "Units lived, but not in time")
        self._skipped = counter("units_skipped", "Units not lived")
        self._reduced = counter("units_reduced", "Units lived with fewer solver steps")
        self.missed = counter("units_missed", "Units whose media a client was too slow for")
        self._lost_samples = counter("input_samples_lost", "Samples of users that were missing when their unit began")
        self._lost_pictures = counter("input_pictures_lost", "Pictures of users that could not be decoded")
        self._slips = counter("input_slips", "Units of users that did not follow on the one before")
        buckets = Histogram(PREFIX + "unit_seconds", "Time a unit took", buckets=UNIT_BUCKETS_S, registry=registry)
        self._unit_seconds = buckets
        self.session_seconds = Histogram(
            PREFIX + "session_seconds", "How long conversations lasted", buckets=SESSION_BUCKETS_S, registry=registry
        )

    def watch(self, load: Callable[[], Load], n_compiled: Callable[[], int]) -> None:
        """Figures that are asked for when they are read."""

        def gauge(name: str, says: str, value: Callable[[], float]) -> None:
            Gauge(PREFIX + name, says, registry=self._registry).set_function(value)

        gauge("slots", "Conversations there is room for", lambda: load().n_slots)
        gauge("slots_used", "Conversations now", lambda: load().n_used)
        gauge("compiles_after_warmup", "Programs compiled after warm-up: 0 when all is well", n_compiled)

    def page(self) -> bytes:
        """The figures as Prometheus reads them."""
        return generate_latest(self._registry)

    def note(self, out: UnitOut, before: UnitOut | None) -> None:
        """A unit was shown; `before` is the one before it in its conversation."""
        was = before.counters if before else Counters()
        had = before.losses if before else Losses()
        self._units.inc()
        self._late.inc(out.counters.late - was.late)
        self._skipped.inc(out.counters.skipped - was.skipped)
        self._reduced.inc(out.counters.reduced - was.reduced)
        self._lost_samples.inc(out.losses.samples - had.samples)
        self._lost_pictures.inc(out.losses.pictures - had.pictures)
        self._slips.inc(out.losses.slips - had.slips)
        if not out.concealed:
            self._unit_seconds.observe(out.unit_ms / 1000)
