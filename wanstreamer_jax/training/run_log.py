"""What a run says: metrics as JSON lines, a bar on stderr, TensorBoard on request."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.hosts import is_primary
from wanstreamer_jax.training.stage import Metrics

Numbers = Mapping[str, float | None]  # none: not finite, or nothing to measure it on
MOST_SKIPPED = 10  # updates in a row


class Counts(NamedTuple):
    """What a run has used so far."""

    step: int
    seconds: float
    waited_s: float  # of these, for samples
    flops: int


def finite(value: float) -> float | None:
    """A number as JSON has it, which knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None


class Lines:
    """`metrics.jsonl`: one line a step, whatever happened in between."""

    def __init__(self, path: Path, step: int):
        """Open it after step `step`; lines of later steps, which will be taken again, are dropped."""
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step]
        scratch = path.with_name(path.name + ".part")
        scratch.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        scratch.replace(path)
        self._path, self._file = path, path.open("a", encoding="utf-8")

    def write(self, step: int, numbers: Numbers) -> None:
        """Append a step's line; TrainingError when the disk is full."""
        try:
            self._file.write(json.dumps({"step": step} | dict(numbers), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self._path}: cannot be written ({error.strerror}): make room, then resume"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that may end in the middle of one."""
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]


class Curves:
    """TensorBoard's view of the same numbers."""

    def __init__(self, folder: Path, step: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise TrainingError("--tensorboard needs tensorboardX: pip install 'wanstreamer-jax[train]'") from error
        # A file is named after the second in which it is begun: two runs of one second would share one.
        self._writer = SummaryWriter(str(folder), purge_step=step + 1, filename_suffix=f".{time.time_ns()}")

    def write(self, step: int, numbers: Numbers) -> None:
        """Add what a step has."""
        for name, value in numbers.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Speed:
    """How fast a run is, over the time since it was last asked."""

    def __init__(self, peak_flops: float, unit: str, units_per_step: float):
        self._peak, self._unit, self._units = peak_flops, unit, units_per_step
        self.last: Counts | None = None

    def since(self, now: Counts) -> dict[str, float]:
        """Units and steps a second, share of the machine's peak, share of the time spent waiting for samples."""
        before, self.last = self.last, now
        if before is None or now.seconds <= before.seconds:
            return {}
        seconds = now.seconds - before.seconds
        rate = (now.step - before.step) / seconds
        return {
            "steps_per_s": rate,
            f"{self._unit}_per_s": rate * self._units,
            "peak_share": (now.flops - before.flops) / seconds / self._peak,
            "waiting_share": (now.waited_s - before.waited_s) / seconds,
        }


class RunLog:
    """All of it. Arrays are read a step late, so that a step never waits for its own numbers."""

    def __init__(self, workdir: Path, step: int, total: int, trainee: str, *, tensorboard: bool):
        """Open the files of a run after step `step`; the bar shows the loss of `trainee`.

        On other hosts than the first nothing is written.
        """
        self._lines = Lines(workdir / "metrics.jsonl", step) if is_primary() else None
        self._measures = Lines(workdir / "measures.jsonl", step) if is_primary() else None
        self._curves = Curves(workdir / "tensorboard", step) if tensorboard and is_primary() else None
        self._bar = tqdm(
            total=total,
            initial=step,
            desc=trainee,
            unit="step",
            file=sys.stderr,
            disable=not is_primary(),
            mininterval=1,
        )
        self._pending: tuple[int, Metrics] | None = None
        self._trainee, self._loss = trainee, math.nan

    def add(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step, and write those of the one before."""
        self.flush()
        self._pending = step, metrics

    def flush(self) -> None:
        """Write what is pending.

        Raises:
            TrainingError: too many updates in a row were left out, or the disk is full.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        numbers = {name: float(value) for name, value in metrics.items()}
        written = {name: finite(value) for name, value in numbers.items()}
        if self._lines:
            self._lines.write(step, written)
        if self._curves:
            self._curves.write(step, written)
        self._loss = numbers.get(f"{self._trainee}/loss", self._loss)
        for name, value in numbers.items():
            if name.endswith("/skipped_in_a_row") and value >= MOST_SKIPPED:
                raise TrainingError(
                    f"step {step}: {int(value)} updates of {name.split('/')[0]} in a row were not finite: the last "
                    "checkpoint is from before; lower --optimizer.learning_rate, or look at the data"
                )

    def show(self, step: int, speed: Mapping[str, float], n_left_out: int) -> None:
        """Move the bar to a step; records that were left out are shown when there are any."""
        values = {"loss": f"{self._loss:.4f}"} | {
            name: f"{100 * value:.0f}%" if name.endswith("share") else f"{value:.3g}"
            for name, value in speed.items()
            if name != "steps_per_s"
        }
        if n_left_out:
            values["left_out"] = str(n_left_out)
        self._bar.set_postfix(values, refresh=False)
        self._bar.update(step - self._bar.n)

    def measured(self, step: int, measures: Numbers) -> None:
        """Write measures of held-out data."""
        if self._measures:
            self._measures.write(step, measures)
        if self._curves:
            self._curves.write(step, {f"heldout/{name}": value for name, value in measures.items()})

    def close(self) -> None:
        """Close all files; what is pending is lost."""
        for part in (self._lines, self._measures, self._curves, self._bar):
            if part is not None:
                part.close()
