"""Laws of reading: everything is seen and heard when its stamps say so, in any form; nothing else is swallowed."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import media_cases as cases
from tests.media_cases import MS, Audio, Video, steady
from wanstreamer_jax.media import MediaError, open_media
from wanstreamer_jax.media.clocks import PictureClock, SoundClock
from wanstreamer_jax.media.container import Damage
from wanstreamer_jax.media.sound import Piece, pieces
from wanstreamer_jax.media.stamps import Stamps
from wanstreamer_jax.timeline import (
    FRAMES_PER_UNIT,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_UNIT,
    VIDEO_FPS,
    Picture,
)

PICTURE = Picture(112, 64)
FAST_VP9 = (("deadline", "realtime"), ("cpu-used", "8"))
# What is left of the delay of codecs whose containers do not tell it: one packet.
UNTOLD_DELAY_S = 0.024

RECORDINGS = {
    "h264_aac.mp4": (Video(), Audio()),
    "ntsc_mono.mp4": (Video(starts_s=steady(30000 / 1001), time_base=Fraction(1001, 30000)), Audio(rate=44_100)),
    "vp9_opus_24.mkv": (Video("libvpx-vp9", steady(24), MS, options=FAST_VP9), Audio("libopus")),
    "vp8_opus.webm": (Video("libvpx", time_base=MS, options=FAST_VP9), Audio("libopus", layout="mono")),
    "mjpeg_pcm_10.avi": (
        Video("mjpeg", steady(10), Fraction(1, 10), pix_fmt="yuvj420p"),
        Audio("pcm_s16le", 8000, "mono"),
    ),
    "h264_pcm_60.mov": (Video(starts_s=steady(60), time_base=Fraction(1, 60)), Audio("pcm_s16le", 44_100)),
    "surround.mp4": (Video(), Audio(layout="5.1")),
    "picture_late.mkv": (Video("ffv1", steady(25, 0.48), MS), Audio("libopus", seconds=2.48)),
    "sound_late.mkv": (Video("ffv1", time_base=MS), Audio("pcm_f32le", start_s=0.4, seconds=1.6)),
    "sound_late.mp4": (Video(), Audio(start_s=0.4, seconds=1.6)),
    "sound_gap.mkv": (Video("ffv1", time_base=MS), Audio("flac", gap_s=(0.8, 1.2))),
    "silent.gif": (Video("gif", steady(10), Fraction(1, 100), pix_fmt="rgb8"), None),
    "raw.h264": (Video(time_base=Fraction(1, 25)), None),
    "sound.wav": (None, Audio("pcm_s16le", 8000, "mono")),
    "sound.flac": (None, Audio("flac")),
    "sound.mp3": (None, Audio("libmp3lame", 44_100)),
    "sound.ogg": (None, Audio("libopus")),
    "sound.m4a": (None, Audio("aac", 44_100)),
}
WITH_UNTOLD_DELAY = {
    "h264_aac.ts": (Video(time_base=Fraction(1, 25)), Audio()),
    "h264_aac.flv": (Video(time_base=MS), Audio("aac", 44_100)),
    "sound.aac": (None, Audio("aac", 44_100)),
}


def read(path: Path, picture: Picture = PICTURE):
    """All frames, all samples, the reader."""
    with open_media(path, picture) as reader:
        units = list(reader)
    assert len(units) == reader.n_units
    return np.concatenate([u.frames for u in units]), np.concatenate([u.samples for u in units]), reader


def assert_on_the_clock(frames, samples, video: Video | None, audio: Audio | None, delay_s: float) -> None:
    zero_s = min(([video.starts_s[0]] if video else []) + ([audio.start_s] if audio else []))
    if video is not None:
        starts_s = np.array([s - zero_s for s in video.starts_s])
        for i, n in enumerate(cases.number_of(f) for f in frames):
            _assert_newest(starts_s, n, i / VIDEO_FPS, delay_s)
    beeps_s = [b - zero_s for b in audio.beeps_s] if audio else []
    np.testing.assert_allclose(cases.onsets_s(samples, SAMPLE_RATE_HZ), beeps_s, rtol=0, atol=0.002 + delay_s)


def _assert_newest(starts_s, n: int, time_s: float, delay_s: float) -> None:
    """Frame `n` starts within half a frame of the clock of `time_s`, and no newer one has started by then."""
    early_s = 0.5 / VIDEO_FPS + 0.001
    assert n == 0 or starts_s[n] <= time_s + early_s
    assert n == len(starts_s) - 1 or starts_s[n + 1] > time_s - delay_s - 0.001


@pytest.mark.parametrize("name", RECORDINGS)
def test_any_recording_is_on_the_clock(tmp_path, name):
    video, audio = RECORDINGS[name]
    frames, samples, reader = read(cases.record(tmp_path / name, video, audio))
    assert_on_the_clock(frames, samples, video, audio, delay_s=0)
    assert (reader.has_video, reader.has_audio) == (video is not None, audio is not None)
    assert reader.seconds == pytest.approx(2.48 if name == "picture_late.mkv" else 2.0, abs=0.015)
    assert reader.n_concealed == 0


@pytest.mark.parametrize("name", WITH_UNTOLD_DELAY)
def test_a_delay_that_is_not_told_is_one_packet(tmp_path, name):
    video, audio = WITH_UNTOLD_DELAY[name]
    frames, samples, reader = read(cases.record(tmp_path / name, video, audio))
    assert_on_the_clock(frames, samples, video, audio, UNTOLD_DELAY_S)
    assert reader.seconds == pytest.approx(2.0, abs=0.045)


def test_loudness_does_not_depend_on_the_number_of_channels(tmp_path):
    for layout in ("mono", "stereo", "5.1"):
        path = cases.record(tmp_path / f"{layout}.wav", None, Audio("pcm_f32le", layout=layout))
        assert np.abs(read(path)[1]).max() == pytest.approx(0.5, abs=0.01)


def test_without_picture_it_is_black_and_without_sound_silent(tmp_path):
    frames, _, _ = read(cases.record(tmp_path / "a.wav", None, Audio("pcm_s16le")))
    _, samples, _ = read(cases.record(tmp_path / "b.mp4", Video(), None))
    assert not frames.any()
    assert not samples.any()


def test_last_unit_tells_what_is_of_the_recording(tmp_path):
    path = cases.record(tmp_path / "a.mkv", Video("ffv1", steady(25), MS), Audio("pcm_s16le"))
    with open_media(path, PICTURE) as reader:
        units = list(reader)
    assert sum(u.n_frames for u in units) == 50
    assert sum(u.n_samples for u in units) == 2 * SAMPLE_RATE_HZ
    assert all(u.n_frames == FRAMES_PER_UNIT and u.n_samples == SAMPLES_PER_UNIT for u in units[:-1])
    assert all(len(u.frames) == FRAMES_PER_UNIT and len(u.samples) == SAMPLES_PER_UNIT for u in units)


def test_reading_again_starts_at_the_beginning(tmp_path):
    path = cases.record(tmp_path / "a.mp4", Video(), Audio())
    with open_media(path, PICTURE) as reader:
        first = next(iter(reader))
        again = next(iter(reader))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.samples, again.samples)


def test_padding_of_a_codec_is_not_another_unit(tmp_path):
    starts_s = tuple(i / 25 for i in range(2 * FRAMES_PER_UNIT))
    path = cases.record(tmp_path / "a.mp4", Video(starts_s=starts_s), Audio(seconds=0.335))
    assert read(path)[2].n_units == 2


def test_no_sample_is_lost_at_a_seam():
    """Three kinds of sound one after the other, the last one after a gap."""
    kinds = [("s16", "stereo", 8000, 0.0), ("fltp", "mono", 44_100, 0.1), ("u8", "mono", 16_000, 0.5)]
    frames = []
    for kind, layout, rate, start_s in kinds:
        frame = av.AudioFrame(kind, layout, samples=rate // 10)
        frame.sample_rate, frame.pts, frame.time_base = rate, round(start_s * 1000), MS
        frames.append(frame)
    clock = np.zeros(SAMPLE_RATE_HZ, int)
    for piece in pieces(iter(frames), 0.0, Damage()):
        clock[piece.start : piece.start + len(piece.samples)] += 1
    heard = np.flatnonzero(clock)
    assert clock.max() == 1
    assert [heard[0], len(heard), heard[-1]] == pytest.approx([0, 0.3 * SAMPLE_RATE_HZ, 0.6 * SAMPLE_RATE_HZ], abs=2)


@given(
    st.lists(st.integers(0, 400), min_size=1, unique=True).map(sorted),
    st.lists(st.integers(0, 500), min_size=1).map(sorted),
    st.integers(0, 20),
)
def test_picture_clock_shows_the_newest(starts, times, tolerance):
    clock = PictureClock(iter([(float(s), s) for s in starts]), float(tolerance))
    for time in times:
        started = [s for s in starts if s <= time + tolerance]
        assert clock.at(float(time)) == (started[-1] if started else starts[0])


@given(
    st.lists(st.tuples(st.integers(-9, 12), st.integers(1, 9)), max_size=8),
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
)
def test_sound_clock_fills_gaps_and_lets_the_earlier_win(steps, takes):
    given_pieces, start = [], 0
    for i, (step, length) in enumerate(steps):
        start = max(0, start + step)
        given_pieces.append(Piece(start, np.full(length, i + 1, np.float32)))
    expected, end = np.zeros(400, np.float32), 0
    for i, piece in enumerate(given_pieces):
        first, last = max(piece.start, end), piece.start + len(piece.samples)
        expected[first:last] = i + 1
        end = max(end, last)
    clock = SoundClock(iter(given_pieces))
    np.testing.assert_array_equal(np.concatenate([clock.take(n) for n in takes]), expected[: sum(takes)])


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(8, 180), min_size=2, max_size=30))
def test_variable_rate_is_on_the_clock(tmp_path_factory, gaps_ms):
    video = Video("ffv1", tuple(np.cumsum([0, *gaps_ms]) / 1000), MS)
    frames, _, reader = read(cases.record(tmp_path_factory.mktemp("vfr") / "a.mkv", video, None))
    assert_on_the_clock(frames, np.zeros(0), video, None, delay_s=0)
    assert sum(gaps_ms) / 1000 < reader.seconds <= (sum(gaps_ms) + max(gaps_ms)) / 1000 + 0.002


def test_stamps_are_filled_in_and_jumps_closed():
    stamps = Stamps()
    ticks = [0, 40, None, 120, 1_000_000, 1_000_040, 0, 40]
    starts_ms = [round(1000 * stamps.place(t, MS, 0.04)) for t in ticks]
    assert starts_ms == [0, 40, 80, 120, 160, 200, 240, 280]


def test_stamps_of_b_frames_and_pauses_stay_as_they_are():
    stamps = Stamps()
    ticks = [0, 160, 80, 40, 120, 60_000, 59_920]
    assert [round(1000 * stamps.place(t, MS, 0.04)) for t in ticks] == ticks


@pytest.mark.parametrize("size", [(640, 360), (360, 640), (1280, 64), (62, 30), (2, 2)])
def test_aspect_is_kept_and_centred_on_black(tmp_path, size):
    width, height = size
    frames, _, _ = read(cases.record_still(tmp_path / "a.mkv", np.full((height, width, 3), 255, np.uint8)))
    lit = frames[0].min(-1) > 128
    rows, columns = lit.any(1), lit.any(0)
    scale = min(PICTURE.width / width, PICTURE.height / height)
    assert abs(rows.sum() - height * scale) <= 1
    assert abs(columns.sum() - width * scale) <= 1
    assert lit[np.ix_(rows, columns)].all()
    assert abs(np.argmax(rows) - np.argmax(rows[::-1])) <= 1
    assert abs(np.argmax(columns) - np.argmax(columns[::-1])) <= 1


def test_pixels_may_be_wider_than_high(tmp_path):
    video = Video(size=(56, 64), pixel_aspect=Fraction(2))
    frames, _, _ = read(cases.record(tmp_path / "a.mp4", video, None))
    assert [cases.number_of(f) for f in frames[:50]] == list(range(50))  # so it fills the picture


def test_a_phone_held_upright_is_seen_upright(tmp_path):
    path = cases.record_still(tmp_path / "a.mp4", cases.quadrants(112, 64), "libx264rgb", "rgb24")
    cases.turn_clockwise(path)
    frames, _, _ = read(path, Picture(64, 112))
    corners = frames[0][[10, 10, -10, -10], [10, -10, 10, -10]]
    turned = np.rot90(cases.quadrants(112, 64), -1)
    np.testing.assert_allclose(corners, turned[[10, 10, -10, -10], [10, -10, 10, -10]], atol=12)


def test_shrinking_averages(tmp_path):
    checks = np.indices((512, 896)).sum(0) % 2 * np.uint8(255)
    frames, _, _ = read(cases.record_still(tmp_path / "a.mkv", np.stack([checks] * 3, -1).astype(np.uint8)))
    assert np.abs(frames[0].astype(int) - 127).max() < 8


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_damage_is_concealed_and_counted(tmp_path, kind):
    path = cases.record(tmp_path / "a.mp4", Video(options=(("g", "10"), ("bf", "0"), ("sc_threshold", "0"))), Audio())
    cases.damage_packets(path, kind, first=12, n_packets=5)
    frames, samples, reader = read(path)
    assert reader.n_concealed > 0
    assert reader.n_units == 13
    assert [cases.number_of(f) for f in frames[20:50]] == list(range(20, 50))
    assert cases.onsets_s(samples, SAMPLE_RATE_HZ)[-2:] == pytest.approx([0.5, 1.3], abs=0.002)


def test_a_recording_that_breaks_off_ends_there(tmp_path):
    path = cases.record(tmp_path / "a.mkv", Video("ffv1", time_base=MS), Audio("pcm_s16le"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, _, reader = read(path)
    assert 0.5 < reader.seconds < 1.5
    assert cases.number_of(frames[-1]) == pytest.approx(reader.seconds * 25, abs=3)


def test_memory_does_not_grow_with_the_recording(tmp_path):
    """24 s of 640x368 are 424 MB of pixels."""
    starts_s = tuple(i / 25 for i in range(600))
    fast = (("preset", "ultrafast"), ("g", "600"))
    path = cases.record(tmp_path / "a.mkv", Video(starts_s=starts_s, time_base=MS, size=(640, 368), options=fast), None)
    with open_media(path, Picture(640, 368)) as reader:
        resident = [_resident_bytes() for _ in reader]
    assert max(resident[10:]) - resident[10] < 50e6


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_sound_that_cannot_be_resampled_is_counted():
    frames = [av.AudioFrame("s16", "mono", samples=800) for _ in range(2)]
    frames[0].sample_rate, frames[1].sample_rate = 2**31 - 1, 8000
    damage = Damage()
    assert sum(len(p.samples) for p in pieces(iter(frames), 0.0, damage)) == pytest.approx(2400, abs=2)
    assert damage.n == 1


def test_tags_may_be_in_any_encoding(tmp_path):
    path = cases.record(tmp_path / "a.flac", None, Audio("flac"))
    path.write_bytes(path.read_bytes().replace(b"encoder=Lavf", b"encoder=L\xe4vf"))
    assert read(path)[2].n_units == 13


def test_sound_may_have_more_channels_than_anyone_hears():
    frame = av.AudioFrame.from_ndarray(np.full((16, 4800), 0.5, np.float32).reshape(1, -1), "flt", "hexadecagonal")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, 0, MS
    (piece,) = pieces(iter([frame]), 0.0, Damage())
    np.testing.assert_allclose(piece.samples, np.full(4800, 0.5), atol=1e-6)


def test_names_are_only_names(tmp_path, monkeypatch):
    """FFmpeg reads meaning into colons and percent signs."""
    monkeypatch.chdir(tmp_path)
    odd = cases.record(tmp_path / "a.mp4", Video(), None).rename("take:1 %03d (ä).mp4")
    assert read(odd)[2].n_units == 13


def _missing(folder):
    return folder / "missing.mp4", "does not exist"


def _folder(folder):
    return folder, "is a folder"


def _empty(folder):
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4", "is empty"


def _fifo(folder):
    os.mkfifo(folder / "fifo")
    return folder / "fifo", "is not a regular file"


def _text(folder):
    (folder / "notes.txt").write_text("To whom it may concern\n" * 50)
    return folder / "notes.txt", "is text"


def _noise(folder):
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(4000))
    return folder / "noise.mp4", "is no media"


def _without_index(folder):
    path = cases.record(folder / "cut.mp4", Video(), Audio())
    path.write_bytes(path.read_bytes()[:3000])
    return path, "moov"


def _encrypted(folder):
    keys = {"encryption_key": "76a6c65c5ea762046bd749a2e632ccbb", "encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
    return cases.record(folder / "a.mp4", Video(), None, encryption_scheme="cenc-aes-ctr", **keys), "is encrypted"


def _subtitles_only(folder):
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n\n")
    return folder / "a.srt", "no picture and no sound"


def _nothing_decodes(folder):
    path = cases.record(folder / "a.mp4", Video(), None)
    cases.damage_packets(path, "video", 0, 50)
    return path, "nothing in it can be decoded"


def _wide(folder):
    path = cases.record_still(folder / "a.avi", np.zeros((64, 112, 3), np.uint8), "rawvideo", "bgr24")
    cases.claim_size(path, 20_000, 64)
    return path, "20000x64 is beyond"


def _many_pixels(folder):
    path = cases.record_still(folder / "a.avi", np.zeros((64, 112, 3), np.uint8), "rawvideo", "bgr24")
    cases.claim_size(path, 16_000, 16_000)
    return path, "beyond"


def _no_pixels(folder):
    path = cases.record_still(folder / "a.avi", np.zeros((64, 112, 3), np.uint8), "rawvideo", "bgr24")
    cases.claim_size(path, 0, 0)
    return path, "no size"


def _apart(folder):
    return cases.record(folder / "a.mkv", Video("ffv1", time_base=MS), Audio("pcm_s16le", start_s=9000.0)), "s apart"


def _no_time(folder):
    return cases.record(folder / "a.wav", None, Audio("pcm_s16le", seconds=0)), "nothing in it can be decoded"


@pytest.mark.parametrize(
    "make",
    [
        *(_missing, _folder, _empty, _fifo, _text, _noise, _without_index, _encrypted, _subtitles_only),
        *(_nothing_decodes, _wide, _many_pixels, _no_pixels, _no_time, _apart),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(tmp_path, make):
    path, reason = make(tmp_path)
    with pytest.raises(MediaError) as caught:
        open_media(path, PICTURE)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert "; " in str(caught.value)  # and what to do


def test_what_may_not_be_read_is_one_clear_error(tmp_path, monkeypatch):
    path = cases.record(tmp_path / "a.wav", None, Audio("pcm_s16le"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read anything
    with pytest.raises(MediaError, match="may not be read"):
        open_media(path, PICTURE)
