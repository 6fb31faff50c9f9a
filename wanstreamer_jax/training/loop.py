"""A run: from a preset to a trained agent, through whatever ends the program in between.

workdir/  config.json     what is trained, and how
          checkpoints/    `wanstreamer_jax.training.checkpoints`
          metrics.jsonl   a line a step             measures.jsonl   a line every `measure_every` steps
          samples/        pictures and films        summary.json     measures, gates, speed, at the end
          agent/          the trained agent         tensorboard/     on request
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from wanstreamer_jax.signals import Signals
from wanstreamer_jax.training.checkpoints import Checkpoints, read_about, write_json
from wanstreamer_jax.training.compiled import Compiled
from wanstreamer_jax.training.config import Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.evaluation import Evaluation, judge, scalars
from wanstreamer_jax.training.hosts import any_host, is_primary
from wanstreamer_jax.training.input import Fed, Feed, endless_batches
from wanstreamer_jax.training.origin import Origin, leave_agent
from wanstreamer_jax.training.run_log import Counts, Numbers, RunLog, Speed
from wanstreamer_jax.training.sharding import batch_sharding, check_batch, fetch, make_mesh
from wanstreamer_jax.training.stage import Stage
from wanstreamer_jax.training.step import Program, best_trees
from wanstreamer_jax.training.workdir_lock import WorkdirLock

SAME_ORDER = ("seed", "batch", "samples", "workers", "weights")  # settings that say which sample comes when


@dataclasses.dataclass(frozen=True)
class Job:
    """What a run is asked to do."""

    stage: Stage
    training: Training
    origin: Origin
    workdir: Path
    data: Path | None = None  # prepared recordings; none: the synthetic world
    export: Path | None = None  # where the trained agent goes; none: into the workdir
    tensorboard: bool = False

    @property
    def leaving(self) -> Path:
        """Where the trained agent goes."""
        return self.export or self.workdir / "agent"

    def about(self) -> dict[str, Any]:
        """What is trained, and how, in JSON's types."""
        about = {
            "stage": self.stage.name,
            "origin": str(self.origin),
            "data": None if self.data is None else str(self.data.absolute()),
            "agent": dataclasses.asdict(self.origin.config),
            "training": dataclasses.asdict(self.training),
        }
        return json.loads(json.dumps(about))


def train(job: Job) -> bool:
    """Train to the last step, or until SIGTERM or Ctrl-C; returns whether the last step was reached.

    Raises:
        TrainingError: it cannot start or go on, or another run has its workdir. What was saved is whole.
        InputError: there are no more samples. What was saved is whole.
    """
    job.origin.check_leaving(job.leaving)
    lock = WorkdirLock(job.workdir) if is_primary() else nullcontext()
    with Signals() as signals, lock, Run(job) as run:
        run.go_on(lambda: signals.received is not None)
        if run.step < job.training.steps:
            return False
        run.conclude()
        return True


