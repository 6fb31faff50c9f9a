"""Which task comes when: the shares of a mixture, kept in every stretch."""

import itertools
from collections.abc import Mapping

_STEP, _RANGE = 0x9E3779B97F4A7C15, 2**64  # the golden ratio: multiples of it fill a circle more evenly than any other


class Mixture:
    """A sequence of tasks in which each has its share; sample i is the same task for ever.

    A stretch of n samples has n times a task's share of it, to within a few, from wherever it begins.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Take tasks by their weights; ValueError unless these are at least 0, with one above."""
        if not weights or min(weights.values()) < 0 or sum(weights.values()) == 0:
            raise ValueError(f"mixture: weights {dict(weights)} are not all at least 0, with one above")
        self.tasks = tuple(task for task, weight in weights.items() if weight > 0)
        total = sum(weights.values())
        self._ends = [end / total for end in itertools.accumulate(weights[task] for task in self.tasks)]

    def __getitem__(self, index: int) -> str:
        """Say which task sample `index` is of."""
        place = index * _STEP % _RANGE / _RANGE
        passed = sum(end <= place for end in self._ends[:-1])
        return self.tasks[passed]
