"""Replay files: without loss, whole up to where they were cut off, and never believed in anything."""

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.replay_cases import AGENT, CONFIG, a_setting, lines_of, the, write_lines
from tests.server_cases import Echo
from wanstreamer_jax.media.picture import black
from wanstreamer_jax.serving.replay import lines as lines_module
from wanstreamer_jax.serving.replay.arrays import UnpackError, pack_frames, pack_samples, unpack_frames, unpack_samples
from wanstreamer_jax.serving.replay.lines import LineWriter, ReplayError, read_lines
from wanstreamer_jax.serving.replay.origin import other_agent
from wanstreamer_jax.serving.replay.reading import open_recording, records, setting_of
from wanstreamer_jax.serving.replay.records import End, Replied, Seen, Shown
from wanstreamer_jax.serving.replay.tape import LIVE, open_writer
from wanstreamer_jax.stream.placement import Reply
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT


def a_seen(unit, n_skipped=0):
    rng, size = np.random.default_rng(unit), CONFIG.vision.picture
    frames = rng.integers(0, 256, (FRAMES_PER_UNIT, size.height, size.width, 3), np.uint8)
    samples = (rng.integers(-(2**15), 2**15, SAMPLES_PER_UNIT) / 2**15).astype(np.float32)
    return Seen(unit, n_skipped, 2, [1, unit], frames, samples if unit % 2 else samples * np.float32(0.3))


def a_reply(unit):
    rng, size = np.random.default_rng(100 + unit), CONFIG.picture
    frames = rng.integers(0, 256, (1, FRAMES_PER_UNIT, size.height, size.width, 3), np.uint8)
    return Reply(unit, frames, rng.normal(size=(1, SAMPLES_PER_UNIT)).astype(np.float32), [[unit, 7]], {})


@pytest.fixture
def recorded(tmp_path):
    """Three units, one of them skipped before the last, which is concealed."""
    writer = open_writer(tmp_path / "session.json", LIVE, AGENT, a_setting(), 11, Echo())
    for unit, n_skipped in ((0, 0), (1, 0), (3, 1)):
        writer.seen(a_seen(unit, n_skipped))
        writer.replied(unit, a_reply(unit))
        writer.shown(Shown(min(unit, 2), unit == 3, 0, "ab"))
    writer.end()
    writer.close()
    return tmp_path / "session.json"


def test_everything_comes_back_to_the_bit(recorded):
    recording = open_recording(recorded)
    assert (recording.n_units, recording.n_replies, recording.is_cut_off) == (3, 3, False)
    setting, then = setting_of(recording, CONFIG), a_setting()
    assert setting.persona == then.persona
    np.testing.assert_array_equal(setting.portrait, then.portrait)
    np.testing.assert_array_equal(setting.voice, then.voice[: len(setting.voice)])
    told = list(records(recording, CONFIG))
    assert [type(record) for record in told] == [Seen, Replied, Shown] * 3 + [End]
    for record, (unit, n_skipped) in zip(told[::3], ((0, 0), (1, 0), (3, 1)), strict=False):
        for value, expected in zip(record, a_seen(unit, n_skipped), strict=True):
            np.testing.assert_array_equal(value, expected)
    assert told[-2] == Shown(2, True, 0, "ab")


def test_a_minute_of_a_still_picture_and_sound_of_16_bits_is_small():
    frames = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 64, 128, 3), np.uint8), 4, axis=0)
    speech = np.round(3000 * np.sin(np.arange(SAMPLES_PER_UNIT) / 20)) / 2**15
    unit = len(pack_frames(frames, frames[0])) + len(pack_samples(speech.astype(np.float32))["pcm16"])
    assert unit < 8000


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_pictures_are_lossless(data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    frames, before = (rng.integers(0, 256, size, np.uint8) for size in ((*shape, 3), (*shape[1:], 3)))
    np.testing.assert_array_equal(unpack_frames(pack_frames(frames, before), before, shape[0]), frames)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=20), st.booleans())
@example([0x80000000, 0x7FC00001, 0xFF800000, 1], False)  # a negative zero, a NaN, an infinity, the least there is
def test_sound_is_lossless_whatever_bits_it_has(bits, is_pcm):
    samples = np.array(bits, np.uint32).view(np.float32)
    if is_pcm:
        samples = (np.array(bits, np.uint32) >> 16).astype(np.uint16).view(np.int16).astype(np.float32) / 2**15
    packed = pack_samples(samples)
    assert not is_pcm or list(packed) == ["pcm16"]
    np.testing.assert_array_equal(unpack_samples(packed, 20).view(np.uint32), samples.view(np.uint32))


