"""Live sessions keep pace with the clock, whatever the load; all on a simulated clock."""

import threading
from itertools import groupby, islice, pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanstreamer_jax.stream.live import STALLED_MS, Live, LiveError, Newest, WallClock, measure
from wanstreamer_jax.stream.pace import (
    FADE_SAMPLES,
    NOISE_MS,
    PATIENCE_UNITS,
    complete_ms,
    conceal,
    decide,
    due_ms,
    first_pace,
    first_screen,
    learn,
    miss,
    show,
)
from wanstreamer_jax.stream.placement import Reply
from wanstreamer_jax.stream.types import Observation
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, UNIT_MS

SLACK_MS = 40.0
NOTHING = Observation(None, None, None, None)


class Agent(NamedTuple):
    """What its units take without load: `perform` for each number of solver steps, and all else."""

    perform_ms: dict[int, float]
    rest_ms: float

    @property
    def full(self):
        return max(self.perform_ms)

    @property
    def unit_ms(self):
        return self.perform_ms[self.full] + self.rest_ms


class Load(NamedTuple):
    """For so long, `perform` and all else take so many times as long."""

    lasts_ms: float
    perform: float
    rest: float


class Begun(NamedTuple):
    """A decision of the policy, and what came of it."""

    now_ms: float
    unit: int
    skipped: range
    solver_steps: int
    lag_ms: float
    end_ms: float


AGENT = Agent({4: 80.0, 2: 44.0, 1: 26.0}, 20.0)


def times(agent, loads, ms, solver_steps):
    """What `perform` and all else take in a unit that is begun at `ms`."""
    for load in loads:
        if ms < load.lasts_ms:
            return agent.perform_ms[solver_steps] * load.perform, agent.rest_ms * load.rest
        ms -= load.lasts_ms
    return agent.perform_ms[solver_steps], agent.rest_ms


def lived(agent, take, n_units, slack_ms=SLACK_MS):
    """The policy alone, at work on an agent as it was measured: `take` says what `perform` and all else do take."""
    pace, free_ms = first_pace(agent.perform_ms), 0.0
    while pace.unit < n_units:
        now, first = max(free_ms, complete_ms(pace.unit)), pace.unit
        decision, pace = decide(pace, now, slack_ms)
        free_ms, skipped = now, range(first, first + decision.n_skipped)
        if decision.solver_steps:
            perform_ms, rest_ms = take(now, decision.solver_steps)
            free_ms += perform_ms + rest_ms
            pace = learn(pace, decision.solver_steps, perform_ms, perform_ms + rest_ms)
        yield Begun(now, pace.unit - 1, skipped, decision.solver_steps, decision.lag_ms, free_ms)


@st.composite
def agents(draw, most_ms=UNIT_MS - 2 * NOISE_MS):
    counts = draw(st.sampled_from([(1,), (2, 1), (4, 2, 1), (8, 4, 2, 1)]))
    rest, fixed, step = draw(st.floats(5, 50)), draw(st.floats(1, 10)), draw(st.floats(1, 100))
    step = min(step, (most_ms - rest - fixed) / counts[0])
    return Agent({n: fixed + n * step for n in counts}, rest)


def loads():
    factor = st.one_of(st.just(1.0), st.floats(1, 3), st.floats(1, 40))
    return st.lists(st.builds(Load, st.floats(10, 1500), factor, factor), max_size=6)


slacks = st.floats(0, 100)


@given(agents(), loads(), slacks)
def test_lag_stays_under_one_unit_and_every_unit_is_decided_once_and_in_order(agent, trace, slack):
    decided = []
    for begun in lived(agent, lambda ms, n: times(agent, trace, ms, n), 60, slack):
        assert 0 <= begun.lag_ms < UNIT_MS
        decided += [*begun.skipped, *([begun.unit] if begun.solver_steps else [])]
        assert begun.now_ms - complete_ms(decided[-1]) == pytest.approx(begun.lag_ms)
    assert decided == list(range(len(decided)))


@settings(max_examples=150)
@given(agents(), loads(), slacks)
def test_back_in_step_at_full_solver_steps_within_two_units_after_the_load(agent, trace, slack):
    over_ms = sum(load.lasts_ms for load in trace)
    n_units = int(over_ms / UNIT_MS) + 60
    after = [b for b in lived(agent, lambda ms, n: times(agent, trace, ms, n), n_units, slack) if b.now_ms >= over_ms]
    settled = [b for b in after if b.unit >= after[0].unit + 2]
    assert settled
    for begun in settled:
        assert not begun.skipped
        assert begun.solver_steps == agent.full
        assert begun.end_ms <= due_ms(begun.unit, slack)


