"""Every stage reads prepared recordings where it is given some, and says what does not fit."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests import train_toy as toy
from tests import world_preset
from tests.data_cases import CONFIG as RECORDED
from tests.data_cases import damage, write_dataset
from wanstreamer_jax.data.__main__ import main as data
from wanstreamer_jax.data.errors import InputError
from wanstreamer_jax.data.record import to_float32
from wanstreamer_jax.data.samples import NOTE
from wanstreamer_jax.training.config import AudioVAEWeights, DistillWeights, SessionWeights, Training, VideoVAEWeights
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.loop import Job, Run, train
from wanstreamer_jax.training.origin import Origin
from wanstreamer_jax.training.recordings import PER_RECORD, recorded
from wanstreamer_jax.training.stages import find_stage

N, SECONDS = 3, 3
PRESET = str(Path(world_preset.__file__))
WEIGHTS = {
    "video_vae": VideoVAEWeights(units=2, heldout_units=2, clips=2),
    "audio_vae": AudioVAEWeights(latents=5, clips=3),
    "interact": SessionWeights(units=4),
    "distill": DistillWeights(units=3),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("recordings")
    for split in ("train", "heldout"):
        made = ["--sessions", str(N), "--seconds", str(SECONDS), "--split", split, "--workers", "1"]
        assert data(["world", "--output", str(root / split), *made]) == 0
        to = ["--preset", PRESET, "--output", str(root / "data" / split)]
        assert data(["prepare", "--input", str(root / split), *to]) == 0
    return root / "data"


@pytest.mark.parametrize("name", WEIGHTS)
def test_samples_come_from_the_recordings(prepared, name):
    stage, training = find_stage(name), Training(weights=WEIGHTS[name])
    source, heldout = (stage.source(world_preset.config, training, x, prepared) for x in (False, True))
    assert len(source) == N * PER_RECORD
    made = stage.source(world_preset.config, training, False, None)
    first, again, later, other = source[0], source[0], source[N], heldout[0]
    for like in (made[0], later, other):
        assert shapes_of(like) == shapes_of(first)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert any(not np.array_equal(first[key], later[key]) for key in first)  # another window of the same record
    assert any(not np.array_equal(first[key], other[key]) for key in first)


def shapes_of(sample):
    return {key: (np.shape(x), np.asarray(x).dtype) for key, x in sample.items() if key != NOTE}


@pytest.mark.parametrize("name", WEIGHTS)
def test_recordings_of_another_agent_are_refused(prepared, name):
    config = dataclasses.replace(
        world_preset.config, picture=dataclasses.replace(world_preset.config.picture, width=64)
    )
    with pytest.raises(TrainingError, match=r"agent_picture is .*; prepare it again"):
        find_stage(name).source(config, Training(weights=WEIGHTS[name]), False, prepared)


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(TrainingError, match=r"--data: .*train"):
        find_stage("interact").source(world_preset.config, Training(weights=SessionWeights()), False, tmp_path)


# ---- Recordings that cannot be read


def heard(record, rng):
    """A sample of the toy stage: some of the user's sound and a look at all pictures."""
    sound = to_float32(record.user_samples.reshape(-1)[: toy.WIDTH]) + rng.normal(size=toy.WIDTH).astype(np.float32)
    seen = np.asarray(record.agent_frames).mean() + np.asarray(record.user_frames).mean()
    return {"x": np.float32(sound + seen / 255), "index": np.int32(record.labels["seed"])}


def heard_source(config, training, heldout, data):
    return recorded(config, training, heldout, data, heard)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """Seven recordings of each kind; the third and the fifth for training cannot be read."""
    root = tmp_path_factory.mktemp("damaged")
    for split in ("train", "heldout"):
        dataset = write_dataset(root / split, shard_bytes=1)
        for shard in (2, 4) if split == "train" else ():
            dataset = damage(dataset, shard)
    return root


def damaged_job(workdir: Path, data: Path, **changes) -> Job:
    """Steps that meet the first of the damaged recordings as the third, the other one as the eighth."""
    settings = {"steps": 9, "batch": 2, "seed": 7, "measure_every": 100, "preview_every": 100, "log_every": 1}
    training = dataclasses.replace(toy.TRAINING, **settings | changes)
    stage = dataclasses.replace(toy.stage, source=heard_source)
    return Job(stage, training, Origin(RECORDED, None, 0), workdir, data)


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_recordings_that_cannot_be_read_are_left_out_named_and_counted(damaged, tmp_path, capfd):
    """Also behind an end of the program: the same batches, and nothing is counted twice."""
    assert train(damaged_job(tmp_path / "whole", damaged))
    said = capfd.readouterr().err
    assert "left_out=2" in said  # on the bar
    left_out = json.loads((tmp_path / "whole" / "summary.json").read_text())["left_out"]
    assert len(left_out) == 2
    for reason, name in zip(left_out, ("train-00000004", "train-00000002"), strict=True):
        assert f"record {name}" in reason
        assert said.count(reason) == 1
    with Run(damaged_job(tmp_path / "run", damaged)) as run:
        run.go_on(lambda: run.step >= 5)
    assert left_out[0] in capfd.readouterr().err
    assert train(damaged_job(tmp_path / "run", damaged))
    said = capfd.readouterr().err
    assert [said.count(reason) for reason in left_out] == [0, 1]
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["left_out"] == left_out


def test_too_many_of_them_stop_the_run(damaged, tmp_path):
    job = damaged_job(tmp_path / "run", damaged, most_left_out=1)
    with pytest.raises(InputError, match=r"2 records cannot be read, more than may be left out \(1\); the last: .*rec"):
        train(job)
    with Run(dataclasses.replace(job, training=dataclasses.replace(job.training, most_left_out=2))) as run:
        assert run.step == 7  # what was saved before is there