JSON = st.recursive(st.none() | st.integers() | st.text(max_size=9), lambda inner: st.lists(inner, max_size=3))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), max_size=4), st.data())
def test_a_file_is_whole_up_to_where_it_was_cut_and_no_damage_passes(tmp_path_factory, lines, data):
    path = tmp_path_factory.getbasetemp() / "property.json"
    writer = LineWriter(path, {"some": "header"})
    for line in lines:
        writer.write({"kind": 1} | line)
    writer.close()
    whole = [{"kind": 1} | line for line in lines]
    assert [line.fields for line in read_lines(path)][1:] == whole
    content = path.read_bytes()
    n_header = content.index(b"\n") + 1
    cut = data.draw(st.integers(n_header, len(content)))
    path.write_bytes(content[:cut])
    n_whole = content[n_header:cut].count(b"\n")
    assert [line.fields for line in read_lines(path)][1:] == whole[:n_whole]
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
    try:
        read = [line.fields for line in read_lines(path)][1:]
    except ReplayError:
        return
    assert at == len(content) - 1  # the end of the last line is not there: as if it were cut off
    assert read == whole[:-1]


def test_a_cut_at_every_kind_of_place_is_told(recorded, tmp_path):
    content, cut = recorded.read_bytes(), tmp_path / "cut.json"
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    refused = {0: "is empty", 20: "is no replay file", 300: "first line", ends[0] - 1: "first line"}
    refused |= {ends[0]: "holds no unit", ends[0] + 9: "holds no unit", ends[1] - 1: "holds no unit"}
    for at, message in refused.items():
        cut.write_bytes(content[:at])
        with pytest.raises(ReplayError, match=message) as error:
            open_recording(cut)
        assert str(error.value).startswith(f"{cut}")
    counted = {ends[1]: (1, 0), ends[2] - 1: (1, 0), ends[2]: (1, 1), ends[4] + 3: (2, 1), ends[9] - 1: (3, 3)}
    for at, counts in counted.items():
        cut.write_bytes(content[:at])
        recording = open_recording(cut)
        assert (recording.n_units, recording.n_replies) == counts
        assert recording.is_cut_off
        list(records(recording, CONFIG))


def test_a_line_that_is_damaged_missing_or_moved_is_named(recorded, tmp_path):
    lines, other = recorded.read_bytes().splitlines(keepends=True), tmp_path / "other.json"
    damaged = {
        "line 5: is damaged.*head -n 4": [*lines[:4], lines[4].replace(b"1", b"2", 1), *lines[5:]],
        "line 4: is damaged": [*lines[:3], *lines[4:]],
        "line 2: is damaged": [lines[0], lines[2], lines[1], *lines[3:]],
        "line 1: is damaged": [lines[0].replace(b"kind", b"wild"), *lines[1:]],
    }
    for message, content in damaged.items():
        other.write_bytes(b"".join(content))
        with pytest.raises(ReplayError, match=message):
            open_recording(other)


def test_what_is_no_replay_file_is_refused(tmp_path, recorded):
    newer = recorded.read_bytes().replace(b'"version": 1', b'"version": 2', 1)
    folder = tmp_path / "session-1"
    folder.mkdir()
    about = folder / "session.json"
    about.write_text('{"licence": "CC0-1.0"}\n')
    with pytest.raises(ReplayError, match=r"describes a session folder.*session-1\.json"):
        open_recording(about)
    for content, message in ((newer, "version 2.*update"), (b"\x80\x04", "no replay"), (b"[]\n", "no replay")):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(ReplayError, match=message):
            open_recording(tmp_path / "other")
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ReplayError, match="cannot be read"):
            open_recording(place)


def bomb(n_bytes):
    return base64.b64encode(zlib.compress(bytes(n_bytes), 9)).decode()