@given(agents(most_ms=UNIT_MS - NOISE_MS), st.integers(0, 2**32 - 1), slacks)
def test_without_load_nothing_is_reduced_skipped_or_late(agent, seed, slack):
    rng = np.random.default_rng(seed)

    def noisy(ms, solver_steps):
        return agent.perform_ms[solver_steps], agent.rest_ms + rng.uniform(-min(NOISE_MS, agent.rest_ms), NOISE_MS)

    for begun in lived(agent, noisy, 60, slack):
        assert not begun.skipped
        assert begun.solver_steps == agent.full
        assert begun.lag_ms == 0
        assert begun.end_ms <= due_ms(begun.unit, slack)


@settings(max_examples=50)
@given(st.floats(40, 400), st.floats(0.1, 0.9), st.integers(0, 2**32 - 1))
def test_noise_never_flaps_between_numbers_of_solver_steps(unit_ms, share, seed):
    perform_ms = unit_ms * share
    agent = Agent({n: perform_ms * n / 4 for n in (4, 2, 1)}, unit_ms - perform_ms)
    rng, pace, steps = np.random.default_rng(seed), first_pace(agent.perform_ms), []
    for _ in range(4 * PATIENCE_UNITS):
        n = pace.solver_steps
        rest_ms = agent.rest_ms + rng.uniform(-NOISE_MS / 2, NOISE_MS / 2)
        pace = learn(pace, n, agent.perform_ms[n], agent.perform_ms[n] + rest_ms)
        steps.append(n)
    at_first = [n for n, _ in groupby(steps[:PATIENCE_UNITS])]
    assert len(at_first) == len(set(at_first))  # no number is left and taken up again
    assert len(list(groupby(steps))) <= len(at_first) + 3 * 3  # but in a try, every so many units


def test_patience_brings_back_an_agent_that_needs_nearly_the_whole_unit():
    agent = Agent({2: 110.0, 1: 60.0}, 40.0)
    begun = list(lived(agent, lambda ms, n: times(agent, [Load(1000, 3, 3)], ms, n), 100))
    steps = {b.unit: b.solver_steps for b in begun}
    assert steps[20] == 1  # 150 ms would fit, with little to spare
    assert steps[99] == 2


def test_noise_that_is_larger_than_what_is_to_spare_is_averaged():
    agent = Agent({4: 100.0, 1: 25.0}, 52.0)  # 152 ms: between what is taken up and what is kept
    rng, pace, steps = np.random.default_rng(0), first_pace(agent.perform_ms), []
    for _ in range(PATIENCE_UNITS):
        n = pace.solver_steps
        steps.append(n)
        pace = learn(pace, n, agent.perform_ms[n], agent.perform_ms[n] + 52 + rng.uniform(-0.6, 0.6) * NOISE_MS)
    assert len(list(groupby(steps))) <= 2


def test_load_on_the_performer_alone_does_not_flap():
    agent = Agent({8: 45.0, 1: 10.0}, 15.0)  # 3.5 times as long: 172 ms with 8 solver steps, 50 ms with 1
    begun = list(lived(agent, lambda ms, n: times(agent, [Load(1e9, 3.5, 1)], ms, n), 100))
    assert [b.solver_steps for b in begun[1:]] == [1] * (len(begun) - 1)


def test_load_on_the_thinker_alone_is_carried_by_fewer_solver_steps():
    begun = list(lived(AGENT, lambda ms, n: times(AGENT, [Load(1e9, 1, 4.5)], ms, n), 100))  # 90 ms, and `perform`
    assert [b.solver_steps for b in begun[1:]] == [2] * (len(begun) - 1)
    assert all(b.end_ms <= due_ms(b.unit, SLACK_MS) for b in begun)


@pytest.mark.parametrize("wrong", [{2: 240.0, 1: 40.0}, {2: 80.0, 1: 120.0}, {2: 240.0, 1: 120.0}])
def test_what_was_measured_under_load_at_first_is_put_right(wrong):
    agent = Agent({2: 80.0, 1: 40.0}, 20.0)
    load = [Load(1000, 1, 1), Load(1000, 3, 3)]
    begun = list(lived(agent._replace(perform_ms=wrong), lambda ms, n: times(agent, load, ms, n), 40))
    assert all(b.solver_steps == 2 for b in begun if 500 < b.now_ms < 1000 or b.now_ms > 2500)


