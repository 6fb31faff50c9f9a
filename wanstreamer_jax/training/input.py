"""Batches on devices: a run's own, resumable at any step, and the held-out ones."""

import time
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding

from wanstreamer_jax.data.loader import Batches, Source, batches, first_batches
from wanstreamer_jax.training.config import Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.sharding import put_batch
from wanstreamer_jax.training.stage import Batch


class Fed(NamedTuple):
    """A batch on its devices, and where the input stands after it."""

    batch: Batch
    input_state: dict[str, Any]


class Feed:
    """The batches of a run. Each host reads its own part of every batch.

    Attributes:
        waited_s: seconds for which `next` had nothing ready.
    """

    def __init__(self, batches: Batches, sharding: NamedSharding):
        self._batches, self._sharding = batches, sharding
        self.waited_s = 0.0

    def __next__(self) -> Fed:
        """The next batch; errors as of `Batches`."""
        start = time.monotonic()
        batch = next(self._batches)
        self.waited_s += time.monotonic() - start
        return Fed(put_batch(batch, self._sharding), self._batches.get_state())

    @property
    def left_out(self) -> list[str]:
        """Why records were left out, of this host's batches."""
        return list(self._batches.left_out.values())

    def resume(self, input_state: dict[str, Any]) -> None:
        """Go on behind the batch that came with this state."""
        self._batches.set_state(input_state)

    def close(self) -> None:
        """End the processes that make samples."""
        self._batches.close()


def endless_batches(source: Source, training: Training) -> Batches:
    """This host's part of the batches of a run, epoch after epoch in another order.

    Raises:
        TrainingError: the source does not fill a batch.
    """
    return batches(source, training.batch, training.seed, workers=training.workers, **_part(source, training))


def heldout_batches(source: Source, training: Training) -> Batches:
    """This host's part of the first held-out batches, always the same; errors as of `endless_batches`."""
    return first_batches(source, training.batch, training.heldout_batches, **_part(source, training))


def _part(source: Source, training: Training) -> dict[str, Any]:
    """What is this host's, and how much of it may be left out."""
    n, batch = len(source), training.batch
    if n < batch:
        raise TrainingError(f"{n} samples do not fill a batch of {batch}: take a smaller batch or more data")
    return {"process": (jax.process_index(), jax.process_count()), "most_left_out": training.most_left_out}
