"""Batches for training, through grain (an extra, imported here alone).

The stream of samples is one, whoever reads it: epoch after epoch a new order of all records, from which process p
of P takes the samples p, p + P, ... and what is random about a sample depends on its place in the stream only. So
every record is taken exactly once an epoch, by however many processes and workers, and the iterator's state is a
few numbers. A damaged record is left out, and the next one takes its place, so that all processes make as many
batches as the others.
"""

import sys
import threading
from typing import Any, Protocol, runtime_checkable

import numpy as np

from wanstreamer_jax.data.clips import Sample, Transform
from wanstreamer_jax.data.dataset import DamagedRecordError
from wanstreamer_jax.data.record import Record

MOST_DAMAGED = 100  # records that a process leaves out before it stops
_MISSING = "training data needs grain: pip install 'wanstreamer-jax[train]'"


@runtime_checkable
class RecordSource(Protocol):
    """Records by number: a `Dataset`, a `WorldSource`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Return a record, or raise DamagedRecordError."""


def batches(
    source: RecordSource,
    transform: Transform,
    batch: int,
    seed: int,
    *,
    process: tuple[int, int] = (0, 1),
    workers: int = 0,
    most_damaged: int = MOST_DAMAGED,
) -> Any:
    """Return an endless iterator (grain's DatasetIterator) of dictionaries of arrays [B, ...].

    Its `get_state()` is a small tree of numbers; after `set_state` of it, on an iterator of the same arguments, the
    same batches follow to the bit. `close()` it: with workers, a program that ends with one open complains.

    Args:
        source: where records come from.
        transform: what is taken from each, one of `clips`.
        batch: samples a batch, of this process.
        seed: of the order and of what `transform` draws.
        process: this process and how many there are, each taking its share.
        workers: processes that read ahead; 0 reads ahead in threads.
        most_damaged: damaged records are left out, each named on stderr; this many, in each process and worker, and
            the next one is a RuntimeError.

    Raises:
        ValueError: there is nothing to read, or no such process.
        RuntimeError: grain is not installed.
    """
    index, count = process
    if len(source) == 0:
        raise ValueError("no records to read")
    if not 0 <= index < count:
        raise ValueError(f"process {index} of {count}: there is no such process")
    grain = _grain()
    stream = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    samples = stream.random_map(_Take(source, transform, most_damaged))
    mine = samples[index::count].to_iter_dataset(grain.ReadOptions(num_threads=2))
    if workers:
        # Before batching: a batch is then made of the same samples however many workers there are.
        mine = mine.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(mine.batch(batch))


class _Take:
    """A sample of a record by its number; of the next record where that one is damaged, up to a limit."""

    def __init__(self, source: RecordSource, transform: Transform, most_damaged: int) -> None:
        self._source, self._transform = source, transform
        self._most_damaged = most_damaged
        self._damaged: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, index: int, rng: np.random.Generator) -> Sample:
        while True:
            try:
                return self._transform(self._source[index], rng)
            except DamagedRecordError as error:
                self._note(index, error)
            index = (index + 1) % len(self._source)

    def _note(self, index: int, error: DamagedRecordError) -> None:
        with self._lock:
            is_new = index not in self._damaged
            self._damaged.add(index)
            n = len(self._damaged)
        if n > min(self._most_damaged, len(self._source) - 1):
            reason = f"{n} of {len(self._source)} records are damaged, more than may be left out; the last: {error}"
            raise RuntimeError(reason) from error
        if is_new:
            print(f"damaged record {n} of at most {self._most_damaged} left out: {error}", file=sys.stderr)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which has a lock of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock = threading.Lock()


class Samples:
    """Samples by number, each always the same: `per_record` of every record, those of one record far apart."""

    def __init__(self, source: RecordSource, transform: Transform, seed: int, per_record: int = 1) -> None:
        """Take samples as `batches` does, with `seed` and a sample's number for what is drawn."""
        self._take, self._n_records, self._seed = _Take(source, transform, MOST_DAMAGED), len(source), seed
        self._per_record = per_record

    def __len__(self) -> int:
        return self._n_records * self._per_record

    def __getitem__(self, index: int) -> Sample:
        """Take sample `index`."""
        return self._take(int(index) % self._n_records, np.random.default_rng((self._seed, int(index))))


def _grain() -> Any:
    try:
        import grain
        from absl import flags
    except ImportError as error:
        raise RuntimeError(_MISSING) from error
    if not flags.FLAGS.is_parsed():  # grain asks for its flags, also in programs that have none
        flags.FLAGS.mark_as_parsed()
    return grain
