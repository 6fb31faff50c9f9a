"""Prepared records are what the folder holds; latents are what the encoders say of the whole; nothing half-written."""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.data_cases import CONFIG, LAYOUT, TOKENIZER, WORLD, records, session_folder, write_dataset
from tests.small import small_params
from tests.test_tokens import QWEN_LIKE
from wanstreamer_jax.agent import Agent
from wanstreamer_jax.data.dataset import Dataset
from wanstreamer_jax.data.errors import DataError
from wanstreamer_jax.data.folder import read_session
from wanstreamer_jax.data.from_folder import from_folder
from wanstreamer_jax.data.importers.film import write_film
from wanstreamer_jax.data.latents import UNITS_AT_ONCE, encoder_fingerprints
from wanstreamer_jax.data.prepare import Job, prepare
from wanstreamer_jax.data.record import Record, to_float32
from wanstreamer_jax.data.world_source import WorldSource
from wanstreamer_jax.model import part
from wanstreamer_jax.stream.world import to_float
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

SEEDS = (0, 1, 2)
TEXT = ("user_text", "n_user_text", "agent_text", "n_agent_text", "heard", "n_heard", "persona")


def agent() -> Agent:
    return Agent(CONFIG, small_params(CONFIG), TOKENIZER, trained=False)


def sessions(parent: Path) -> Path:
    for seed in SEEDS:
        session_folder(parent, seed)
    return parent


def job(tmp_path: Path, **changes) -> Job:
    settings = {"source": tmp_path / "in", "output": tmp_path / "out", "layout": LAYOUT, "tokenizer": TOKENIZER}
    return Job(**settings | changes)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return sessions(tmp_path / "in")


def whole(parts: list[Record]) -> Record:
    """The records of a session as one."""
    arrays = {
        name: np.concatenate([getattr(r, name) for r in parts])
        for name in ("user_frames", "user_samples", "agent_frames", "agent_samples")
    }
    texts = {name: np.concatenate([getattr(r, name) for r in parts]) for name in TEXT[:6]}
    return parts[0]._replace(**arrays, **texts, words=[w for r in parts for w in r.words])


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


