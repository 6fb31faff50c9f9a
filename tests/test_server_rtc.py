"""What lies between RTP and a conversation: packets in order, clocks side by side, units as moments, long messages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server_cases import HEADER, VOICE, packed
from wanstreamer_jax.serving.conversation import UnitOut
from wanstreamer_jax.serving.inbox import Losses
from wanstreamer_jax.serving.rtc.arrival import ArrivalClock
from wanstreamer_jax.serving.rtc.jitter import FARTHEST, MOST_PACKETS, WAIT_MS, JitterBuffer, Packet
from wanstreamer_jax.serving.rtc.parts import PART, Parts
from wanstreamer_jax.serving.rtc.playout import (
    FIRST_HELD,
    JOINT_SAMPLES,
    MOMENT_MS,
    MOMENTS_PER_UNIT,
    MOST_UNITS,
    Playout,
)
from wanstreamer_jax.serving.wire import MOST_MESSAGE_BYTES, WireError
from wanstreamer_jax.stream.pace import Counters
from wanstreamer_jax.timeline import SAMPLES_PER_UNIT, UNIT_MS

FRAME_MS = 40.0

# ---- Packets in order


def sent_frames(sizes, first_sequence=0):
    """Frames of so many packets, one each 40 ms: for each packet its frame, when it was sent, and itself."""
    packets = []
    for k, size in enumerate(sizes):
        for i in range(size):
            sequence = (first_sequence + len(packets)) % 2**16
            packet = Packet(sequence, 3600 * k, i == 0, i == size - 1, bytes([k % 251, i]))
            packets.append((k, k * FRAME_MS, packet))
    return packets


def through(buffer, arrivals):
    """What comes out when packets arrive at their times, and the buffer is asked whenever it wants to be."""
    out = []

    def ask(until_ms):
        while (due_ms := buffer.due_ms) is not None and due_ms <= until_ms:
            out.extend((due_ms, frame) for frame in buffer.take(due_ms))

    for now_ms, packet in sorted(arrivals, key=lambda arrival: arrival[0]):
        ask(now_ms)
        buffer.put(packet, now_ms)
        out.extend((now_ms, frame) for frame in buffer.take(now_ms))
    ask(1e9)
    return out


fates = st.lists(
    st.tuples(st.integers(1, 4), st.lists(st.one_of(st.none(), st.floats(0, 120)), min_size=4, max_size=4)),
    min_size=2,
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(fates, st.integers(0, 2**16 - 1))
def test_frames_come_out_whole_once_in_order_and_none_waits_longer_than_a_moment(fates, first_sequence):
    packets = sent_frames([size for size, _ in fates], first_sequence)
    delays_ms = [delay for size, delays in fates for delay in delays[:size]]
    arrivals = [(at + d, p) for (_, at, p), d in zip(packets, delays_ms, strict=True) if d is not None]
    came_ms = {k: [] for k, _, _ in packets}
    for (k, at, _), d in zip(packets, delays_ms, strict=True):
        came_ms[k].append(np.inf if d is None else at + d)
    shown = [(now_ms, frame.timestamp // 3600, frame.data) for now_ms, frame in through(JitterBuffer(), arrivals)]
    numbers = [k for _, k, _ in shown]
    assert numbers == sorted(set(numbers))
    for now_ms, k, data in shown:
        assert data == b"".join(p.data for of, _, p in packets if of == k)
        assert max(came_ms[k]) <= now_ms <= max(came_ms[k]) + WAIT_MS + 1e-6


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, WAIT_MS - 1), min_size=30, max_size=30), st.integers(0, 2**16 - 1))
def test_nothing_is_given_up_that_others_overtook_by_less_than_a_moment(delays_ms, first_sequence):
    packets = sent_frames([3] * 10, first_sequence)
    arrivals = [(at + d, p) for (_, at, p), d in zip(packets, delays_ms, strict=True)]
    began = (min(arrivals, key=lambda arrival: arrival[0])[1].sequence - first_sequence) % 2**16
    shown = {frame.timestamp // 3600 for _, frame in through(JitterBuffer(), arrivals)}
    assert shown >= {k for k, _, p in packets if (p.sequence - first_sequence) % 2**16 >= began and p.is_first}


def test_a_frame_goes_on_with_its_last_packet():
    buffer = JitterBuffer()
    for (_, at, packet), n_out in zip(sent_frames([1, 2]), [1, 0, 1], strict=True):
        buffer.put(packet, at)
        assert len(buffer.take(at)) == n_out


def test_after_a_gap_what_follows_waits_a_moment_and_no_longer():
    packets = [p for _, _, p in sent_frames([1] * 4)]
    buffer = JitterBuffer()
    buffer.put(packets[0], 0.0)
    buffer.take(0.0)
    for k in (2, 3):
        buffer.put(packets[k], 20.0 * k)
        assert buffer.take(20.0 * k) == []
    assert buffer.due_ms == 40.0 + WAIT_MS
    assert [frame.timestamp for frame in buffer.take(buffer.due_ms)] == [7200, 10800]
    assert buffer.n_skipped == 1
    assert buffer.due_ms is None


def test_the_beginning_of_a_frame_that_lost_its_end_goes_with_it():
    packets = [p for _, _, p in sent_frames([3, 1])]
    buffer = JitterBuffer()
    for packet in (packets[0], packets[1], packets[3]):
        buffer.put(packet, 0.0)
    assert [frame.timestamp for frame in buffer.take(WAIT_MS)] == [3600]


def test_a_sender_that_marks_no_ends_is_understood_by_its_beginnings():
    buffer = JitterBuffer()
    for _, at, packet in sent_frames([2, 1]):
        buffer.put(packet._replace(is_last=False), at)
    assert [frame.data for frame in buffer.take(0.0)] == [bytes([0, 0, 0, 1])]


def test_a_stream_that_begins_anew_is_followed_and_a_leap_is_a_loss():
    buffer = JitterBuffer()
    buffer.put(Packet(7, 0, True, True, b"a"), 0.0)
    buffer.take(0.0)
    buffer.put(Packet(7 + 2 * FARTHEST, 5, True, True, b"b"), 1.0)
    assert [frame.data for frame in buffer.take(1.0)] == [b"b"]
    assert buffer.n_skipped == 1


def test_what_is_held_is_bounded():
    buffer = JitterBuffer()
    buffer.put(Packet(0, 0, True, False, b""), 0.0)
    for k in range(2, 5 * MOST_PACKETS):
        buffer.put(Packet(k, 0, False, False, b"x"), 0.0)
        buffer.take(0.0)
    assert len(buffer._held) <= MOST_PACKETS + 1


# ---- Clocks side by side


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.lists(st.floats(0, 100), min_size=50, max_size=50))
def test_streams_without_a_common_clock_are_laid_beside_each_other(first_sound, first_picture, late_ms):
    sound, pictures = ArrivalClock(48_000), ArrivalClock(90_000)
    placed = []
    for k, late in enumerate([0.0, *late_ms]):
        at_ms = 5_000.0 + k * 40
        placed.append(
            (
                at_ms,
                sound.place_ms((first_sound + k * 1920) % 2**32, at_ms + 30 + late),
                pictures.place_ms((first_picture + k * 3600) % 2**32, at_ms + 30 + late_ms[::-1][k - 1] * (k > 0)),
            )
        )
    for at_ms, heard_ms, seen_ms in placed:
        assert heard_ms == pytest.approx(at_ms + 30, abs=3)
        assert seen_ms == pytest.approx(at_ms + 30, abs=3)


def test_stamps_that_leap_are_followed():
    clock = ArrivalClock(48_000)
    clock.place_ms(0, 100.0)
    assert clock.place_ms(48_000 * 60, 140.0) == pytest.approx(140.0)


# ---- Units as moments


def a_unit(k):
    """A unit each of whose moments says by its sound, and each of whose pictures by its colour, which it is."""
    moments = np.repeat(np.arange(MOMENTS_PER_UNIT), SAMPLES_PER_UNIT // MOMENTS_PER_UNIT)
    samples = (k * MOMENTS_PER_UNIT + moments).astype(np.float32) / 1e4
    frames = np.stack([np.full((2, 2, 3), (4 * k + i) % 256, np.uint8) for i in range(4)])
    return UnitOut(k, frames, samples, "", 0.0, 0.0, False, Counters(), Losses())


def played(came_ms, until_ms):
    """Moments every 20 ms of units that come at their times; the number of the moment that each sounds as."""
    playout, waiting, out = Playout(np.zeros((2, 2, 3), np.uint8)), list(enumerate(came_ms)), []
    for now_ms in range(0, until_ms, MOMENT_MS):
        while waiting and waiting[0][1] <= now_ms:
            playout.put(a_unit(waiting.pop(0)[0]))
        moment = playout.take()
        out.append((now_ms, moment, round(float(moment.samples[-1]) * 1e4)))
    return out


def test_units_that_come_evenly_are_played_whole_each_picture_once():
    out = played([k * UNIT_MS + 7 for k in range(10)], 10 * UNIT_MS)
    heard = [n for _, moment, n in out if moment.unit is not None]
    assert heard == list(range(len(heard)))
    seen = [
        int(moment.picture[0, 0, 0]) for i, (_, moment, _) in enumerate(out) if i % 2 == 0 and moment.unit is not None
    ]
    assert seen == list(range(len(seen)))
    first_ms = next(now_ms for now_ms, moment, _ in out if moment.unit is not None)
    assert first_ms <= 7 + (FIRST_HELD + 2) * MOMENT_MS


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 900), min_size=60, max_size=60))
def test_sound_and_picture_stay_in_step_and_are_never_far_behind(late_ms):
    came_ms = np.maximum.accumulate([k * UNIT_MS + late for k, late in enumerate(late_ms)]).tolist()
    before = -1
    for i, (now_ms, moment, heard) in enumerate(played(came_ms, int(came_ms[-1]) + 2000)):
        if moment.unit is None:
            continue
        assert heard > before
        before = heard
        newest = sum(came <= now_ms for came in came_ms) - 1
        assert heard >= (newest - MOST_UNITS + 1) * MOMENTS_PER_UNIT
        if i % 2 == 0:
            assert (int(moment.picture[0, 0, 0]), heard % 2) == (heard // 2 % 256, 0)  # a picture begins with its sound
    assert before == len(came_ms) * MOMENTS_PER_UNIT - 1


def test_delay_that_is_for_nothing_goes_away():
    came_ms = [500.0] * 3 + [500.0 + k * UNIT_MS for k in range(1, 120)]
    out = played(came_ms, 110 * UNIT_MS)
    behind = [sum(came <= now_ms for came in came_ms) * MOMENTS_PER_UNIT - heard for now_ms, m, heard in out if m.unit]
    assert np.mean(behind[-100:]) <= np.mean(behind[:100]) - 8


def test_silence_and_leaps_do_not_click():
    came_ms = [0.0, 160.0, 1000.0, 1001.0, 1002.0, 1003.0, 1004.0]
    line = np.concatenate([moment.samples for _, moment, _ in played(came_ms, 3000)])
    assert np.max(np.abs(np.diff(line))) <= 100 / 1e4 / JOINT_SAMPLES + 2e-4


# ---- Long messages


def in_parts(message, size):
    return [HEADER.pack(PART, len(message)) + message[at : at + size] for at in range(0, len(message), size)]


@pytest.mark.parametrize("size", [1, 1000, 60_000])
def test_a_message_in_parts_is_the_message(size):
    parts, message = Parts(), packed(VOICE, 0.0, bytes(3000))
    came = [parts.put(part) for part in in_parts(message, size)]
    assert came[-1] == message
    assert set(came[:-1]) <= {None}
    assert parts.put(message) == message
    assert parts.put("text") == "text"


@pytest.mark.parametrize("length", [float("nan"), float("inf"), -1.0, 0.0, 2.0 * MOST_MESSAGE_BYTES])
def test_parts_of_something_absurd_are_refused(length):
    parts = Parts()
    with pytest.raises(WireError):
        parts.put(HEADER.pack(PART, length) + b"x")
    message = packed(VOICE, 0.0, b"ab")
    assert parts.put(in_parts(message, 99)[0]) == message