def test_units_that_would_be_late_anyway_are_lived_one_after_the_other():
    begun = list(lived(AGENT, lambda ms, n: times(AGENT, [Load(1e9, 10, 10)], ms, n), 100))
    assert all(b.solver_steps == 1 for b in begun[1:])
    assert all(a.end_ms == b.now_ms for a, b in pairwise(begun))


def test_a_loop_that_always_wakes_late_still_lives_every_other_unit():
    pace = first_pace({1: 1.0})._replace(perform_ms=UNIT_MS + SLACK_MS - 10)
    n_lived = 0
    for unit in range(20):
        decision, pace = decide(pace, complete_ms(unit) + 20, SLACK_MS)
        n_lived += decision.solver_steps > 0
    assert n_lived == 10


# The loop, on a simulated clock.


class FakeClock:
    """Time passes only where the loop waits; a unit that is being lived sleeps on it, too."""

    def __init__(self):
        self._now = 1000.25
        self._wakes = None  # when the unit that is being lived does
        self._changed = threading.Condition()

    def now_ms(self):
        return self._now

    def sleep_until(self, ms):
        with self._changed:
            if threading.current_thread() is threading.main_thread():
                self._now = max(self._now, ms)
                return
            self._wakes = ms
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._wakes is None, 5)

    def wait(self, done, until_ms):
        with self._changed:
            assert self._changed.wait_for(lambda: self._wakes is not None, 5)
            until_ms = max(until_ms, self._now)
            if self._wakes > until_ms:
                self._now = until_ms
                return False
            self.release()
        return done.wait(5)

    def release(self):
        with self._changed:
            self._now, self._wakes = max(self._now, self._wakes), None
            self._changed.notify_all()


class FakeSession:
    """Answers with tones, a picture of the unit's number, and that number as text; notes what it lived, and skipped."""

    def __init__(self, clock, take):
        self.clock, self.take, self.done = clock, take, []

    def step(self, seen, solver_steps):
        perform_ms, rest_ms = self.take(self.clock.now_ms() - 1000.25, solver_steps)
        self.clock.sleep_until(self.clock.now_ms() + perform_ms + rest_ms)
        self.done.append((len(self.done), solver_steps))
        assert seen == len(self.done) - 1  # the session's units are the clock's
        return reply(seen, {"perform": perform_ms})

    def skip(self):
        self.done.append((len(self.done), 0))


def reply(unit, step_ms=None):
    frames = np.full((1, FRAMES_PER_UNIT, 2, 2, 3), unit % 256, np.uint8)
    when = np.arange(unit * SAMPLES_PER_UNIT, (unit + 1) * SAMPLES_PER_UNIT)
    samples = np.sin(when * 0.05)[None].astype(np.float32)
    return Reply(unit=unit, frames=frames, samples=samples, text=[[unit]], step_ms=step_ms or {})


def live(take, agent=AGENT):
    clock = FakeClock()
    session = FakeSession(clock, take)
    pace, screen = first_pace(agent.perform_ms), first_screen(np.zeros((1, 2, 2, 3), np.uint8))
    return Live(session, lambda unit: unit, pace, screen, SLACK_MS, clock), session


def units_in_threads():
    threads = [t for t in threading.enumerate() if t.name.startswith("unit ")]
    for thread in threads:
        thread.join(1)  # it has said that it is done, and ends
    return [t.name for t in threads if t.is_alive()]


def loaded(*trace):
    return lambda ms, n: times(AGENT, trace, ms, n)


def taken(loop, session, n_units):
    """So many units of output time, each with the time at which it came."""
    units = loop.units()
    shown = [(next(units), session.clock.now_ms() - 1000.25) for _ in range(n_units)]
    units.close()
    return shown


@settings(max_examples=25, deadline=None)
@given(loads())
def test_output_time_is_filled_once_in_order_and_never_late_and_counters_add_up(trace):
    loop, session = live(loaded(*trace))
    shown = taken(loop, session, 40)
    assert [s.unit for s, _ in shown] == list(range(40))
    for s, ms in shown:
        assert complete_ms(s.unit) <= ms <= due_ms(s.unit, SLACK_MS)
    counters = loop.counters
    n_lived = {unit: n for unit, n in session.done if n}
    assert counters.units == 40
    assert counters.late + counters.skipped == sum(s.concealed for s, _ in shown)
    assert counters.late >= sum(s.concealed for s, _ in shown if s.unit in n_lived)
    assert counters.lag_ms <= counters.lag_max_ms < UNIT_MS
    if not loop._living:  # all that was begun is known
        assert counters.skipped == sum(n == 0 for unit, n in session.done if unit < 40) + loop._n_unlived
        assert counters.reduced == sum(0 < n < 4 for unit, n in session.done if unit < 40)
    text = [t for s, _ in shown for t in s.text[0]]
    assert text == sorted(n_lived)[: len(text)]


