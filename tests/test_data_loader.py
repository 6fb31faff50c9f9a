"""Laws of prepared records and of batches: bytes and back, once an epoch, resumed to the bit, damage left out."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from tests.data_cases import CONFIG, LAYOUT, TOKENIZER, WORLD, damage, records, write_dataset
from wanstreamer_jax.data.clips import audio_clip, session_window, video_clip
from wanstreamer_jax.data.dataset import DamagedRecordError, Dataset
from wanstreamer_jax.data.errors import DataError, InputError
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.loader import batches, first_batches
from wanstreamer_jax.data.record import PIECE_UNITS, AgentLatents, Record, decode, encode, to_float32, to_int16
from wanstreamer_jax.data.samples import LeftOut, Samples, read_note, write_note
from wanstreamer_jax.data.world_source import WorldSource
from wanstreamer_jax.timeline import FRAMES_PER_UNIT

N = 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "set")


def same(a: Record, b: Record) -> bool:
    def flat(record: Record) -> list:
        return [*record[:-1], *(record.latents or ())]

    return all(np.array_equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


def who(record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Which record it is, and something drawn."""
    seen = np.asarray(record.user_frames).mean() + np.asarray(record.agent_frames).mean()
    return {"seed": np.array(record.labels["seed"]), "drawn": np.array(rng.random()), "seen": seen}


def taken(source, n: int, process=(0, 1), per_record: int = 1, **settings) -> list[tuple[int, float]]:
    """What the first batches have, of a sample for each process."""
    samples = Samples(source, who, 1, per_record)
    stream = batches(samples, process[1], **{"seed": 5, "process": process} | settings)
    got = [next(stream) for _ in range(n)]
    stream.close()
    return [(int(x["seed"][0]), float(x["drawn"][0])) for x in got]


def with_latents(record: Record) -> Record:
    rng = np.random.default_rng(record.n_units)
    shapes = AgentLatents(
        (record.n_units, 2, 3), (record.n_units, 2, 3), *[(record.n_units, 4, 6, 2)] * 2, (4, 6, 2), (3, 3)
    )
    return record._replace(latents=AgentLatents(*(rng.normal(size=s).astype(np.float16) for s in shapes)))


@pytest.mark.parametrize("latents", [False, True])
def test_a_record_is_its_bytes(latents: bool) -> None:
    record = with_latents(records()[0]) if latents else records()[0]
    assert same(decode(list(encode(record)).__getitem__), record)


