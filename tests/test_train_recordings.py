"""Every stage reads prepared recordings where it is given some, and says what does not fit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests import world_preset
from wanstreamer_jax.data.__main__ import main as data
from wanstreamer_jax.training.config import AudioVAEWeights, DistillWeights, SessionWeights, Training, VideoVAEWeights
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.recordings import PER_RECORD
from wanstreamer_jax.training.stages import find_stage

N, SECONDS = 3, 3
PRESET = str(Path(world_preset.__file__))
WEIGHTS = {
    "video_vae": VideoVAEWeights(units=2, clips=2),
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
    return {key: (np.shape(x), np.asarray(x).dtype) for key, x in sample.items()}


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
