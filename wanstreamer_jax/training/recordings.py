"""Prepared recordings as stages read them: `--data` names a folder of two datasets, `train` and `heldout`."""

import dataclasses
from pathlib import Path

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.clips import Transform
from wanstreamer_jax.data.dataset import Dataset
from wanstreamer_jax.data.errors import DataError
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.samples import Samples
from wanstreamer_jax.tokens import byte_tokenizer
from wanstreamer_jax.training.config import Training
from wanstreamer_jax.training.errors import TrainingError

PER_RECORD = 16  # samples of a record in an epoch


def open_dataset(config: Config, data: Path, heldout: bool) -> Dataset:
    """One of the two datasets; it must be of the agent's layout, but for the tokenizer, which is not known here.

    Raises:
        TrainingError: there is none, or it was prepared for another agent.
    """
    try:
        dataset = Dataset(data / ("heldout" if heldout else "train"))
        dataset.check_fits(dataclasses.replace(Layout.of(config, byte_tokenizer()), tokenizer=dataset.layout.tokenizer))
    except DataError as error:
        raise TrainingError(f"--data: {error}") from error
    return dataset


def recorded(config: Config, training: Training, heldout: bool, data: Path, transform: Transform) -> Samples:
    """What `transform` takes from the records of a dataset."""
    return Samples(open_dataset(config, data, heldout), transform, training.seed, PER_RECORD)
