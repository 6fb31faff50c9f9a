"""Where an evaluation goes: a folder with report, plots and films, or a report alone; whole or not at all."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from wanstreamer_jax.agent import verify
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.world import Session
from wanstreamer_jax.evaluation.drift import by_minute, drifts
from wanstreamer_jax.evaluation.figures import measure
from wanstreamer_jax.evaluation.films import write_both
from wanstreamer_jax.evaluation.floor import Did, Should
from wanstreamer_jax.evaluation.layouts import LAYOUTS
from wanstreamer_jax.evaluation.lips import mean_curve
from wanstreamer_jax.evaluation.lived import Lived
from wanstreamer_jax.evaluation.plots import draw_plots
from wanstreamer_jax.evaluation.report import Found, Report, Settings, markdown
from wanstreamer_jax.evaluation.run import Job, Keep, Results, name_of
from wanstreamer_jax.evaluation.score import Overlapped, Score
from wanstreamer_jax.files import check_replaceable, pending_directory
from wanstreamer_jax.media.output import PendingFile

REPORT, TABLE = "report.json", "report.md"
_DIGITS = 4


class Places(NamedTuple):
    """What is written, and where."""

    output: Path  # a folder, or a .json file for the report alone
    overwrite: bool = False
    keep: int = 0  # sessions as films, in the folder
    layouts: Sequence[tuple[str, Path]] = ()  # of `LAYOUTS`, and a folder each

    @property
    def is_file(self) -> bool:
        """The report alone."""
        return self.output.suffix == ".json"


class Output:
    """Takes sessions as they are lived, and a report at the end."""

    def __init__(self, file: PendingFile | None, folder: Path | None, keep: list[Keep]):
        self.keep = keep
        self._file, self._folder = file, folder

    def write(self, report: Report) -> None:
        """Write the report and what goes with it."""
        if self._file:
            self._file.part.write_text(report.to_json(), encoding="utf-8")
            self._file.commit()
        if self._folder:
            (self._folder / REPORT).write_text(report.to_json(), encoding="utf-8")
            (self._folder / TABLE).write_text(markdown(report), encoding="utf-8")
            draw_plots(report, self._folder)


@contextmanager
def open_output(places: Places) -> Iterator[Output]:
    """All places, checked before anything is run; they appear when the block ends without an error.

    Raises:
        ValueError: one is taken, or cannot be written, or the options disagree.
    """
    if places.is_file and places.keep:
        raise ValueError(f"--keep writes films into a folder, and --output {places.output} is a file")
    with ExitStack() as stack:
        keep = [_into_layout(stack, name, folder) for name, folder in places.layouts]
        if places.is_file:
            file = stack.enter_context(PendingFile(places.output))
            yield Output(file, None, keep)
            return
        check_replaceable(places.output, REPORT, overwrite=places.overwrite)
        fresh = stack.enter_context(pending_directory(places.output))
        yield Output(None, fresh, [*keep, _films(fresh, places.keep)])


def _into_layout(stack: ExitStack, name: str, folder: Path) -> Keep:
    if folder.exists():
        raise ValueError(f"{folder}: exists already; choose another place for {name}")
    fresh = stack.enter_context(pending_directory(folder))

    def keep(session: Session, lived: Lived) -> None:
        LAYOUTS[name](fresh, session, lived)

    return keep


def _films(folder: Path, n_most: int) -> Keep:
    numbers = itertools.count()

    def keep(session: Session, lived: Lived) -> None:
        if next(numbers) < n_most:
            write_both(folder / f"{name_of(session)}.mp4", session, lived)

    return keep


def make_report(agent: Path, config: Config, job: Job, results: Results) -> Report:
    """What was found, of which agent and how."""
    settings = Settings(
        agent=agent.resolve().name,
        agent_sha256=verify(agent)["sha256"],
        sessions=job.sessions,
        seconds=job.seconds,
        seed=job.seed,
        batch=job.batch,
        solver_steps=config.flow.solver_steps,
        long_minutes=job.long_minutes,
        long_runs=job.long_runs if job.long_minutes else 0,
    )
    found = {name: _found(scores, results.long[name]) for name, scores in results.scores.items()}
    return Report(settings, results.failures, found)


def _found(scores: Sequence[Score], long: Sequence[Sequence[Score]]) -> Found:
    overlaps = [overlap for score in scores for overlap in score.overlaps]
    curve = mean_curve([score.sync for score in scores if score.sync is not None])
    minutes = by_minute(long) if long else []
    return Found(
        figures=measure(scores),
        yield_hold={should: {did: overlaps.count(Overlapped(should, did)) for did in Did} for should in Should},
        latencies_ms=[ms for score in scores for ms in score.spoken_latencies_ms],
        sync_curve=None if curve is None else [round(float(c), _DIGITS) for c in curve],
        minutes=minutes,
        drifts=drifts(minutes) if minutes else {},
    )
