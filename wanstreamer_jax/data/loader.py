"""Batches of samples, through grain (an extra, imported here alone).

The stream of samples is one, whoever reads it: epoch after epoch a new order of all samples, every one exactly once.
Of every batch each process has its share of rows, so that many processes make the batches that one would. Where the
iterator stands is a few numbers.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from wanstreamer_jax.data.clips import Sample
from wanstreamer_jax.data.errors import InputError
from wanstreamer_jax.data.samples import NOTE, LeftOut, read_note

MOST_LEFT_OUT = 100  # records
THREADS, AHEAD = 2, 4  # that make samples, and batches that are ready
_MISSING = "training data needs grain: pip install 'wanstreamer-jax[train]'"


@runtime_checkable
class Source(Protocol):
    """Samples by number: the same number is always the same sample, in whichever process it is made."""

    def __len__(self) -> int:
        """Samples in an epoch."""

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray]:
        """Sample `index`: named arrays, each of the same shape and dtype in every sample."""


class Batches(Iterator[Sample]):
    """Batches as they come: dictionaries of arrays [B, ...] of this process's rows.

    Attributes:
        left_out: reasons of records that cannot be read and were to be in batches so far, by their numbers.
    """

    def __init__(self, batches: Any, most_left_out: int) -> None:
        """Take grain's iterator."""
        self._batches, self._most = batches, most_left_out
        self.left_out: dict[int, str] = {}

    def __next__(self) -> Sample:
        """Give the next batch.

        Raises:
            InputError: a sample cannot be made, the process that makes them has ended, or too many records cannot
                be read.
        """
        try:
            batch = next(self._batches)
        except StopIteration:
            raise
        except Exception as error:  # of whatever kind: it may be anybody's code, in another process
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(f"no more samples can be made: {reason}") from error
        for note in batch.pop(NOTE, ()):
            if left_out := read_note(note):
                self._count(left_out)
        return batch

    def _count(self, found: LeftOut) -> None:
        if found.record in self.left_out:
            return
        self.left_out[found.record] = found.reason
        n = len(self.left_out)
        if n > self._most:
            raise InputError(
                f"{n} records cannot be read, more than may be left out ({self._most}); the last: {found.reason}"
            )
        print(f"record left out ({n}, at most {self._most}): {found.reason}", file=sys.stderr)

    def get_state(self) -> dict[str, Any]:
        """Say where it stands, in JSON's types."""
        left_out = {NOTE: [[*x] for x in self.left_out.items()]} if self.left_out else {}
        return self._batches.get_state() | left_out

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on behind the batch after which `get_state` gave this, on an iterator of the same arguments."""
        self.left_out = dict(state.get(NOTE, []))
        self._batches.set_state({name: value for name, value in state.items() if name != NOTE})

    def close(self) -> None:
        """End the processes that make samples."""
        self._batches.close()


def batches(
    source: Source,
    batch: int,
    seed: int,
    *,
    process: tuple[int, int] = (0, 1),
    workers: int = 0,
    most_left_out: int = MOST_LEFT_OUT,
) -> Batches:
    """Return endless batches, epoch after epoch in another order.

    Args:
        source: the samples.
        batch: samples a batch, of all processes together.
        seed: of the order.
        process: this process and how many there are.
        workers: processes that make samples, in the same order; 0 makes them in threads of this one.
        most_left_out: records that cannot be read are left out, each named on stderr; one more is an InputError.

    Raises:
        ValueError: there are no samples, no such process, or processes that cannot share a batch.
        RuntimeError: grain is not installed.
    """
    grain = _grain()
    samples = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    parts = _parts(source, samples, batch, process).to_iter_dataset(grain.ReadOptions(THREADS, AHEAD))
    if workers:
        parts = parts.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return Batches(iter(parts), most_left_out)


def first_batches(
    source: Source, batch: int, n_batches: int, *, process: tuple[int, int] = (0, 1), most_left_out: int = MOST_LEFT_OUT
) -> Batches:
    """Return the first whole batches in the order of the source, always the same; arguments are those of `batches`."""
    grain = _grain()
    parts = _parts(source, grain.MapDataset.source(source), batch, process)[:n_batches]
    return Batches(iter(parts.to_iter_dataset(grain.ReadOptions(THREADS, AHEAD))), most_left_out)


def _parts(source: Source, samples: Any, batch: int, process: tuple[int, int]) -> Any:
    """This process's rows of every batch."""
    index, count = process
    if len(source) == 0:
        raise ValueError("no samples to read")
    if not 0 <= index < count:
        raise ValueError(f"process {index} of {count}: there is no such process")
    if batch % count:
        raise ValueError(f"batch {batch} does not divide by {count} processes")
    rows = Rows(samples, batch, index, count)
    return _grain().MapDataset.source(rows).batch(rows.n_rows, drop_remainder=True)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The samples of one process: of every `batch` samples in a row, its equal share."""

    samples: Any  # grain's MapDataset
    batch: int
    process: int
    n_processes: int

    @property
    def n_rows(self) -> int:
        """Of each batch."""
        return self.batch // self.n_processes

    def __len__(self) -> int:
        """Samples of all whole batches."""
        return len(self.samples) // self.batch * self.n_rows

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray]:
        """Read one."""
        batch, row = divmod(index, self.n_rows)
        return self.samples[batch * self.batch + self.process * self.n_rows + row]


def _grain() -> Any:
    try:
        import grain
        from absl import flags
    except ImportError as error:
        raise RuntimeError(_MISSING) from error
    if not flags.FLAGS.is_parsed():  # grain asks for its flags, also in programs that have none
        flags.FLAGS.mark_as_parsed()
    return grain