@pytest.mark.parametrize(
    "units", [slice(0, 40), slice(3, 5), slice(15, 17), slice(16, 32), slice(33, 90), slice(7, 7), slice(-3, None)]
)
def test_stored_frames_are_the_frames(units: slice) -> None:
    """Whatever is asked for, also across pieces, and no piece is read that is not needed."""
    record = records()[0]
    long = record._replace(
        user_frames=np.random.default_rng(0).integers(0, 256, (40, 2, 3, 4, 3)).astype(np.uint8),
        **{name: np.zeros((40, 1), np.int32) for name in ("agent_text", "n_agent_text")},
    )
    items, asked = list(encode(long)), []
    stored = decode(lambda i: asked.append(i) or items[i]).user_frames
    assert asked == [0]
    assert np.array_equal(stored[units], long.user_frames[units])
    wanted = range(40)[units]
    assert asked[1:] == sorted({1 + u // PIECE_UNITS for u in wanted})
    assert np.array_equal(stored[37], long.user_frames[37])
    assert np.array_equal(stored[-1], long.user_frames[-1])
    with pytest.raises(IndexError):
        stored[40]


@pytest.mark.parametrize("cut", [0, 4, 8, 100, 5000, -1])
def test_what_is_no_record_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="no record"):
        decode(lambda _: next(encode(records()[0]))[:cut])


def test_samples_are_integers_and_back() -> None:
    x = np.linspace(-1.2, 1.2, 999, dtype=np.float32)
    assert np.abs(to_float32(to_int16(x)) - np.clip(x, -1, 1)).max() <= 0.5 / (2**15 - 1) + 1e-7


def test_a_dataset_gives_back_its_records_in_any_order(dataset: Dataset) -> None:
    assert len(dataset) == N
    assert len(dataset.manifest["shards"]) > 1
    for i in (5, 0, 6, 3):
        assert same(dataset[i], records()[i])
    assert dataset.manifest["counts"]["units"] == sum(r.n_units for r in records())
    dataset.verify()


def test_the_world_is_a_source_without_files() -> None:
    source = WorldSource(WORLD, TOKENIZER, LAYOUT, 3, first_seed=1)
    assert same(source[2], records()[3])


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_record_once_an_epoch_whoever_reads(dataset: Dataset, processes: int) -> None:
    epochs, per_record = 6, 2
    n = N * per_record
    parts = [taken(dataset, epochs * n // processes, (p, processes), per_record) for p in range(processes)]
    stream = [parts[i % processes][i // processes] for i in range(epochs * n)]
    orders = [tuple(stream[i * n : (i + 1) * n]) for i in range(epochs)]
    assert all(sorted(seed for seed, _ in order) == sorted([*range(N)] * per_record) for order in orders)
    assert all(set(order) == set(orders[0]) and len(set(order)) == n for order in orders)  # a sample is always the same
    assert len(set(orders)) == epochs  # each epoch in an order of its own
    assert stream == taken(dataset, epochs * n, per_record=per_record)


@pytest.mark.parametrize("after", [0, 1, 4, 11])
def test_batches_go_on_from_a_state_to_the_bit(dataset: Dataset, after: int) -> None:
    settings = (Samples(dataset, session_window(5, LAYOUT, latents=False), 3), 2, 9)
    stream = batches(*settings)
    for _ in range(after):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    expected = [next(stream) for _ in range(6)]
    resumed = batches(*settings)
    resumed.set_state(state)
    for batch in expected:
        again = next(resumed)
        assert batch.keys() == again.keys()
        assert all(np.array_equal(batch[name], again[name]) for name in batch)


def test_another_seed_is_another_stream(dataset: Dataset) -> None:
    assert taken(dataset, N) != taken(dataset, N, seed=6)


def test_workers_change_nothing(dataset: Dataset) -> None:
    assert taken(dataset, 9, workers=2) == taken(dataset, 9)


def test_the_first_batches_are_whole_and_in_order(dataset: Dataset) -> None:
    samples = Samples(dataset, who, seed=3)
    for n_batches, expected in ((2, [[0, 1, 2], [3, 4, 5]]), (9, [[0, 1, 2], [3, 4, 5]]), (1, [[0, 1, 2]])):
        assert [x["seed"].tolist() for x in first_batches(samples, 3, n_batches)] == expected
    assert [x["seed"].tolist() for x in first_batches(samples, 4, 1, process=(1, 2))] == [[2, 3]]


def test_held_out_samples_are_always_the_same(dataset: Dataset) -> None:
    samples = Samples(dataset, video_clip(2), seed=3)
    assert len(samples) == N
    assert np.array_equal(samples[4]["frames"], Samples(dataset, video_clip(2), seed=3)[4]["frames"])


def test_samples_of_one_record_are_drawn_apart(dataset: Dataset) -> None:
    samples, n = Samples(dataset, video_clip(1), seed=3, per_record=6), len(dataset)
    assert len(samples) == 6 * n
    of_one = [samples[k]["frames"] for k in range(2, len(samples), n)]
    assert len(of_one) == 6
    assert any(not np.array_equal(of_one[0], x) for x in of_one[1:])


@pytest.mark.parametrize("where", [0.05, 0.25, 0.5, 0.65])  # what comes later is padding
def test_a_damaged_record_is_named_and_costs_itself_only(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], where: float
) -> None:
    dataset = damage(write_dataset(tmp_path / "set", shard_bytes=1), 2, where)
    with pytest.raises(
        DamagedRecordError, match=r"data-00002.array_record: record train-00000002, unit 0, item \d: Corrupted"
    ):
        who(dataset[2], np.random.default_rng(0))
    with pytest.raises(DataError, match=r"data-00002.array_record: its sha256"):
        dataset.verify()
    seeds = [seed for seed, _ in taken(dataset, 2 * N)]
    assert sorted(seeds) == sorted([0, 1, 3, 3, 4, 5, 6] * 2)  # the next one takes its place
    assert Samples(dataset, who, seed=0)[2]["seed"] == 3
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.startswith("record left out (1, at most 100): ")
    assert "data-00002.array_record: record train-00000002" in said


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_left_out_goes_with_the_state(tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int) -> None:
    """It is known when the sample comes, not when it is made ahead, and not told again behind it."""
    dataset = damage(write_dataset(tmp_path / "set", shard_bytes=1), 2)
    samples = Samples(dataset, who, seed=1)
    stream, again = (batches(samples, 1, seed=5, workers=workers) for _ in range(2))
    order = [seed for seed, _ in taken(WorldSource(WORLD, TOKENIZER, LAYOUT, N), N)]
    known = []
    for _ in range(N):
        next(stream)
        known.append(len(stream.left_out))
    assert known == [int(2 in order[: i + 1]) for i in range(N)]
    state = json.loads(json.dumps(stream.get_state()))
    capfd.readouterr()
    again.set_state(state)
    rest = [[next(x)["drawn"].tolist() for _ in range(N)] for x in (stream, again)]
    assert rest[0] == rest[1]
    assert again.left_out == stream.left_out
    assert list(again.left_out) == [2] and "record train-00000002" in again.left_out[2]
    assert capfd.readouterr().err == ""
    for x in (stream, again):
        x.close()


@pytest.mark.parametrize("left_out", [None, LeftOut(0, "a: b c"), LeftOut(10**9, "é" * 999)])
def test_a_note_is_as_many_bytes_and_back(left_out: LeftOut | None) -> None:
    assert write_note(left_out).shape == write_note(None).shape
    found = read_note(write_note(left_out))
    assert found == (left_out and left_out._replace(reason=found.reason))
    assert left_out is None or (left_out.reason.startswith(found.reason) and len(found.reason) > 5)


class Broken:
    """Samples, one of which cannot be made."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if index == 3:
            raise KeyError("colour")
        return {"x": np.zeros(2)}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_raises_is_one_sentence(workers: int) -> None:
    stream = batches(Broken(), 1, seed=0, workers=workers)
    with pytest.raises(InputError, match=r"no more samples can be made: KeyError: 'colour'"):
        list(itertools.islice(stream, 8))
    stream.close()


def test_too_much_damage_stops(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", shard_bytes=1)
    for shard in (1, 3):
        dataset = damage(dataset, shard)
    with pytest.raises(
        InputError, match=r"2 records cannot be read, more than may be left out \(1\); the last: .*array_record"
    ):
        taken(dataset, 3 * N, most_left_out=1)
    assert len(taken(dataset, 3 * N, most_left_out=2)) == 3 * N
    for shard in range(N):
        dataset = dataset if shard in (1, 3) else damage(dataset, shard)
    with pytest.raises(DamagedRecordError, match=r"none of 7 records can be read: .*record train-00000003"):
        Samples(dataset, who, seed=0)[3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: (d / "dataset.json").unlink(), "is missing: this is no dataset"),
        (lambda d: (d / "dataset.json").write_text("{"), "cannot be read"),
        (lambda d: (d / "dataset.json").write_text("{}"), "is no manifest of a dataset"),
        (lambda d: (d / "data-00000.array_record").unlink(), "data-00000.array_record: is missing"),
        (lambda d: (d / "data-00001.array_record").write_bytes(b""), "has 0 bytes, not"),
    ],
)
def test_a_directory_that_is_no_dataset_is_refused(tmp_path: Path, change, said: str) -> None:
    write_dataset(tmp_path / "set")
    change(tmp_path / "set")
    with pytest.raises(DataError, match=said):
        Dataset(tmp_path / "set")


def test_records_of_another_layout_are_refused(dataset: Dataset) -> None:
    dataset.check_fits(LAYOUT)
    other = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, max_user=9))
    with pytest.raises(DataError, match="max_user_text is 3, not 9; prepare it again"):
        dataset.check_fits(Layout.of(other, TOKENIZER))


def test_nothing_to_read_and_processes_that_are_none(dataset: Dataset) -> None:
    samples = Samples(dataset, who, seed=0)
    with pytest.raises(ValueError, match="no samples"):
        batches(Samples(WorldSource(WORLD, TOKENIZER, LAYOUT, 0), who, seed=0), 1, 0)
    with pytest.raises(ValueError, match="process 2 of 2"):
        batches(samples, 2, 0, process=(2, 2))
    with pytest.raises(ValueError, match="batch 3 does not divide by 2 processes"):
        batches(samples, 3, 0, process=(0, 2))


# ---- What is taken from a record


def window(record: Record, n_units: int, seed: int = 0, *, latents: bool = False) -> dict[str, np.ndarray]:
    return session_window(n_units, LAYOUT, latents=latents)(record, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_a_window_is_the_record_from_its_first_unit_on(seed: int) -> None:
    record, n = with_latents(records()[1])._replace(first_unit=40), 6
    for latents in (False, True):
        sample = window(record, n, seed, latents=latents)
        start = int(sample["first_unit"]) - 40
        names = ["user_frames", "user_text", "n_user_text", "agent_text", "n_agent_text", "heard", "n_heard"]
        assert sample["unit_mask"].all()
        for name in names + ([] if latents else ["agent_frames"]):
            assert np.array_equal(sample[name], getattr(record, name)[start : start + n])
        assert np.array_equal(to_int16(sample["user_samples"]), record.user_samples[start : start + n])
        if latents:
            expected = record.latents.video_mean[start : start + n].astype(np.float32)
            assert np.array_equal(sample["video_mean"], expected)
        else:
            before = record.agent_frames[start - 1, -1] if start else record.frame_before
            assert np.array_equal(sample["frame_before"], before)


def test_a_window_longer_than_the_record_says_what_is_real() -> None:
    record = records()[2]
    sample = window(record, record.n_units + 4)
    assert sample["unit_mask"].sum() == record.n_units
    assert sample["unit_mask"][: record.n_units].all()
    assert not sample["n_agent_text"][record.n_units :].any()
    assert not sample["user_frames"][record.n_units :].any()


def test_a_window_has_the_world_and_what_streams_there_are() -> None:
    record = records()[0]
    streams = record.streams._replace(user_video=False, heard=False)
    sample = window(record._replace(streams=streams), 3)
    assert np.array_equal(sample["persona"][: sample["n_persona"]], record.persona)
    n_samples = int(sample["n_voice"]) * 1920
    assert np.array_equal(to_int16(sample["voice"][:n_samples]), record.voice)
    assert not sample["has_user_video"]
    assert not sample["has_heard"]
    assert sample["has_agent_audio"]


def test_latents_that_were_not_prepared_are_asked_for() -> None:
    with pytest.raises(ValueError, match="prepare with --agent"):
        window(records()[0], 3, latents=True)


@pytest.mark.parametrize("seed", range(4))
def test_a_video_clip_is_a_frame_and_the_units_after_it(seed: int) -> None:
    record = records()[0]
    sample = video_clip(3)(record, np.random.default_rng(seed))
    film = np.concatenate([record.frame_before[None], record.agent_frames.reshape(-1, *record.portrait.shape)])
    starts = range(0, len(film) - 3 * FRAMES_PER_UNIT, FRAMES_PER_UNIT)
    assert any(np.array_equal(sample["frames"], film[s : s + 1 + 3 * FRAMES_PER_UNIT]) for s in starts)
    assert sample["unit_mask"].all()


@pytest.mark.parametrize("n_samples", [960, 5000, 10**6])
def test_an_audio_clip_is_some_of_the_sound(n_samples: int) -> None:
    record = records()[0]
    sample = audio_clip(n_samples)(record, np.random.default_rng(1))
    n = int(sample["n_samples"])
    assert n == min(n_samples, record.agent_samples.size)
    assert len(sample["samples"]) == n_samples
    found = to_int16(sample["samples"][:n])
    whole = record.agent_samples.reshape(-1)
    assert any(np.array_equal(whole[s : s + n], found) for s in range(len(whole) - n + 1))
    assert not sample["samples"][n:].any()
