"""Compressed media: what is encoded decodes, in time, and no damage does more than one error with a name."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codec_cases import absurd_picture, moving, noise, psnr_db, stream
from wanstreamer_jax.serving.codecs import (
    MOST_NALS,
    MOST_PACKET_MS,
    PACKET_MS,
    BadSoundError,
    PictureDecoder,
    SoundDecoder,
    SoundEncoder,
    StreamPicture,
    check_packet,
    check_stream_picture,
)
from wanstreamer_jax.serving.pictures import BadPictureError
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_UNIT, UNIT_MS, Picture

SMALL = Picture(48, 32)
LEAST_PSNR_DB = 30.0
STREAM = stream(SMALL, 6, keys=(0, 4))
MOST_MORE_BYTES = 100 << 20
LARGEST_READABLE_SIDE = 16000  # what is larger is refused by FFmpeg itself


@pytest.mark.parametrize("size", [(16, 16), (112, 64), (640, 368)])
def test_every_picture_comes_back_in_order_as_it_was(size):
    picture = Picture(*size)
    decoder = PictureDecoder(picture)
    shown = [decoder.decode(data) for data in stream(picture, 8)]
    for frame, was in zip(shown, moving(picture, 8), strict=True):
        assert psnr_db(frame, was) > LEAST_PSNR_DB


def test_a_key_frame_comes_first_and_when_it_is_wanted_and_needs_no_other():
    keys = [True, False, False, False, True, False]
    assert [picture.key for picture in STREAM] == keys
    assert [PictureDecoder(SMALL).decode(picture) is not None for picture in STREAM] == keys
    decoder = PictureDecoder(SMALL)
    with pytest.raises(BadPictureError):
        decoder.decode(StreamPicture(STREAM[1].data, True))
    assert decoder.waits


def test_pictures_of_any_size_are_letterboxed():
    (data,) = stream(Picture(64, 16), 1)
    frame = PictureDecoder(SMALL).decode(data)
    assert frame.shape == (32, 48, 3)
    assert frame[:8].max() == 0 == frame[-8:].max()
    assert frame[16].min() > 20


def test_after_a_gap_nothing_is_shown_until_a_key_frame():
    decoder = PictureDecoder(SMALL)
    assert decoder.decode(STREAM[0]) is not None
    decoder.lose()
    assert [decoder.decode(data) is None for data in STREAM[2:]] == [True, True, False, False]


def test_one_message_is_one_picture_of_few_parts():
    first, second, third = (picture.data for picture in STREAM[:3])
    check_stream_picture(first)
    check_stream_picture(second)
    for wrong in (first + second, second + third, second * (MOST_NALS + 1), b"", b"\xff\xd8\xff"):
        with pytest.raises(BadPictureError):
            check_stream_picture(wrong)


def test_a_picture_that_is_too_large_is_refused_by_its_head():
    with pytest.raises(BadPictureError, match="8192x8192"):
        check_stream_picture(absurd_picture(8192))
    with pytest.raises(BadPictureError, match="absurd"):
        check_stream_picture(absurd_picture(16384))
    with pytest.raises(BadPictureError, match="1936x16"):
        check_stream_picture(stream(Picture(1936, 16), 1)[0].data)
    check_stream_picture(stream(Picture(1920, 16), 1)[0].data)


def peak_bytes():
    """The most memory this process had since `forget_peak`."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a program its peak of memory")
def test_a_decoder_that_meets_an_absurd_picture_takes_no_memory_for_it():
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    decoder = PictureDecoder(SMALL)
    with pytest.raises(BadPictureError):
        decoder.decode(StreamPicture(absurd_picture(LARGEST_READABLE_SIDE), True))
    assert peak_bytes() - before < MOST_MORE_BYTES
    assert decoder.decode(STREAM[0]) is not None


def survive(decoder, picture):
    """Decode; whether it went well."""
    try:
        check_stream_picture(picture.data)
    except BadPictureError:
        decoder.lose()
        return False
    try:
        frame = decoder.decode(picture)
    except BadPictureError:
        assert decoder.waits
        return False
    assert frame is None or frame.shape == (32, 48, 3)
    return frame is not None


@settings(max_examples=60, deadline=None)
@given(which=st.integers(0, 3), at=st.floats(0, 1, exclude_max=True), flips=st.integers(1, 255), cut=st.booleans())
def test_damage_is_an_error_with_a_name_and_the_next_key_frame_heals_it(which, at, flips, cut):
    decoder = PictureDecoder(SMALL)
    pictures = list(STREAM)
    data, key = pictures[which]
    place = int(at * len(data))
    rest = b"" if cut else bytes([data[place] ^ flips]) + data[place + 1 :]
    pictures[which] = StreamPicture(data[:place] + rest, key)
    assert all([survive(decoder, picture) for picture in pictures][4:])


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=1, max_size=200), headed=st.booleans())
def test_junk_is_an_error_with_a_name(data, headed):
    survive(PictureDecoder(SMALL), StreamPicture(STREAM[0].data[:40] + data if headed else data, True))
    for packet in (data, bytes([0xF8]) + data):
        try:
            check_packet(packet)
            _, samples = SoundDecoder().decode(0.0, packet)
        except BadSoundError:
            continue
        assert 0 < len(samples) <= MOST_PACKET_MS * SAMPLE_RATE_HZ // 1000


def test_sound_keeps_its_time_within_a_millisecond():
    sound = noise(3.2)
    encoder, decoder = SoundEncoder(), SoundDecoder()
    line = np.zeros(len(sound) + SAMPLE_RATE_HZ, np.float32)
    for k in range(len(sound) // SAMPLES_PER_UNIT):
        unit = sound[k * SAMPLES_PER_UNIT : (k + 1) * SAMPLES_PER_UNIT]
        packets = encoder.encode(1000.0 + k * UNIT_MS, unit)
        assert len(packets) == UNIT_MS // PACKET_MS
        for packet in packets:
            time_ms, samples = decoder.decode(*packet)
            assert len(samples) == PACKET_MS * SAMPLE_RATE_HZ // 1000
            start = round((time_ms - 500) * SAMPLE_RATE_HZ / 1000)
            line[start : start + len(samples)] = samples
    heard = line[SAMPLE_RATE_HZ // 2 :][: len(sound)]
    middle = slice(SAMPLE_RATE_HZ, 2 * SAMPLE_RATE_HZ)
    shifts = range(-240, 241)
    alike = [np.dot(np.roll(heard, -shift)[middle], sound[middle]) for shift in shifts]
    assert abs(shifts[int(np.argmax(alike))]) <= 0.001 * SAMPLE_RATE_HZ
    assert np.corrcoef(heard[middle], sound[middle])[0, 1] > 0.8


def test_how_long_a_packet_lasts_is_known_before_it_is_decoded():
    frame_20_ms, frame_60_ms, frame_2_ms = 0b11111_000, 0b00011_000, 0b11100_000
    for packet in ([frame_20_ms], [frame_60_ms | 1], [frame_20_ms | 3, 6], [frame_2_ms | 3, 48]):
        check_packet(bytes(packet))
    for packet in ([frame_20_ms | 3, 7], [frame_60_ms | 3, 3], [frame_20_ms | 3, 0], [frame_20_ms | 3]):
        with pytest.raises(BadSoundError):
            check_packet(bytes(packet))
