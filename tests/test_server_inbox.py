"""The inbox: whatever the network does, a unit is 160 ms of the user's clock, and none is older than it must be."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server_cases import CHUNK, grey, jpeg
from wanstreamer_jax.serving.clock_offset import MOST_CUSHION_MS
from wanstreamer_jax.serving.inbox import MOST_TEXT, STILL_MS, Inbox
from wanstreamer_jax.serving.sound_line import FADE_SAMPLES, SoundLine
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_UNIT, UNIT_MS, Picture

PICTURE = Picture(32, 32)
AHEAD_MS = 5_000_000.0  # of the session's clock


def ramp(k):
    """20 ms in which every sample of a second is another."""
    at = np.arange(k * CHUNK, (k + 1) * CHUNK)
    return ((at % SAMPLE_RATE_HZ + 1) / SAMPLE_RATE_HZ).astype(np.float32)


def talk(inbox, n_units, delay_ms, pictures=True):
    """Chunk k comes `delay_ms(k)` after it was spoken, and none overtakes another; every unit is taken in time."""
    events = []
    latest = 0.0
    for k in range(n_units * 8 + 20):
        latest = max(latest, AHEAD_MS + (k + 1) * 20 + delay_ms(k))
        events.append((latest, k))
    taken = []
    for unit in range(n_units):
        complete_ms = AHEAD_MS + (unit + 1) * UNIT_MS
        while events and events[0][0] <= complete_ms:
            now_ms, k = events.pop(0)
            inbox.hear(now_ms, k * 20.0, ramp(k))
            if pictures and k % 2 == 0:
                inbox.see(now_ms, k * 20.0, jpeg(grey(k % 250)))
        taken.append(inbox.take(complete_ms, read=True))
    return taken


def test_an_even_network_loses_nothing_and_units_follow_on_each_other():
    inbox = Inbox(PICTURE, 4)
    units = talk(inbox, 20, lambda k: 7.0)
    ends = np.array([unit.end_ms for unit in units[2:]])
    settled = np.diff(ends)
    assert np.all(np.abs(settled - UNIT_MS) <= 11)
    assert inbox.losses.samples <= 0.16 * SAMPLE_RATE_HZ  # of the first unit, before which nothing was
    for one, other in pairwise(units[3:]):
        if other.end_ms - one.end_ms == UNIT_MS:
            joint = np.concatenate([one.samples[-5:], other.samples[:5]]) * SAMPLE_RATE_HZ
            assert set(np.round(np.diff(joint)).astype(int)) <= {1, 1 - SAMPLE_RATE_HZ}
    late_ms = [AHEAD_MS + (k + 1) * UNIT_MS - AHEAD_MS - unit.end_ms for k, unit in enumerate(units)]
    assert max(late_ms[2:]) <= 7 + 30 + 10


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 400), min_size=8, max_size=8))
def test_delay_never_piles_up(jitter):
    inbox = Inbox(PICTURE, 4)
    units = talk(inbox, 24, lambda k: jitter[k // 4 % 8] if k < 64 else 5.0, pictures=False)
    behind_ms = [(k + 1) * UNIT_MS - unit.end_ms for k, unit in enumerate(units)]
    assert max(behind_ms[1:]) <= max(jitter) + MOST_CUSHION_MS + 30
    assert behind_ms[-1] <= 5 + MOST_CUSHION_MS + 30


def test_pictures_lie_where_their_sound_does():
    inbox = Inbox(PICTURE, 4)
    for unit in talk(inbox, 12, lambda k: 5.0)[4:]:
        shown_ms = unit.frames[:, 0, 0, 0].astype(float) * 20
        wanted_ms = unit.end_ms - np.array([120, 80, 40, 0])
        assert np.all((wanted_ms - shown_ms >= -25) & (wanted_ms - shown_ms <= 65))


def test_a_gap_is_silence_without_a_click():
    line = SoundLine()
    line.put(0.0, np.ones(CHUNK, np.float32))
    line.put(60.0, np.ones(CHUNK, np.float32))
    samples, n_missing = line.take(0.0, 5 * CHUNK)
    assert n_missing == 3 * CHUNK
    assert np.max(np.abs(np.diff(samples))) <= 1.5 / FADE_SAMPLES
    assert np.all(samples[CHUNK : 3 * CHUNK] == 0)


def test_stamps_that_are_a_little_off_are_no_gap():
    line = SoundLine()
    rng = np.random.default_rng(0)
    for k in range(20):
        line.put(k * 20.0 + rng.uniform(-9, 9), ramp(k))
    samples, n_missing = line.take(40.0, 12 * CHUNK)
    assert n_missing == 0
    assert np.all(np.diff(samples[FADE_SAMPLES:]) > 0)


def test_a_camera_that_stops_stands_still_and_then_is_dark():
    inbox = Inbox(PICTURE, 4)
    levels = []
    for k in range(12):
        inbox.hear(AHEAD_MS + (k + 1) * UNIT_MS, float(k * UNIT_MS), np.zeros(SAMPLES_PER_UNIT, np.float32))
        if k < 3:
            inbox.see(AHEAD_MS + (k + 1) * UNIT_MS, k * UNIT_MS + 1.0, jpeg(grey(200)))
        levels.append(int(inbox.take(AHEAD_MS + (k + 1) * UNIT_MS + 1, read=True).frames[-1].max()))
    dark_from = levels.index(0, 3)
    assert all(level > 190 for level in levels[1:dark_from])
    assert abs((dark_from - 3) * UNIT_MS - STILL_MS) <= 2 * UNIT_MS
    assert not any(levels[dark_from:])


def test_a_clock_that_is_set_anew_is_followed():
    inbox = Inbox(PICTURE, 4)
    talk(inbox, 4, lambda k: 5.0)
    base = AHEAD_MS + 20 * UNIT_MS
    for k in range(40):
        inbox.hear(base + (k + 1) * 20, 9e6 + k * 20, np.full(CHUNK, 0.5, np.float32))
    seen = inbox.take(base + 40 * 20, read=True)
    assert np.count_nonzero(seen.samples) > SAMPLES_PER_UNIT * 0.9


def test_a_damaged_picture_keeps_the_one_before():
    inbox = Inbox(PICTURE, 4)
    good, base = jpeg(grey(99)), AHEAD_MS
    inbox.see(base + 10, 10.0, good)
    inbox.see(base + 130, 130.0, good[: len(good) // 2])
    seen = inbox.take(base + 200, read=True)
    assert inbox.losses.pictures <= 1
    assert abs(int(seen.frames[-1].mean()) - 99) < 30


def test_text_is_given_out_in_order_and_only_to_units_that_are_lived():
    inbox = Inbox(PICTURE, 4)
    assert inbox.read(list(range(10)))
    taken = [inbox.take(AHEAD_MS + k * UNIT_MS, read=k != 1).text for k in range(5)]
    assert taken == [[0, 1, 2, 3], [], [4, 5, 6, 7], [8, 9], []]
    assert inbox.read([1] * MOST_TEXT)
    assert not inbox.read([1])


@pytest.mark.parametrize("time_ms", [-1e12, 0.0, 1e12])
def test_any_time_of_day_will_do(time_ms):
    inbox = Inbox(PICTURE, 4)
    for k in range(40):
        inbox.hear(AHEAD_MS + (k + 1) * 20, time_ms + k * 20, np.full(CHUNK, 0.5, np.float32))
    assert np.count_nonzero(inbox.take(AHEAD_MS + 800, read=True).samples) > SAMPLES_PER_UNIT * 0.9
