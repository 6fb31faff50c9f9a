"""Samples of records by number, each always the same. A record that cannot be read is left out, and told.

What was left out goes with the sample that took its place, as an array: samples may be made in other processes, and
whoever reads them then knows it in the order of samples, however far the others are ahead.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from wanstreamer_jax.data.clips import Sample, Transform
from wanstreamer_jax.data.dataset import DamagedRecordError
from wanstreamer_jax.data.record import Record

NOTE = "left_out"  # a sample's array of a `LeftOut`
_NOTE_BYTES = 512


@runtime_checkable
class RecordSource(Protocol):
    """Records by number: a `Dataset`, a `WorldSource`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Return a record, or raise DamagedRecordError."""


class LeftOut(NamedTuple):
    """A record that cannot be read: its number, and a sentence that names it and says why."""

    record: int
    reason: str


class Samples:
    """Samples by number, each always the same: `per_record` of every record, those of one record far apart."""

    def __init__(self, records: RecordSource, transform: Transform, seed: int, per_record: int = 1) -> None:
        """Take what `transform`, one of `clips`, draws by `seed` and a sample's number."""
        self._records, self._transform, self._seed = records, transform, seed
        self._per_record = per_record

    def __len__(self) -> int:
        return len(self._records) * self._per_record

    def __getitem__(self, index: int) -> Sample:
        """Take sample `index`, with a note of what was left out; errors as in `take`."""
        sample, left_out = self.take(index)
        return sample | {NOTE: write_note(left_out)}

    def take(self, index: int) -> tuple[Sample, LeftOut | None]:
        """Take sample `index`; where its record cannot be read, from the next one that can.

        Raises:
            DamagedRecordError: none can.
        """
        n_records, rng = len(self._records), np.random.default_rng((self._seed, int(index)))
        left_out = None
        for more in range(n_records):
            number = (int(index) + more) % n_records
            try:
                return self._transform(self._records[number], rng), left_out
            except DamagedRecordError as error:
                left_out = left_out or LeftOut(number, str(error))
        first = left_out.reason if left_out else "there are none"
        raise DamagedRecordError(f"none of {n_records} records can be read: {first}")


def write_note(left_out: LeftOut | None) -> UInt8[np.ndarray, " n"]:
    """Bytes, always as many."""
    text = f"{left_out.record} {left_out.reason}" if left_out else ""
    return np.frombuffer(text.encode()[:_NOTE_BYTES].ljust(_NOTE_BYTES, b"\0"), np.uint8)


def read_note(note: UInt8[np.ndarray, " n"]) -> LeftOut | None:
    """What `write_note` wrote; of a very long reason the beginning."""
    record, _, reason = bytes(note).rstrip(b"\0").decode(errors="ignore").partition(" ")
    return LeftOut(int(record), reason) if record else None
