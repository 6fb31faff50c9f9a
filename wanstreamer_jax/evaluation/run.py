"""An evaluation: every session is made, lived by the agent, scored for it and for the baselines, and let go."""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.data.world import Composition, Session, Split, World, make_sessions
from wanstreamer_jax.evaluation.baselines import BASELINES
from wanstreamer_jax.evaluation.closed_loop import ClosedLoop
from wanstreamer_jax.evaluation.drift import MINUTE_S
from wanstreamer_jax.evaluation.lived import Lived
from wanstreamer_jax.evaluation.report import AGENT, WORLD, Failure
from wanstreamer_jax.evaluation.score import Score, failed, score
from wanstreamer_jax.stream.placement import HistoryFullError
from wanstreamer_jax.stream.worker import StepError
from wanstreamer_jax.timeline import UNIT_MS, n_units
from wanstreamer_jax.training.clips import HELDOUT_SEED

# Above those of training and of its held-out batches; so many for each seed of an evaluation.
FIRST_SEED, SEEDS, LONG = HELDOUT_SEED + 2**30, 1_000_000, 500_000
MOST_MINUTES = 1000  # of a long run
MOST_SESSIONS, MOST_RUNS = LONG, (SEEDS - LONG) // MOST_MINUTES

T = TypeVar("T")
Keep = Callable[[Session, Lived], object]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be run."""

    sessions: int = 200
    seconds: float = 20.0  # of a session
    seed: int = 0
    batch: int = 4  # sessions beside each other
    workers: int = 1  # processes that make sessions
    long_minutes: int = 10
    long_runs: int = 4


class Results(NamedTuple):
    """Scores by the name of the agent: of each session, and of each minute of each long run."""

    scores: dict[str, list[Score]]
    long: dict[str, list[list[Score]]]
    failures: list[Failure]


def evaluate(agent: Agent, job: Job, keep: Sequence[Keep] = ()) -> Results:
    """Run all sessions and long runs; each of `keep` is given what the agent did in each session.

    Raises:
        ValueError: the world's persona does not fit the agent.
        RuntimeError: espeak-ng or pocketsphinx is not installed.
    """
    names = (AGENT, *BASELINES)
    results = Results({name: [] for name in names}, {name: [] for name in names}, [])
    units = job.sessions * n_units(job.seconds) + job.long_runs * job.long_minutes * n_units(MINUTE_S)
    with tqdm(total=units, desc="evaluating", unit=f" units of {UNIT_MS} ms", file=sys.stderr) as progress:

        def lived(n_sessions: int) -> None:
            progress.update(n_sessions)

        with ClosedLoop(agent, job.batch, lived) as loop:
            _run_sessions(agent, job, loop, keep, results)
        if job.long_minutes:
            with ClosedLoop(agent, job.long_runs, lived) as loop:
                _run_long(agent, job, loop, results)
    return results


def _run_sessions(agent: Agent, job: Job, loop: ClosedLoop, keep: Sequence[Keep], results: Results) -> None:
    world = dataclasses.replace(heldout(agent), seconds=job.seconds)
    first = FIRST_SEED + job.seed * SEEDS
    n_done = 0
    for sessions in _grouped(make_sessions(range(first, first + job.sessions), world, job.workers), job.batch):
        lived = _lived(loop, sessions, job.seed * SEEDS + n_done)
        n_done += len(sessions)
        for i, session in enumerate(sessions):
            scores = _scored(session, None if isinstance(lived, str) else lived[i])
            for name, found in scores.items():
                results.scores[name].append(found)
            if isinstance(lived, str):
                results.failures.append(Failure(name_of(session), lived))
                continue
            for keeper in keep:
                keeper(session, lived[i])


def _run_long(agent: Agent, job: Job, loop: ClosedLoop, results: Results) -> None:
    """Where a minute could not be run, the rest of the run counts as failed too."""
    for runs in results.long.values():
        runs.extend([] for _ in range(job.long_runs))
    broken: str | None = None
    for minute in range(job.long_minutes):
        sessions = [_minute(agent, job, run, minute) for run in range(job.long_runs)]
        begun_by = job.seed * SEEDS + LONG if minute == 0 else None
        lived = broken or _lived(loop, sessions, begun_by)
        if isinstance(lived, str) and not broken:
            broken = lived
            results.failures.append(Failure(f"long runs, from minute {minute + 1} on", broken))
        for run, session in enumerate(sessions):
            for name, found in _scored(session, None if isinstance(lived, str) else lived[run]).items():
                results.long[name][run].append(found)


def _minute(agent: Agent, job: Job, run: int, minute: int) -> Session:
    """What the user of a long run does in a minute; the agent's picture is of one composition throughout."""
    composition = list(Composition)[run % len(Composition)]
    world = dataclasses.replace(heldout(agent), seconds=MINUTE_S, composition=composition)
    seed = FIRST_SEED + job.seed * SEEDS + LONG + run * MOST_MINUTES + minute
    return next(make_sessions([seed], world))


def heldout(agent: Agent) -> World:
    """The world of held-out sessions, at the sizes of an agent."""
    config = agent.config
    return World(split=Split.HELDOUT, user_picture=config.vision.picture, agent_picture=config.picture)


def name_of(session: Session) -> str:
    """What a session is called."""
    return f"{session.labels.split}-{session.labels.seed}"


def _lived(loop: ClosedLoop, sessions: Sequence[Session], first_seed: int | None) -> list[Lived] | str:
    """What the agent did, or why it could not; without a seed it goes on from where it stands."""
    try:
        if first_seed is not None:
            loop.begin(sessions, first_seed)
        return loop.live(sessions)
    except (StepError, HistoryFullError) as error:
        return str(error)


def _scored(session: Session, lived: Lived | None) -> dict[str, Score]:
    """Scores of all agents; of one that could not be run, failures."""
    baselines = {name: score(session, play(session)) for name, play in BASELINES.items()}
    return {AGENT: score(session, lived) if lived else failed(baselines[WORLD])} | baselines


def _grouped(items: Iterable[T], n: int) -> Iterator[list[T]]:
    iterator = iter(items)
    return iter(functools.partial(_taken, iterator, n), [])


def _taken(iterator: Iterator[T], n: int) -> list[T]:
    return list(itertools.islice(iterator, n))
