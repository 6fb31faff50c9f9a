"""Keeping pace with a clock: how much a unit may cost, which units are skipped, and what is shown in their place.

Unit k is complete (k + 1) units after the session began; its response is due one unit and a slack later. Where that
cannot be kept, the policy is, in this order:

1. fewer solver steps, while measured times or the lag say that the full number does not fit;
2. a unit is skipped: the last picture stands still, and the sound fades to silence;
3. the unit that is lived next is always the newest complete one, however many were missed.

So the lag, how long a unit had been complete when it was begun, is always less than a unit. When the load is gone, an
agent that leaves 2 NOISE_MS of a unit to spare is in step with all its solver steps again from the third unit on; one
that leaves less may first need some units of averaging, or PATIENCE_UNITS.

All is pure here; `live.py` is the loop. B sessions.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from wanstreamer_jax.stream.placement import Reply
from wanstreamer_jax.stream.types import Observation
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLE_RATE_HZ, SAMPLES_PER_UNIT, UNIT_MS

# Measured times that differ by less are averaged; larger changes are load that came or went, and believed at once. More
# solver steps are taken up only where they leave as much to spare, so that noise of half as much never flaps.
NOISE_MS = UNIT_MS / 10
GAIN = 0.25  # of the newest measurement in the running average
PATIENCE_UNITS = 50  # then more solver steps are tried although they leave less to spare

FADE_MS = 5
FADE_SAMPLES = FADE_MS * SAMPLE_RATE_HZ // 1000
# A raised cosine; 0 is the sample before its first, 1 the one after its last.
_RISE = (0.5 - 0.5 * np.cos(np.pi * np.arange(1, FADE_SAMPLES + 1) / (FADE_SAMPLES + 1))).astype(np.float32)


@runtime_checkable
class Session(Protocol):
    """What lives: sessions that a placement runs in lock step."""

    def step(self, seen: Observation, solver_steps: int) -> Reply:
        """Live through one unit, with so many solver steps; returns when its reply is there."""

    def skip(self) -> None:
        """Let a unit pass unlived: nothing is observed and nothing done, but time goes on."""


class Pace(NamedTuple):
    """Where a session stands, and what its units are expected to take."""

    unit: int  # the next one that is neither lived nor skipped
    solver_steps: int  # of a unit that is begun in time
    least_ms: dict[int, float]  # the least that `perform` has taken, for each number of solver steps there is
    perform_ms: float  # running estimate of `perform` at the full number of solver steps
    rest_ms: float  # running estimate of all else in a unit
    patience: int = 0  # units for which more solver steps would have fitted, with little to spare
    waited: bool = False  # the newest unit was skipped, to begin the next one in time


class Decision(NamedTuple):
    """What is done now: so many units are skipped, then one is lived, unless it has no solver steps."""

    n_skipped: int
    solver_steps: int
    lag_ms: float


def first_pace(perform_ms: dict[int, float]) -> Pace:
    """Before unit 0, which is lived with the full number of solver steps, whatever that takes.

    `perform_ms` is what the step took, for each number of solver steps that is compiled. Only the ratios matter.
    """
    return Pace(0, max(perform_ms), perform_ms, perform_ms=0.0, rest_ms=0.0)


def expected_ms(pace: Pace, solver_steps: int) -> float:
    """What a unit is expected to take. Load slows `perform` down by one factor, whatever the number of solver steps."""
    return pace.rest_ms + pace.perform_ms * pace.least_ms[solver_steps] / pace.least_ms[max(pace.least_ms)]


def complete_ms(unit: int) -> float:
    """When all of a unit can have been seen, counted from the start of unit 0."""
    return (unit + 1.0) * UNIT_MS


def due_ms(unit: int, slack_ms: float) -> float:
    """When the response to a unit is due, counted from the start of unit 0."""
    return complete_ms(unit) + UNIT_MS + slack_ms


def decide(pace: Pace, now_ms: float, slack_ms: float) -> tuple[Decision, Pace]:
    """What to do at `now_ms`, counted from the start of unit 0; `pace.unit` is complete, and none is being lived."""
    n_complete = int(now_ms // UNIT_MS)
    lag_ms = now_ms - n_complete * UNIT_MS
    solver_steps = _affordable(pace, lag_ms, slack_ms)
    n_skipped = n_complete - pace.unit - (solver_steps > 0)
    decision = Decision(n_skipped, solver_steps, lag_ms)
    return decision, pace._replace(unit=n_complete, waited=solver_steps == 0)


def _affordable(pace: Pace, lag_ms: float, slack_ms: float) -> int:
    """Solver steps of a unit that is begun with a lag; none where only the next unit can be in time.

    A unit that would be late even without a lag is lived: that keeps the conversation going, and measures the load.
    """
    counts = [n for n in _most_first(pace) if n <= pace.solver_steps]
    in_time = [n for n in counts if lag_ms + expected_ms(pace, n) <= UNIT_MS + slack_ms]
    if in_time:
        return in_time[0]
    late_anyway = expected_ms(pace, counts[-1]) > UNIT_MS + slack_ms
    return counts[-1] if late_anyway or pace.waited else 0


def learn(pace: Pace, solver_steps: int, perform_ms: float, unit_ms: float) -> Pace:
    """A unit was lived with so many solver steps: `perform` took `perform_ms` of its `unit_ms`."""
    least_ms = pace.least_ms | {solver_steps: min(perform_ms, pace.least_ms[solver_steps])}
    rest_error = unit_ms - perform_ms - pace.rest_ms
    perform_error = perform_ms * least_ms[max(least_ms)] / least_ms[solver_steps] - pace.perform_ms
    gain = 1.0 if abs(rest_error + perform_error) > NOISE_MS else GAIN
    learnt = pace._replace(
        least_ms=least_ms,
        perform_ms=pace.perform_ms + gain * perform_error,
        rest_ms=pace.rest_ms + gain * rest_error,
    )
    return _settle(learnt)


def _settle(pace: Pace) -> Pace:
    """Choose the solver steps of the units to come."""
    counts = _most_first(pace)
    kept = [n for n in counts if n == pace.solver_steps and expected_ms(pace, n) <= UNIT_MS]
    easy = [n for n in counts if expected_ms(pace, n) <= UNIT_MS - NOISE_MS]
    chosen = max(kept + easy, default=counts[-1])
    tight = [n for n in counts if n > chosen and expected_ms(pace, n) <= UNIT_MS]
    if tight and pace.patience == PATIENCE_UNITS:
        return pace._replace(solver_steps=tight[0], patience=0)
    return pace._replace(solver_steps=chosen, patience=pace.patience + 1 if tight else 0)


def _most_first(pace: Pace) -> list[int]:
    return sorted(pace.least_ms, reverse=True)


class Counters(NamedTuple):
    """What became of the units of output time."""

    units: int = 0  # filled: with a reply, or concealed because it was late or skipped
    late: int = 0  # lived, but not there in time
    skipped: int = 0  # not lived
    reduced: int = 0  # lived with fewer solver steps, late ones included
    missed: int = 0  # replies that came after their units were filled; the next ones take up their pictures and text
    lag_ms: float = 0.0  # how long the newest unit had been complete when it was begun
    lag_max_ms: float = 0.0


class Shown(NamedTuple):
    """A unit of output time: what is seen and heard of the agent in it, and what the agent wrote meanwhile."""

    unit: int
    frames: UInt8[np.ndarray, "B f H W 3"]
    samples: Float[np.ndarray, "B n"]
    text: list[list[int]]  # of each session
    concealed: bool


class Screen(NamedTuple):
    """What the next unit of output time joins on to."""

    picture: UInt8[np.ndarray, "B H W 3"]
    ending: Float[np.ndarray, "B n"]  # the last FADE_SAMPLES that were heard
    silent: bool  # the sound has faded out
    unsaid: list[list[int]]  # text of responses that came too late to be shown


def first_screen(picture: UInt8[np.ndarray, "B H W 3"]) -> Screen:
    """Silence, and a picture that stands until there is a response."""
    ending = np.zeros((len(picture), FADE_SAMPLES), np.float32)
    return Screen(picture, ending, silent=True, unsaid=[[] for _ in picture])


def show(screen: Screen, unit: int, reply: Reply) -> tuple[Shown, Screen]:
    """A reply that came in time, as it is; but after silence its sound fades in."""
    samples = reply.samples
    if screen.silent:
        samples = np.concatenate([samples[:, :FADE_SAMPLES] * _RISE, samples[:, FADE_SAMPLES:]], axis=1)
    shown = Shown(unit, reply.frames, samples, _joined(screen.unsaid, reply.text), concealed=False)
    return shown, Screen(reply.frames[:, -1], samples[:, -FADE_SAMPLES:], silent=False, unsaid=[[] for _ in samples])


def conceal(screen: Screen, unit: int) -> tuple[Shown, Screen]:
    """No reply in time: the picture stands still, and the last sound, played backwards, fades out.

    Backwards it begins with the sample that was heard last, so that the join is no click.
    """
    frames = np.repeat(screen.picture[:, None], FRAMES_PER_UNIT, axis=1)
    samples = np.zeros((len(frames), SAMPLES_PER_UNIT), np.float32)
    if not screen.silent:
        samples[:, :FADE_SAMPLES] = (screen.ending * _RISE)[:, ::-1]
    shown = Shown(unit, frames, samples, screen.unsaid, concealed=True)
    return shown, screen._replace(silent=True, unsaid=[[] for _ in frames])


def miss(screen: Screen, reply: Reply) -> Screen:
    """A reply that came too late: the next unit has its last picture and its text; its sound is lost."""
    return screen._replace(picture=reply.frames[:, -1], unsaid=_joined(screen.unsaid, reply.text))


def _joined(first: list[list[int]], then: list[list[int]]) -> list[list[int]]:
    return [a + b for a, b in zip(first, then, strict=True)]
