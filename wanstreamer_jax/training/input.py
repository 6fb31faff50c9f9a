"""Samples to batches on devices: shuffled by seed, every sample once an epoch, resumable at any step."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import NamedSharding

from wanstreamer_jax.training.config import Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.sharding import put_batch
from wanstreamer_jax.training.stage import Batch, Sample, Source

THREADS, AHEAD = 2, 4  # that prepare samples, and batches that are ready


class Fed(NamedTuple):
    """A batch on its devices, and where the input stands after it."""

    batch: Batch
    input_state: dict[str, Any]


class Feed:
    """The batches of a run. Each host reads its own part of every batch.

    Attributes:
        waited_s: seconds for which `next` had nothing ready.
    """

    def __init__(self, batches: grain.DatasetIterator, sharding: NamedSharding):
        self._batches, self._sharding = batches, sharding
        self.waited_s = 0.0

    def __next__(self) -> Fed:
        """The next batch."""
        start = time.monotonic()
        batch = next(self._batches)
        self.waited_s += time.monotonic() - start
        return Fed(put_batch(batch, self._sharding), self._batches.get_state())

    def resume(self, input_state: dict[str, Any]) -> None:
        """Go on behind the batch that came with this state."""
        self._batches.set_state(input_state)


def endless_batches(source: Source, training: Training) -> grain.DatasetIterator:
    """This host's part of the batches of a run, epoch after epoch in another order.

    Raises:
        TrainingError: the source does not fill a batch.
    """
    _check_size(source, training.batch)
    samples = grain.MapDataset.source(source).seed(training.seed).shuffle().repeat()
    batches = _part(samples, training).to_iter_dataset(
        grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
    )
    if training.workers:
        flags.FLAGS.mark_as_parsed()  # grain asks for flags of programs that absl starts, which this one is not
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=training.workers))
    return iter(batches)


def heldout_batches(source: Source, training: Training) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of the first held-out batches, always the same."""
    _check_size(source, training.batch)
    batches = _part(grain.MapDataset.source(source), training)[: training.heldout_batches]
    yield from batches.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD))


def _part(samples: grain.MapDataset, training: Training) -> grain.MapDataset:
    """This host's rows of every batch: together, hosts make the batches that one alone would."""
    rows = Rows(samples, training.batch, jax.process_index(), jax.process_count())
    return grain.MapDataset.source(rows).batch(rows.n_rows, drop_remainder=True)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The samples of one host: of every `batch` samples in a row, its equal share."""

    samples: grain.MapDataset
    batch: int
    host: int
    n_hosts: int

    @property
    def n_rows(self) -> int:
        """Of each batch."""
        return self.batch // self.n_hosts

    def __len__(self) -> int:
        """Samples of all whole batches."""
        return len(self.samples) // self.batch * self.n_rows

    def __getitem__(self, index: int) -> Sample:
        """Read one."""
        batch, row = divmod(index, self.n_rows)
        return self.samples[batch * self.batch + self.host * self.n_rows + row]


def _check_size(source: Source, batch: int) -> None:
    if len(source) < batch:
        raise TrainingError(f"{len(source)} samples do not fill a batch of {batch}: take a smaller batch or more data")