def test_unloaded_every_reply_is_shown_as_it_is():
    loop, session = live(loaded())
    for s, ms in taken(loop, session, 10):
        assert ms == complete_ms(s.unit) + AGENT.unit_ms
        np.testing.assert_array_equal(s.frames, reply(s.unit).frames)
        start = 0 if s.unit else FADE_SAMPLES
        np.testing.assert_array_equal(s.samples[:, start:], reply(s.unit).samples[:, start:])
    assert loop.counters == (10, 0, 0, 0, 0, 0.0, 0.0)


def test_load_that_fewer_solver_steps_can_carry_skips_nothing():
    loop, session = live(loaded(Load(1e9, 2.2, 2.2)))
    shown = taken(loop, session, 50)
    assert loop.counters.late == 1  # the first, which measured it
    assert loop.counters.skipped <= 1
    assert not any(s.concealed for s, _ in shown[2:])
    assert {n for _, n in session.done[2:]} == {2}


def test_three_times_the_load_for_five_seconds():
    agent = Agent({2: 80.0, 1: 50.0}, 40.0)
    loop, session = live(lambda ms, n: times(agent, [Load(5000, 3, 3)], ms, n), agent)
    shown = taken(loop, session, 60)
    over = 5000 // UNIT_MS
    assert loop.counters.lag_max_ms < UNIT_MS
    assert loop.counters.late + loop.counters.skipped == sum(s.concealed for s, _ in shown) > over / 2
    assert not any(s.concealed for s, _ in shown[over + 3 :])
    assert all(n == 2 for unit, n in session.done[over + 3 :])


def test_a_unit_of_ten_units_is_concealed_while_it_lasts():
    loop, session = live(lambda ms, n: (AGENT.perform_ms[n], 1600.0 if ms == 4 * UNIT_MS else 20.0))
    shown = taken(loop, session, 20)
    assert [s.unit for s, _ in shown if s.concealed] == list(range(3, 13))
    assert loop.counters[:4] == (20, 1, 9, 1)
    assert [n for _, n in session.done] == [4] * 4 + [0] * 9 + [1] + [4] * 6
    assert [s.text for s, _ in shown[12:14]] == [[[]], [[3, 13]]]


def test_whoever_keeps_units_waiting_gets_concealed_ones_and_then_new_ones():
    loop, session = live(loaded())
    units = loop.units()
    first = [next(units) for _ in range(3)]
    session.clock.sleep_until(session.clock.now_ms() + 10 * UNIT_MS)
    later = [next(units) for _ in range(13)]
    units.close()
    assert [s.unit for s in first + later] == list(range(16))
    assert not later[-1].concealed
    assert loop.counters.lag_max_ms < UNIT_MS
    assert loop.counters.skipped == sum(s.concealed for s in later)


def test_a_unit_that_waits_already_is_begun_before_the_last_reply_is_handed_over():
    loop, _ = live(loaded(Load(1e9, 6.0, 1)))  # 1 solver step: 176 ms
    units = loop.units()
    n_behind = 0
    for _ in range(20):
        shown = next(units)
        if not shown.concealed and not loop._pace.waited and loop.counters.lag_ms > 0:
            n_behind += 1
            assert loop._living.unit == shown.unit + 1
    units.close()
    assert n_behind > 3


def test_a_unit_that_raises_ends_the_session_with_one_error_that_names_it():
    def take(ms, solver_steps):
        if ms >= 3 * UNIT_MS:
            session.clock.sleep_until(session.clock.now_ms())
            raise ArithmeticError("think failed")
        return 80.0, 20.0

    loop, session = live(take)
    with pytest.raises(LiveError, match=r"unit 2 .*think failed") as failure:
        list(islice(loop.units(), 1000))
    assert isinstance(failure.value.__cause__, ArithmeticError)
    assert loop.counters.units == 2
    assert not units_in_threads()


