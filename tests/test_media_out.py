"""Laws of writing: what is written is read again, when it was; a file is complete or absent."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from tests import media_cases as cases
from tests.media_cases import Audio, Video
from wanstreamer_jax.media import MediaError, MediaWriter, SubtitleWriter, open_media
from wanstreamer_jax.media.probe import probe
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, VIDEO_FPS, Picture

PICTURE = Picture(112, 64)


def flashes(n_frames: int, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Every `every` frames, from the middle on: three white frames and a beep as long."""
    lit = (np.arange(n_frames) - every // 2) % every < 3
    frames = np.broadcast_to(lit[:, None, None, None] * np.uint8(255), (n_frames, 64, 112, 3)).astype(np.uint8)
    time_s = np.arange(n_frames * SAMPLES_PER_FRAME) / SAMPLE_RATE_HZ
    beep = 0.5 * np.repeat(lit, SAMPLES_PER_FRAME) * np.sin(2 * np.pi * cases.BEEP_HZ * time_s)
    return frames, beep.astype(np.float32)


def write_in_units(path: Path, frames: np.ndarray, samples: np.ndarray) -> None:
    with MediaWriter(path, PICTURE) as writer:
        for first in range(0, len(frames), FRAMES_PER_UNIT):
            unit = slice(first * SAMPLES_PER_FRAME, (first + FRAMES_PER_UNIT) * SAMPLES_PER_FRAME)
            writer.write(frames[first : first + FRAMES_PER_UNIT], samples[unit])


def read(path: Path):
    with open_media(path, PICTURE) as reader:
        units = list(reader)
    frames = np.concatenate([u.frames[: u.n_frames] for u in units])
    return frames, np.concatenate([u.samples[: u.n_samples] for u in units]), reader


def test_flash_and_beep_stay_together(tmp_path):
    frames, samples = flashes(250, every=40)
    write_in_units(tmp_path / "a.mp4", frames, samples)
    seen, heard, reader = read(tmp_path / "a.mp4")
    light = seen.mean((1, 2, 3)) > 128
    flashes_s = np.flatnonzero(light & ~np.roll(light, 1)) / VIDEO_FPS
    assert len(flashes_s) == 6
    np.testing.assert_allclose(cases.onsets_s(heard, SAMPLE_RATE_HZ), flashes_s, rtol=0, atol=0.005)
    assert (len(seen), len(heard)) == (len(frames), len(samples))
    assert reader.seconds == pytest.approx(10.0, abs=1e-3)


def test_one_film_is_one_file(tmp_path):
    """x264 with macroblock trees reads memory that was someone else's on a processor with AVX-512: so there is some."""
    rng = np.random.default_rng(0)
    frames = np.clip(10 * rng.normal(size=(27, 64, 112, 3)).cumsum(0).cumsum(1) + 128, 0, 255).astype(np.uint8)
    files = set()
    for _ in range(60):
        used = [np.full(size, size % 256, np.uint8) for size in rng.integers(1, 60_000, 20)]
        del used
        write_in_units(tmp_path / "a.mp4", frames, np.zeros(len(frames) * SAMPLES_PER_FRAME, np.float32))
        files.add((tmp_path / "a.mp4").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("n_frames", [1, 3, 4, 5, 50])
def test_it_lasts_as_long_as_its_frames(tmp_path, n_frames):
    frames = np.stack([cases.numbered(n, 112, 64) for n in range(n_frames)])
    write_in_units(tmp_path / "a.mp4", frames, np.zeros(n_frames * SAMPLES_PER_FRAME, np.float32))
    seen, heard, reader = read(tmp_path / "a.mp4")
    assert [cases.number_of(f) for f in seen] == list(range(n_frames))
    assert len(heard) == n_frames * SAMPLES_PER_FRAME
    assert reader.seconds == pytest.approx(n_frames / VIDEO_FPS, abs=1e-3)


@pytest.mark.parametrize(("n_frames", "n_samples"), [(10, 1000), (3, 9600), (0, 960), (10, 0)])
def test_the_shorter_of_picture_and_sound_is_filled_up(tmp_path, n_frames, n_samples):
    white = np.full((n_frames, 64, 112, 3), 255, np.uint8)
    with MediaWriter(tmp_path / "a.mp4", PICTURE) as writer:
        writer.write(white, np.zeros(n_samples, np.float32))
    seen, heard, _ = read(tmp_path / "a.mp4")
    assert len(seen) == max(n_frames, n_samples // SAMPLES_PER_FRAME)
    assert len(heard) == len(seen) * SAMPLES_PER_FRAME
    assert [track.end_s for track in probe(tmp_path / "a.mp4")] == pytest.approx([len(seen) / VIDEO_FPS] * 2, abs=1e-3)
    assert (seen > 250).all() == (n_frames > 0)


def test_colours_survive(tmp_path):
    frames = np.broadcast_to(cases.quadrants(112, 64), (8, 64, 112, 3)).copy()
    write_in_units(tmp_path / "a.mp4", frames, np.zeros(8 * SAMPLES_PER_FRAME, np.float32))
    seen, _, _ = read(tmp_path / "a.mp4")
    inner = np.ix_([8, 24, 40, 56], [8, 32, 80, 104])
    np.testing.assert_allclose(seen[5][inner].astype(int), frames[5][inner], atol=12)


class StopError(Exception):
    pass


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def interrupted(writer, error: type[BaseException], *written) -> None:
    with writer:
        writer.write(*written)
        raise error


@pytest.mark.parametrize("make", [lambda p: MediaWriter(p, PICTURE), SubtitleWriter])
def test_an_exception_leaves_nothing_and_what_was_there_stays(tmp_path, make):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    writer = make(path)
    with pytest.raises(StopError):
        interrupted(writer, StopError, *_something_for(writer))
    assert names(tmp_path) == ["a"]
    assert path.read_bytes() == b"before"


def test_an_interrupt_keeps_what_was_written(tmp_path):
    frames, samples = flashes(40, every=40)
    with pytest.raises(KeyboardInterrupt):
        interrupted(MediaWriter(tmp_path / "a.mp4", PICTURE), KeyboardInterrupt, frames, samples)
    assert len(read(tmp_path / "a.mp4")[0]) == 40
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("make", [lambda p: MediaWriter(p, PICTURE), SubtitleWriter])
def test_nothing_is_seen_under_the_name_before_the_end(tmp_path, make):
    with make(tmp_path / "a") as writer:
        writer.write(*_something_for(writer))
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a"]
    writer.discard()  # too late
    writer.finish()
    assert names(tmp_path) == ["a"]


def _something_for(writer) -> tuple:
    return flashes(4, every=4) if isinstance(writer, MediaWriter) else (0, "something")


def test_without_a_frame_there_is_no_file(tmp_path):
    with MediaWriter(tmp_path / "a.mp4", PICTURE):
        pass
    assert names(tmp_path) == []


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 112, 3), np.uint8)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(MediaError, match="cannot be written"), MediaWriter(tmp_path / "a.mp4", PICTURE) as writer:
            writer.write(noise, np.zeros(0, np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert names(tmp_path) == []


def test_frames_of_another_picture_are_refused(tmp_path):
    with pytest.raises(ValueError, match="112x64"), MediaWriter(tmp_path / "a.mp4", PICTURE) as writer:
        writer.write(np.zeros((4, 32, 112, 3), np.uint8), np.zeros(0, np.float32))


@pytest.mark.parametrize("make", [lambda p, s=None: MediaWriter(p, PICTURE, s), SubtitleWriter])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path, make):
    source = cases.record(tmp_path / "in.mp4", Video(), Audio())
    (tmp_path / "link").symlink_to(source)
    os.mkfifo(tmp_path / "fifo")
    before = names(tmp_path)
    for name, reason in [("", "is a folder"), ("no/a.mp4", "folder that does not"), ("fifo", "not a regular file")]:
        with pytest.raises(MediaError, match=reason):
            make(tmp_path / name)
    for name in ("in.mp4", "link", "../" + tmp_path.name + "/in.mp4"):
        with pytest.raises(MediaError, match="is the input too"):
            make(tmp_path / name, source)
    with pytest.raises(MediaError, match="cannot be written"):
        make(tmp_path / ("a" * 250))  # the hidden name is too long for the file system
    assert names(tmp_path) == before


def test_a_file_that_may_not_be_overwritten_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anything
    with pytest.raises(MediaError, match="may not be overwritten"):
        MediaWriter(tmp_path / "a.mp4", PICTURE)


def captions(path: Path, *said: tuple[int, str]) -> list[tuple[str, str, str]]:
    with SubtitleWriter(path) as writer:
        for unit, text in said:
            writer.write(unit, text)
    header, *cues = path.read_text().split("\n\n")
    assert header.strip() == "WEBVTT"
    return [(*cue.splitlines()[0].split(" --> "), cue.splitlines()[1]) for cue in cues]


def test_captions_stand_on_the_clock(tmp_path):
    said = [(10, "Hello"), (11, " there."), (12, " How are"), (13, " you?"), (30, "Bye."), (22_500, "Later")]
    assert captions(tmp_path / "a.vtt", *said) == [
        ("00:00:01.600", "00:00:01.920", "Hello there."),  # gone when the next begins
        ("00:00:01.920", "00:00:03.040", "How are you?"),  # lingers
        ("00:00:04.800", "00:00:05.760", "Bye."),
        ("01:00:00.000", "01:00:00.960", "Later"),
    ]


def test_a_number_is_not_the_end_of_a_sentence(tmp_path):
    assert len(captions(tmp_path / "a.vtt", (0, "It is 3."), (1, "5 metres"))) == 1


def test_long_speech_is_broken_between_words(tmp_path):
    cues = captions(tmp_path / "a.vtt", *[(k, f" word{k}") for k in range(40)])
    assert len(cues) > 2
    assert max(len(text) for _, _, text in cues) <= 80
    assert " ".join(text for _, _, text in cues) == " ".join(f"word{k}" for k in range(40))


def test_text_cannot_break_out_of_its_cue(tmp_path):
    text = "a <b> & c\n\n00:00:00.000 --> 00:00:09.000\nd"
    cues = captions(tmp_path / "a.vtt", (0, text), (1, ""), (20, " \n "))
    assert cues == [("00:00:00.000", "00:00:00.960", "a &lt;b&gt; &amp; c 00:00:00.000 --&gt; 00:00:09.000 d")]
