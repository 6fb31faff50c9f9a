"""What is wrong with data, said so that a person can go and look."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong: in which file, where in it, and why."""

    file: Path
    reason: str
    line: int | None = None
    time_ms: int | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f", line {self.line}"
        time = "" if self.time_ms is None else f", at {self.time_ms / 1000:.3f} s"
        return f"{self.file}{line}{time}: {self.reason}"


class InputError(ValueError):
    """Batches cannot go on; the message says why in one sentence."""


class DataError(ValueError):
    """Data that cannot be used; the message names every problem on a line of its own."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems: Sequence[Problem] = problems