def test_a_unit_that_does_not_end_is_given_up():
    loop, session = live(lambda ms, n: (80.0, 1e9))
    shown = []
    with pytest.raises(LiveError, match=r"unit 0 .*has not ended in 10 s"):
        shown.extend(islice(loop.units(), 1000))
    assert STALLED_MS <= session.clock.now_ms() - 1000.25 - UNIT_MS < STALLED_MS + 2 * UNIT_MS
    session.clock.release()
    [stuck] = [t for t in threading.enumerate() if t.name == "unit 0"]
    stuck.join(5)


def test_a_session_can_be_closed_at_any_moment():
    loop, session = live(loaded(Load(1e9, 10, 10)))
    units = loop.units()
    next(units)
    loop.close()
    assert list(units) == []
    assert not units_in_threads()
    assert session.clock.now_ms() < 20 * UNIT_MS


def test_slack_is_less_than_a_unit():
    screen = first_screen(np.zeros((1, 2, 2, 3), np.uint8))
    for slack_ms in (-1.0, float(UNIT_MS)):
        with pytest.raises(ValueError, match="slack_ms"):
            Live(FakeSession(FakeClock(), None), lambda unit: unit, first_pace(AGENT.perform_ms), screen, slack_ms)


def test_what_perform_takes_is_measured_after_it_was_compiled():
    class Session:
        compiled = ()

        def step(self, _, solver_steps):
            perform_ms = 1.0 * solver_steps if solver_steps in self.compiled else 5000.0
            self.compiled += (solver_steps,)
            return reply(0, {"perform": perform_ms})

        def skip(self): ...

    pace = measure(Session(), NOTHING, [4, 1])
    assert pace.solver_steps == 4
    assert pace.least_ms == {4: 4.0, 1: 1.0}


def test_the_wall_clock_paces_and_waits_no_longer_than_told():
    clock, never, done = WallClock(), threading.Event(), threading.Event()
    done.set()
    start = clock.now_ms()
    assert clock.wait(done, start + 1000)
    clock.sleep_until(start + 10)
    assert not clock.wait(never, start + 20)
    clock.sleep_until(start)
    assert 19 < clock.now_ms() - start < 500


def test_only_the_newest_observation_is_held():
    newest = Newest(NOTHING)
    for n in range(1000):
        newest.put(NOTHING._replace(text=n))
    assert [newest(0).text, newest(1).text] == [999, None]
    assert len(newest._held) == 0


# What is shown of a unit that is not there.


def heard(shown):
    return np.concatenate([s.samples for s in shown], axis=1)[0]


@given(st.lists(st.sampled_from(["in time", "late", "skipped"]), min_size=1, max_size=8))
def test_nothing_clicks_and_the_newest_picture_stands(fates):
    screen, shown, picture = first_screen(np.zeros((1, 2, 2, 3), np.uint8)), [], 0
    for unit, fate in enumerate(fates):
        if fate == "in time":
            one, screen = show(screen, unit, reply(unit))
        else:
            one, screen = conceal(screen, unit)
            assert (one.frames == picture).all()
        if fate == "late":
            screen = miss(screen, reply(unit))
        picture = picture if fate == "skipped" else unit
        shown.append(one)
    sound = heard(shown)
    assert len(sound) == SAMPLES_PER_UNIT * len(fates)
    steepest = 0.05 + np.pi / 2 / FADE_SAMPLES  # of the tone, and of the fade
    assert np.abs(np.diff(sound, prepend=0)).max() <= steepest


def test_sound_is_silent_a_few_milliseconds_after_it_was_lost():
    _, screen = show(first_screen(np.zeros((1, 2, 2, 3), np.uint8)), 0, reply(0))
    first, screen = conceal(screen, 1)
    second, _ = conceal(screen, 2)
    assert np.abs(first.samples[:, :FADE_SAMPLES]).max() > 0.5
    assert not first.samples[:, FADE_SAMPLES:].any()
    assert not second.samples.any()


def test_sessions_are_concealed_apart():
    both = Reply(
        unit=0,
        frames=np.zeros((2, FRAMES_PER_UNIT, 2, 2, 3), np.uint8),
        samples=np.stack([np.ones(SAMPLES_PER_UNIT, np.float32), np.zeros(SAMPLES_PER_UNIT, np.float32)]),
        text=[[1], [2]],
        step_ms={},
    )
    screen = miss(first_screen(np.zeros((2, 2, 2, 3), np.uint8)), both)
    shown, screen = show(screen, 1, both)
    assert shown.text == [[1, 1], [2, 2]]
    concealed, _ = conceal(screen, 2)
    assert concealed.samples[0].any()
    assert not concealed.samples[1].any()
    assert concealed.text == [[], []]