ABSURD = {
    "more pixels": ("seen", {"frames": bomb(1 << 24)}, "more than 12288 bytes"),
    "fewer pixels": ("seen", {"frames": bomb(100)}, "100 bytes of pictures"),
    "more sound": ("seen", {"samples": {"pcm16": bomb(1 << 24)}}, "more than 7680 bytes"),
    "fewer samples": ("seen", {"samples": {"pcm16": bomb(2)}}, "1 samples"),
    "half a sample": ("seen", {"samples": {"float32": bomb(3)}}, "no whole samples"),
    "sound of another kind": ("seen", {"samples": {"mp3": ""}}, "mp3"),
    "no base64": ("seen", {"frames": "\u00e4"}, "cannot be unpacked"),
    "no zlib": ("seen", {"frames": "aaaa"}, "cannot be unpacked"),
    "steps": ("seen", {"solver_steps": 10**9}, "solver steps"),
    "skipped": ("seen", {"skipped": 10**12, "seen": 10**12 + 1}, "follows on no other"),
    "another unit": ("seen", {"seen": 7}, "follows on no other"),
    "a token that there is not": ("seen", {"text": [10**6]}, "tokens"),
    "a token that is true": ("seen", {"text": [True]}, "tokens"),
    "many tokens": ("seen", {"text": [1] * 1000}, "tokens"),
    "a number as text": ("seen", {"skipped": "0"}, "skipped"),
    "a field more": ("seen", {"more": 1}, "more"),
    "pixels of a reply": ("reply", {"some_pixels": bomb(1 << 24)}, "more than"),
    "out of turn": ("reply", {"reply": 9}, "out of turn"),
    "shown out of turn": ("shown", {"shown": 9}, "in place of"),
    "missed": ("shown", {"missed": 10**9}, "missed"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_what_cannot_have_happened_is_refused(recorded, tmp_path, name):
    kind, change, message = ABSURD[name]
    lines = lines_of(recorded)
    the(lines, kind, 1).update(change)
    other = write_lines(tmp_path / "other.json", lines)
    number = 1 + next(i for i, line in enumerate(lines) if change.items() <= line.items())
    with pytest.raises(ReplayError, match=rf"line {number}: .*{message}"):
        list(records(open_recording(other), CONFIG))


def test_an_absurd_header_is_refused(recorded, tmp_path):
    world = lines_of(recorded)[0]["world"]
    for change in (
        {"seed": 2**70},
        {"seed": 1.5},
        {"world": {}},
        {"machine": 1},
        {"machine": {"jax": [1]}},
        {"agent": {"config": {}}},
        {"world": world | {"portrait": bomb(1 << 24)}},
        {"world": world | {"voice": {"float32": bomb(1 << 24)}}},
    ):
        lines = lines_of(recorded)
        lines[0] |= change
        with pytest.raises(ReplayError, match="line 1: "):
            setting_of(open_recording(write_lines(tmp_path / "other.json", lines)), CONFIG)


def test_a_line_without_end_is_not_read(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "MOST_LINE_BYTES", 1 << 20)
    endless = tmp_path / "endless.json"
    endless.write_bytes(recorded.read_bytes() + b"x" * (1 << 21))
    with pytest.raises(ReplayError, match="longer than 1 MiB"):
        open_recording(endless)
    endless.write_bytes(recorded.read_bytes()[:200] + b"x" * (1 << 21))
    with pytest.raises(ReplayError, match="longer than 1 MiB"):
        open_recording(endless)


def test_nesting_without_end_is_refused(recorded, tmp_path):
    lines = recorded.read_bytes().splitlines(keepends=True)
    crc = zlib.crc32(lines[0][: lines[0].index(b', "crc32"')])
    body = b'{"a": ' + b"[" * 100_000
    seal = f', "crc32": "{zlib.crc32(body, crc):08x}"}}\n'.encode()
    (tmp_path / "deep.json").write_bytes(lines[0] + body + seal)
    with pytest.raises(ReplayError, match="line 2: is no JSON"):
        open_recording(tmp_path / "deep.json")


def test_an_agent_that_is_nested_without_end_is_another_one():
    config = {}
    for _ in range(5000):
        config = {"transformer": config}
    assert "its configuration differs in " in other_agent({"config": config}, AGENT)


def test_no_size_is_believed():
    with pytest.raises(UnpackError):
        unpack_frames(bomb(1 << 26), black(CONFIG.picture), 4)


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(ReplayError, match=r"cannot be written.*name another place"):
        LineWriter(tmp_path / "nowhere" / "session.json", {})


def test_lines_are_json(recorded):
    assert all(json.loads(line) for line in recorded.read_text().splitlines())
