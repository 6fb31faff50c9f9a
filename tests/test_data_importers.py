"""Small recordings in the published layouts become session folders that have no problem and say the same."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from tests.data_cases import LAYOUT, TOKENIZER
from wanstreamer_jax.data.errors import DataError
from wanstreamer_jax.data.folder import read_session
from wanstreamer_jax.data.from_folder import from_folder
from wanstreamer_jax.data.importers.film import read_sound
from wanstreamer_jax.data.importers.interaction import in_order
from wanstreamer_jax.data.importers.run import import_sessions
from wanstreamer_jax.data.record import Record, to_float32
from wanstreamer_jax.data.validate import problems_of
from wanstreamer_jax.data.world import Who, Word
from wanstreamer_jax.media import MediaWriter
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, Picture

SECONDS = 1.92  # 12 units


def tone(hz: float, rate_hz: int, seconds: float = SECONDS) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def write_wav(file: Path, channels: list[np.ndarray], rate_hz: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as out:
        out.setparams((len(channels), 2, rate_hz, 0, "NONE", ""))
        out.writeframes(np.round(np.stack(channels, 1) * 32767).astype("<i2").tobytes())


def write_film(file: Path, colour: int, seconds: float = SECONDS) -> None:
    frames = np.full((round(seconds * 25), 36, 64, 3), colour, np.uint8)
    with MediaWriter(file, Picture(64, 36)) as writer:
        writer.write(frames, np.zeros(len(frames) * SAMPLES_PER_FRAME, np.float32))


def record_of(folder: Path) -> Record:
    (record,) = from_folder(read_session(folder), TOKENIZER, LAYOUT, 100).records
    return record


def pitch_hz(samples: np.ndarray) -> float:
    """The loudest frequency."""
    spectrum = np.abs(np.fft.rfft(to_float32(samples.reshape(-1))))
    return float(np.argmax(spectrum) * SAMPLE_RATE_HZ / samples.size)


def spoken(folder: Path) -> list[tuple[str, int, int, str]]:
    return [(w.who, w.start_ms, w.end_ms, w.text) for w in read_session(folder).words]


# ---- Moshi


def moshi(directory: Path, name: str = "a", alignments: object = None) -> Path:
    file = directory / "data_stereo" / f"{name}.wav"
    write_wav(file, [tone(300, 48_000), tone(700, 48_000)], 48_000)
    words = [["Hello", [0.1, 0.5], "SPEAKER_MAIN"], ["there", [0.48, 0.7], "SPEAKER_MAIN"], ["hi", [0.3, 0.4], "USER"]]
    file.with_suffix(".json").write_text(json.dumps({"alignments": alignments or words}))
    return file


@pytest.mark.parametrize("listed", [True, False])
def test_moshi(tmp_path: Path, listed: bool) -> None:
    source = tmp_path / "in"
    moshi(source)
    if listed:
        moshi(source, "not-listed")
        source = source / "data.jsonl"
        source.write_text('{"path": "data_stereo/a.wav", "duration": 1.92}\n')
    done = import_sessions("moshi", source, tmp_path / "out", "CC-BY-4.0")
    assert (done.n_written, done.n_kept, done.problems) == (1, 0, [])
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name == "data_stereo-a"
    assert problems_of(folder) == []
    assert spoken(folder) == [("agent", 100, 480, "Hello"), ("user", 300, 400, "hi"), ("agent", 480, 700, "there")]
    assert done.n_shortened == 1
    record = record_of(folder)
    assert record.licence == "CC-BY-4.0"
    assert pitch_hz(record.agent_samples) == pytest.approx(300, abs=1)  # left
    assert pitch_hz(record.user_samples) == pytest.approx(700, abs=1)  # right
    assert np.abs(to_float32(record.agent_samples)).max() == pytest.approx(0.4, abs=0.01)  # and as loud
    assert not (record.streams.user_video or record.streams.agent_video)


def test_an_agent_alone_that_was_transcribed(tmp_path: Path) -> None:
    moshi(tmp_path / "in", alignments=[["Hello", [0.1, 0.5], "SPEAKER_MAIN"]])
    import_sessions("moshi", tmp_path / "in", tmp_path / "out", "MIT")
    streams = record_of(tmp_path / "out" / "data_stereo-a").streams
    assert streams.agent_text
    assert not streams.heard


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    moshi(tmp_path / "in")
    import_sessions("moshi", tmp_path / "in", tmp_path / "out", "MIT")
    moshi(tmp_path / "in", "b")
    done = import_sessions("moshi", tmp_path / "in", tmp_path / "out", "MIT")
    assert (done.n_written, done.n_kept) == (1, 1)


def test_a_licence_has_to_be_said(tmp_path: Path) -> None:
    moshi(tmp_path / "in")
    with pytest.raises(DataError, match="Say it with --licence"):
        import_sessions("moshi", tmp_path / "in", tmp_path / "out", None)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("a.json", '{"alignments": [["x", 3, "y"]]}', r"a.json: needs \{\"alignments\""),
        ("a.json", "{", r"a.json: needs \{\"alignments\""),
        ("a.wav", "RIFF", "a.wav: is no media"),
    ],
)
def test_a_bad_recording_is_named_and_left_out(tmp_path: Path, file: str, content: str, said: str) -> None:
    moshi(tmp_path / "in", "b")
    moshi(tmp_path / "in").with_name(file).write_text(content)
    done = import_sessions("moshi", tmp_path / "in", tmp_path / "out", "MIT")
    assert done.n_written == 1
    with pytest.raises(DataError, match=said):
        raise DataError(*done.problems)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["data_stereo-b"]


def test_mono_is_no_conversation(tmp_path: Path) -> None:
    file = moshi(tmp_path / "in")
    write_wav(file, [tone(300, 16_000)], 16_000)
    done = import_sessions("moshi", tmp_path / "in", tmp_path / "out", "MIT")
    assert "has 1 channels: needs 2, the agent left and the user right" in str(done.problems[0])


# ---- AMI


def words_xml(meeting: str, letter: str, words: list[tuple[str, str]]) -> str:
    lines = [f'<w nite:id="{meeting}.{letter}.words{i}" {times}>{text}</w>' for i, (times, text) in enumerate(words)]
    lines.append(f'<vocalsound nite:id="{meeting}.{letter}.words99" starttime="1.0" endtime="1.4" type="laugh"/>')
    return (
        '<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>\n'
        f'<nite:root nite:id="{meeting}.{letter}.words" xmlns:nite="http://nite.sourceforge.net/">\n'
        + "\n".join(lines)
        + "\n</nite:root>\n"
    )


def at(start: float, end: float, more: str = "") -> str:
    return f'starttime="{start}" endtime="{end}" {more}'.strip()


def ami(root: Path, *, cameras: bool) -> None:
    spoken_by = {
        "A": [(at(0.1, 0.4), "Okay"), (at(0.4, 0.4, 'punc="true"'), "."), (at(0.5, 0.8), "So")],
        "B": [(at(0.2, 0.5), "Yes")],
        "C": [(at(0.9, 1.1), "I&#39;m"), (at(1.1, 1.3), "Carl"), ('trunc="true"', "n")],
        "D": [],
    }
    (root / "words").mkdir(parents=True)
    channels = {"A": 2, "B": 1, "C": 0, "D": 3}
    speakers = []
    for letter, words in spoken_by.items():
        channel = channels[letter]
        (root / "words" / f"ES2002a.{letter}.words.xml").write_text(words_xml("ES2002a", letter, words), "latin-1")
        sound = tone(200 * (channel + 1), 16_000) / 4
        write_wav(root / "amicorpus" / "ES2002a" / "audio" / f"ES2002a.Headset-{channel}.wav", [sound], 16_000)
        speakers.append(f'<speaker nxt_agent="{letter}" channel="{channel}" camera="Closeup{channel + 1}"/>')
    (root / "corpusResources").mkdir()
    (root / "corpusResources" / "meetings.xml").write_text(
        '<nite:root xmlns:nite="http://nite.sourceforge.net/"><meeting observation="ES2002a">'
        + "".join(speakers)
        + "</meeting></nite:root>"
    )
    if cameras:
        video = root / "amicorpus" / "ES2002a" / "video"
        video.mkdir()
        for camera in (3, 1):
            write_film(video / f"ES2002a.Closeup{camera}.mp4", 60 * camera)


@pytest.mark.parametrize("cameras", [True, False])
def test_ami(tmp_path: Path, cameras: bool) -> None:
    ami(tmp_path / "in", cameras=cameras)
    done = import_sessions("ami", tmp_path / "in", tmp_path / "out", None)
    assert (done.n_written, done.problems) == (1, [])
    folder = tmp_path / "out" / "ES2002a"
    assert spoken(folder) == [
        ("agent", 100, 400, "Okay."),
        ("background", 200, 500, "Yes"),
        ("agent", 500, 800, "So"),
        ("user", 900, 1100, "I'm"),
        ("user", 1100, 1300, "Carl"),
    ]
    record = record_of(folder)
    assert record.licence == "CC-BY-4.0"
    assert pitch_hz(record.agent_samples) == pytest.approx(600, abs=1)  # headset 2 is A's
    spectrum = np.abs(np.fft.rfft(to_float32(record.user_samples.reshape(-1))))
    loudest = sorted(np.argsort(spectrum)[-3:] * SAMPLE_RATE_HZ / record.user_samples.size)
    assert loudest == pytest.approx([200, 400, 800], abs=1)  # B, C and D are heard
    assert record.streams.agent_video == record.streams.user_video == cameras
    if cameras:
        assert record.agent_frames[:, :, 16, 24].mean() == pytest.approx(180, abs=4)
        assert record.user_frames[:, :, 16, 16].mean() == pytest.approx(60, abs=4)


def test_ami_without_a_headset_or_words(tmp_path: Path) -> None:
    ami(tmp_path / "in", cameras=False)
    next((tmp_path / "in").rglob("*Headset-0.wav")).unlink()
    with pytest.raises(DataError, match=r"ES2002a.C.words.xml: there are words, but no ES2002a.Headset-0.wav"):
        import_sessions("ami", tmp_path / "in", tmp_path / "out", None)
    with pytest.raises(DataError, match=r"no \*.words.xml here"):
        import_sessions("ami", tmp_path / "in" / "amicorpus", tmp_path / "out", None)


# ---- Seamless Interaction


def seamless(directory: Path, *, separate: bool) -> None:
    """As the download writes it, all of a participant beside each other; or as the bucket has it, by modality."""
    for i, participant in enumerate(("P0947", "P0059A")):
        stem = f"V00_S0809_I00000582_{participant}"
        utterances = [
            {
                "transcript": f"hello {i}",
                "start": 0.2 + i,
                "end": 0.8 + i,
                "words": [{"word": "hello", "start": 0.2 + i, "end": 0.5 + i, "score": 0.9}, {"word": str(i)}],
            }
        ]
        places = {
            k: directory / k if separate else directory / "0000" / "0005" for k in ("audio", "video", "transcript")
        }
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        write_wav(places["audio"] / f"{stem}.wav", [tone(300 + 200 * i, 48_000)], 48_000)
        write_film(places["video"] / f"{stem}.mp4", 80 + 80 * i)
        if separate:
            lines = "".join(json.dumps(u) + "\n" for u in utterances)
            (places["transcript"] / f"{stem}.jsonl").write_text(lines)
            for other in ("vad", "1P-IS"):
                (directory / other).mkdir(exist_ok=True)
                (directory / other / f"{stem}.{'jsonl' if other == 'vad' else 'json'}").write_text("{}")
        else:
            about = {"id": stem, "metadata:transcript": utterances, "metadata:vad": []}
            (places["transcript"] / f"{stem}.json").write_text(json.dumps(about))
            (places["transcript"] / f"{stem}.npz").write_bytes(b"")


@pytest.mark.parametrize("separate", [False, True])
def test_seamless(tmp_path: Path, separate: bool) -> None:
    seamless(tmp_path / "in" / "improvised" / "train", separate=separate)
    done = import_sessions("seamless", tmp_path / "in", tmp_path / "out", None)
    assert (done.n_written, done.problems) == (1, [])
    folder = tmp_path / "out" / "V00_S0809_I00000582"
    assert spoken(folder) == [("user", 200, 500, "hello"), ("agent", 1200, 1500, "hello")]
    record = record_of(folder)
    assert record.licence == "CC-BY-NC-4.0"
    assert pitch_hz(record.agent_samples) == pytest.approx(500, abs=1)  # P0059A is the first by name
    assert record.agent_frames[:, :, 16, 24].mean() == pytest.approx(160, abs=4)
    assert record.user_frames[:, :, 16, 16].mean() == pytest.approx(80, abs=4)
    assert record.n_units == 12


def test_seamless_needs_both_sides(tmp_path: Path) -> None:
    seamless(tmp_path / "in", separate=False)
    next(tmp_path.rglob("*P0947.wav")).unlink()
    with pytest.raises(DataError, match=r"no interaction here with the .wav of both"):
        import_sessions("seamless", tmp_path / "in", tmp_path / "out", None)


# ---- What all have in common


def test_words_end_where_the_next_of_the_speaker_begins() -> None:
    words = [
        Word(Who.AGENT, 300, 400, "b"),
        Word(Who.AGENT, 0, 350, "a"),
        Word(Who.USER, 100, 500, "c"),
        Word(Who.BACKGROUND, 0, 900, "d"),
        Word(Who.BACKGROUND, 10, 20, "e"),
    ]
    ordered = in_order(words)
    assert ordered.n_shortened == 1
    assert sorted(w.text for w in ordered.words) == list("abcde")
    assert {w.text: w.end_ms for w in ordered.words} == {"a": 300, "b": 400, "c": 500, "d": 900, "e": 20}
    assert [w.start_ms for w in ordered.words] == sorted(w.start_ms for w in words)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 44_100, 48_000])
def test_sound_of_any_rate_is_as_long_and_as_high(tmp_path: Path, rate_hz: int) -> None:
    write_wav(tmp_path / "a.wav", [tone(440, rate_hz), tone(880, rate_hz)], rate_hz)
    sound = read_sound(tmp_path / "a.wav")
    assert sound.shape == (2, pytest.approx(round(SECONDS * SAMPLE_RATE_HZ), abs=2))
    for channel, hz in zip(sound, (440, 880), strict=True):
        assert np.argmax(np.abs(np.fft.rfft(channel))) * SAMPLE_RATE_HZ / len(channel) == pytest.approx(hz, abs=1)