def same(a: Record, b: Record) -> bool:
    def flat(record: Record) -> list:
        return [*record[:-1], *(record.latents or ())]

    return all(np.array_equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


@pytest.mark.parametrize("units_per_record", [100, 15, 4])
def test_prepared_records_are_the_sessions_that_were_written(
    source: Path, tmp_path: Path, units_per_record: int
) -> None:
    counts, refused = prepare(job(tmp_path, units_per_record=units_per_record))
    dataset = Dataset(tmp_path / "out")
    dataset.check_fits(LAYOUT)
    assert refused == []
    assert (counts.sessions, counts.units) == (len(SEEDS), len(SEEDS) * 15)
    assert len(dataset) == counts.records == len(SEEDS) * -(-15 // units_per_record)
    found = [dataset[i] for i in range(len(dataset))]
    for seed in SEEDS:
        made, parts = records()[seed], [r for r in found if r.name.startswith(f"train-{seed:08d},")]
        assert [p.first_unit for p in parts] == list(range(0, 15, units_per_record))
        for before, after in itertools.pairwise(parts):
            assert np.array_equal(after.frame_before, before.agent_frames[-1][-1])
        read = whole(parts)
        for name in TEXT:
            assert np.array_equal(getattr(read, name), getattr(made, name)), name
        assert read.words == made.words
        assert read.labels == made.labels
        assert read.licence == made.licence
        assert all(read.streams)
        assert np.array_equal(read.portrait, made.portrait)
        assert np.array_equal(read.frame_before, read.portrait)
        assert np.array_equal(read.voice, made.voice)
        for side in ("user", "agent"):  # H.264 at crf 18, and AAC at 96 kbit/s
            assert far(getattr(read, f"{side}_frames"), getattr(made, f"{side}_frames")) < 12
            spoken = to_float32(getattr(made, f"{side}_samples"))
            assert far(to_float32(getattr(read, f"{side}_samples")), spoken) < 0.15 * np.sqrt(np.mean(spoken**2)) + 1e-4


def test_frames_and_samples_are_those_that_the_reader_gives(source: Path) -> None:
    """To the bit, where the codec has rounded already."""
    from wanstreamer_jax.media import open_media

    session = read_session(source / "train-00000001")
    (record,) = from_folder(session, TOKENIZER, LAYOUT, 100).records
    with open_media(session.path / "agent.mp4", LAYOUT.agent_picture) as media:
        units = list(media)
    assert np.array_equal(record.agent_frames, np.stack([u.frames for u in units]))
    assert np.abs(to_float32(record.agent_samples) - np.stack([u.samples for u in units])).max() < 2e-5


def test_a_dataset_has_the_tokenizer_of_its_text(source: Path, tmp_path: Path) -> None:
    prepare(job(tmp_path))
    dataset, file = Dataset(tmp_path / "out"), tmp_path / "out" / "tokenizer.json"
    text = "Größe?"
    assert dataset.tokenizer().encode(text) == TOKENIZER.encode(text)
    file.write_text(QWEN_LIKE)
    with pytest.raises(DataError, match=r"tokenizer.json: is not the tokenizer with which the records were made"):
        dataset.tokenizer()
    file.unlink()
    with pytest.raises(DataError, match=r"tokenizer.json: .*No such file.*; prepare it again"):
        dataset.tokenizer()


def test_workers_change_nothing(source: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        prepare(job(tmp_path, output=tmp_path / f"out{workers}", workers=workers, units_per_record=8))
    one, two = (Dataset(tmp_path / f"out{workers}") for workers in (1, 2))
    assert all(same(one[i], two[i]) for i in range(len(one)))


def test_latents_are_what_the_encoders_say_of_the_whole_session(source: Path, tmp_path: Path) -> None:
    """Prepared in records, in pieces of several units and one: as if the clip had been encoded at once."""
    assert 11 % UNITS_AT_ONCE
    prepare(job(tmp_path, agent=agent(), units_per_record=11))
    dataset = Dataset(tmp_path / "out")
    assert dataset.manifest["encoders"] == encoder_fingerprints(CONFIG, agent().params)
    dataset.check_encoders(encoder_fingerprints(CONFIG, agent().params))
    parts = [dataset[0], dataset[1]]
    frames = np.concatenate(
        [parts[0].portrait[None], *(np.asarray(p.agent_frames).reshape(-1, 32, 48, 3) for p in parts)]
    )
    samples = to_float32(np.concatenate([p.agent_samples.reshape(-1) for p in parts]))
    video = jax.jit(lambda x: part(CONFIG, agent().params, "video_vae").encoder(to_float(x)))(frames[None])
    audio = jax.jit(lambda x: part(CONFIG, agent().params, "audio_vae").encoder(x))(samples[None])
    latents = [p.latents for p in parts]
    for name, expected in (("video", video), ("audio", audio)):
        for kind in ("mean", "log_variance"):
            found = np.concatenate([getattr(x, f"{name}_{kind}") for x in latents])
            wanted = np.asarray(getattr(expected, kind)[0, 1:] if name == "video" else getattr(expected, kind)[0])
            np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(latents[0].portrait_mean, np.asarray(video.mean[0, 0]), rtol=2e-3, atol=2e-3)
    padded = np.zeros(LAYOUT.n_voice_samples, np.float32)
    padded[: len(parts[0].voice)] = to_float32(parts[0].voice)
    voice = jax.jit(lambda x: part(CONFIG, agent().params, "audio_vae").encoder(x).mean)(padded[None])
    np.testing.assert_allclose(latents[0].voice_mean, np.asarray(voice[0]), rtol=2e-3, atol=2e-3)


def test_latents_of_another_encoder_are_refused(tmp_path: Path) -> None:
    ours = encoder_fingerprints(CONFIG, agent().params)
    other = jax.tree.map(np.array, agent().params)
    other["audio_vae"]["encoder"]["mean"]["bias"][0] += 1e-3
    theirs = encoder_fingerprints(CONFIG, other)
    assert ours["video_vae"] == theirs["video_vae"]
    dataset = write_dataset(tmp_path / "set", encoders=ours)
    dataset.check_encoders(ours)
    with pytest.raises(
        DataError, match=r"dataset.json: latents are of another audio_vae; prepare it again with --agent"
    ):
        dataset.check_encoders(theirs)


def test_streams_that_are_missing_are_marked(source: Path, tmp_path: Path) -> None:
    folder = source / "train-00000000"
    sound = np.sin(np.arange(round(2.4 * SAMPLE_RATE_HZ)) / 20).astype(np.float32) / 2
    write_film(folder / "user.mp4", sound)
    (folder / "words.jsonl").write_text('{"who": "agent", "start_ms": 0, "end_ms": 100, "text": "hi"}\n')
    (folder / "session.json").write_text('{"licence": "CC0-1.0", "transcribed": ["agent"]}')
    prepare(job(tmp_path))
    record = Dataset(tmp_path / "out")[0]
    missing = {name for name, there in record.streams._asdict().items() if not there}
    assert missing == {"user_video", "heard", "portrait"}
    assert not np.asarray(record.user_frames).any()
    assert not record.portrait.any()
    assert record.user_samples.any()
    assert len(record.voice) == len(record.persona) == 0


def test_a_bad_session_stops_or_is_left_out_and_named(source: Path, tmp_path: Path) -> None:
    (source / "train-00000001" / "agent.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-00000001/agent.mp4: is empty.*\n.*at most 0 may be left out"):
        prepare(job(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    counts, refused = prepare(job(tmp_path, most_refused=1))
    assert counts.sessions == 2
    assert [p.file.name for p in refused] == ["agent.mp4"]
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert manifest["refused"][0][0] == "train-00000001"


def test_damage_within_a_film_is_found_before_anything_is_made_of_it(source: Path, tmp_path: Path) -> None:
    file = source / "train-00000002" / "user.mp4"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"train-00000002/user.mp4.*: .*damaged pieces cannot be decoded"):
        prepare(job(tmp_path))
    counts, _ = prepare(job(tmp_path, most_refused=1, units_per_record=4))
    assert counts.records == 2 * 4
    with pytest.raises(DataError, match=r"train-00000002/user.mp4: .*damaged pieces cannot be decoded"):
        list(from_folder(read_session(file.parent), TOKENIZER, LAYOUT, 100).records)


def test_a_persona_that_is_too_long_is_named(source: Path, tmp_path: Path) -> None:
    (source / "train-00000000" / "session.json").write_text(
        json.dumps({"licence": "CC0-1.0", "world": {"persona": "x" * 81}})
    )
    with pytest.raises(DataError, match=r"session.json: persona of 81 tokens: a world holds 80"):
        prepare(job(tmp_path))


def test_what_is_there_is_not_overwritten_unless_asked(source: Path, tmp_path: Path) -> None:
    prepare(job(tmp_path))
    with pytest.raises(DataError, match="out: exists already"):
        prepare(job(tmp_path))
    prepare(job(tmp_path, overwrite=True))
    with pytest.raises(DataError, match=r"holds no dataset.json"):
        prepare(job(tmp_path, output=source, overwrite=True))


def test_a_long_session_text_counts_what_moved_and_what_is_left(source: Path, tmp_path: Path) -> None:
    long = "x" * 30
    (source / "train-00000000" / "words.jsonl").write_text(
        "".join(
            json.dumps({"who": "agent", "start_ms": at, "end_ms": at + 50, "text": text}) + "\n"
            for at, text in ((0, "a"), (200, "b" * 9), (2300, long))
        )
    )
    for name in ("train-00000001", "train-00000002"):
        (source / name / "words.jsonl").write_text("")
    counts, _ = prepare(job(tmp_path))
    assert counts.words_moved == 1
    assert counts.tokens_left_over == 1 + 30 - 7


def test_the_world_source_makes_what_prepare_reads(source: Path) -> None:
    made = WorldSource(WORLD, TOKENIZER, LAYOUT, 3)[1]
    (read,) = from_folder(read_session(source / "train-00000001"), TOKENIZER, LAYOUT, 100).records
    assert made.name == read.name
    assert made.words == read.words
    assert np.array_equal(made.agent_text, read.agent_text)
    assert np.array_equal(made.voice, read.voice)