class Run(AbstractContextManager["Run"]):
    """A run under way: begun, or taken up from its newest checkpoint.

    Attributes:
        step: steps taken.
        state: what they have made of the trainees.
    """

    def __init__(self, job: Job):
        stage, training, config = job.stage, job.training, job.origin.config
        mesh = make_mesh(training.mesh)
        check_batch(training, mesh, stage.batch_axes)
        self._job, self._about = job, job.about()
        self._program = Program(stage, config, training, mesh)
        source = stage.source(config, training, False, job.data)
        self._feed = Feed(endless_batches(source, training), batch_sharding(mesh, stage.batch_axes))
        self._checkpoints = Checkpoints(job.workdir / "checkpoints", training.keep)
        self._begin()
        self._evaluation: Evaluation | None = None
        trainee = self._program.objectives[0].trainee
        self._log = RunLog(job.workdir, self.step, training.steps, trainee, tensorboard=job.tensorboard)
        units = stage.units_per_sample(config, training) * training.batch
        self._speed = Speed(self._compiled.peak_flops, stage.unit, units)
        self._since_start = Speed(self._compiled.peak_flops, stage.unit, units)

    def _begin(self) -> None:
        """From the newest checkpoint, or from the origin's parameters."""
        stage, program = self._job.stage, self._program
        newest = self._checkpoints.newest()
        if newest is not None:
            check_same_run(newest, self._about)
        parts = self._job.origin.params(stage.parts + stage.frozen, program.mesh)
        self._frozen = {name: parts[name] for name in stage.frozen}
        shapes = jax.eval_shape(program.init, parts)
        shardings = program.shardings(shapes)
        if newest is None:
            self.state = jax.jit(program.init, out_shardings=shardings)(parts)
        else:
            like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
            self.state, input_state = self._checkpoints.restore(newest, like)
            self._feed.resume(input_state)
        self._compiled = Compiled(program, shardings)
        self.step = int(self.state.step)
        self._saved_s = time.monotonic()

    # ---- Steps

    def go_on(self, asked_to_stop: Callable[[], bool]) -> None:
        """Take steps until the last one, or until it is asked to stop; then save."""
        training, stop = self._job.training, False
        while self.step < training.steps and not stop:
            fed = self.take_step()
            self._checkpoints.check()
            stop, due = self._agree(asked_to_stop)
            if stop or due or self.step == training.steps:
                self._save(fed)
            self._look()
        self._checkpoints.wait()

    def take_step(self) -> Fed:
        """One step; returns what it was fed. It may still be under way."""
        fed = next(self._feed)
        self.state, metrics = self._compiled.step(self.step, self.state, self._frozen, fed.batch)
        self.step += 1
        self._log.add(self.step, metrics)
        return fed

    def _agree(self, asked_to_stop: Callable[[], bool]) -> tuple[bool, ...]:
        """Whether to stop, and whether to save: the same on all hosts, so that they meet now and then only."""
        if jax.process_count() > 1 and self.step % self._job.training.log_every:
            return False, False
        due = time.monotonic() - self._saved_s >= self._job.training.save_every_s
        return any_host(asked_to_stop(), due and is_primary())

    def _save(self, fed: Fed) -> None:
        self._log.flush()
        self._checkpoints.save(self.state, fed.input_state, self._about)
        self._saved_s = time.monotonic()

    def _look(self) -> None:
        """What is due after a step: the bar, measures, pictures."""
        training, step = self._job.training, self.step
        if step % training.log_every == 0:
            if self._since_start.last is None:
                self._since_start.since(self.counts())
            self._log.show(step, self._speed.since(self.counts()), len(self._feed.left_out))
        if step % training.measure_every == 0 and step < training.steps:
            self._log.measured(step, scalars(self._heldout().measure(self.state)))
        if step % training.preview_every == 0 and step < training.steps:
            self._heldout().draw(self.state, self._job.workdir / "samples" / f"step_{step:08d}")

    def counts(self) -> Counts:
        """What it has used so far."""
        return Counts(self.step, time.monotonic(), self._feed.waited_s, self._compiled.flops)

    def _heldout(self) -> Evaluation:
        if self._evaluation is None:
            job = self._job
            source = job.stage.source(job.origin.config, job.training, True, job.data)
            self._evaluation = Evaluation(self._program, self._frozen, source)
        return self._evaluation

    # ---- The end

    def conclude(self) -> None:
        """Measure, judge, draw; write the summary and the trained agent."""
        job = self._job
        measured = self._heldout().measure(self.state)
        self._heldout().draw(self.state, job.workdir / "samples" / f"step_{self.step:08d}")
        measures = scalars(measured)
        self._log.measured(self.step, measures)
        verdicts = judge(job.training.gates, measures)
        summary = {
            "stage": job.stage.name,
            "steps": self.step,
            "measures": measures,
            "gates": verdicts,
            "passed": all(verdict["passed"] for verdict in verdicts),
            "skipped": {name: int(skips.total) for name, skips in self.state.skips.items()},
            "left_out": self._feed.left_out + self._heldout().left_out,
            "speed": self._since_start.since(self.counts()),
        }
        trees = fetch(best_trees(self.state), self._program.mesh)
        if is_primary():
            write_json(job.workdir / "summary.json", summary)
            finished = job.stage.finish(job.origin.config, trees, measured)
            leave_agent(job.origin, finished, job.stage.name, summary, job.leaving)
        for verdict in verdicts:
            print(_sentence(verdict, measures), file=sys.stderr)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all files, and end what runs beside."""
        self._feed.close()
        self._log.close()
        self._checkpoints.close()


def check_same_run(checkpoint: Path, about: dict[str, Any]) -> None:
    """Raise TrainingError when a checkpoint is of another run than this one."""
    saved = read_about(checkpoint)
    for name in ("stage", "origin", "data", "agent"):
        _check_same(checkpoint, name, saved.get(name), about[name])
    for name in SAME_ORDER:
        _check_same(checkpoint, f"training.{name}", saved["training"].get(name), about["training"][name])


def _check_same(checkpoint: Path, name: str, saved: Any, now: Any) -> None:
    if isinstance(saved, dict) and isinstance(now, dict):
        for field in sorted(saved.keys() | now.keys()):
            _check_same(checkpoint, f"{name}.{field}", saved.get(field), now.get(field))
    elif saved != now:
        raise TrainingError(
            f"{checkpoint}: is of another run, with {name} {saved} where this one has {now}: name another --workdir"
        )


def _sentence(verdict: dict[str, Any], measures: Numbers) -> str:
    if verdict["measure"] not in measures:
        return f"gate NOT reached: nothing measures {verdict['measure']!r}; there are {', '.join(measures)}"
    limit = " and ".join(
        f"{name.replace('_', ' ')} {verdict[name]}" for name in ("at_least", "at_most") if name in verdict
    )
    outcome, value = "reached" if verdict["passed"] else "NOT reached", verdict["value"]
    found = "has no finite value on the held-out data" if value is None else f"is {value:.4g}"
    return f"gate {outcome}: {verdict['measure']} {found}, should be {limit}"
