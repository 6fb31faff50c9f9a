"""What an evaluation found, as JSON and as a table: the same to the byte for the same agent, seeds and machine."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence

from wanstreamer_jax.evaluation.drift import DRIFTS, Minute
from wanstreamer_jax.evaluation.figures import FIGURES, Figure, Measured, aim_in_words, in_words, reaches

AGENT, WORLD = "agent", "world"
NAMES = {
    AGENT: "the agent",
    WORLD: "the world's own",
    "silent": "silent",
    "copying": "copying",
    "rule": "rule",
}
_INTERVALS = "In brackets: how many, and the 95 % interval of a share."


@dataclasses.dataclass(frozen=True)
class Settings:
    """What was run: enough to run it again."""

    agent: str  # the name of its directory
    agent_sha256: str  # of its manifest
    sessions: int
    seconds: float  # of a session
    seed: int
    batch: int
    solver_steps: int
    long_minutes: int
    long_runs: int


@dataclasses.dataclass(frozen=True)
class Failure:
    """A session that could not be run."""

    session: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found of one agent."""

    figures: Mapping[str, Measured]
    yield_hold: Mapping[str, Mapping[str, int]]  # what it should have done, what it did, how often
    latencies_ms: Sequence[int]  # of spoken questions, in the order of sessions
    sync_curve: Sequence[float] | None
    minutes: Sequence[Minute]  # of long runs
    drifts: Mapping[str, Measured]


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found of every agent."""

    settings: Settings
    failures: Sequence[Failure]
    found: Mapping[str, Found]

    def to_json(self) -> str:
        """As text of JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def markdown(report: Report) -> str:
    """The report as a page."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    s = report.settings
    yield f"# Evaluation of {s.agent}"
    yield ""
    yield f"{s.sessions} held-out sessions of {s.seconds:g} s, seed {s.seed}, batches of {s.batch},"
    yield f"{s.solver_steps} solver steps. Definitions: docs/evaluation.md. {_INTERVALS}"
    yield ""
    yield from _table(report, FIGURES, {name: found.figures for name, found in report.found.items()})
    yield from _overlaps(report)
    if s.long_minutes:
        yield ""
        yield f"## {s.long_minutes} minutes without a stop, {s.long_runs} times"
        yield ""
        yield from _table(report, DRIFTS, {name: found.drifts for name, found in report.found.items()})
    if report.failures:
        yield ""
        yield "## Could not be run, and count as failures"
        yield ""
        yield from (f"- {failure.session}: {failure.reason}" for failure in report.failures)


def _table(report: Report, figures: Sequence[Figure], measured: Mapping[str, Mapping[str, Measured]]) -> Iterator[str]:
    yield f"| | aim | {' | '.join(NAMES[name] for name in report.found)} |"
    yield "|---" * (2 + len(report.found)) + "|"
    for figure in figures:
        world = measured[WORLD][figure.name].value
        cells = [_cell(figure, measured[name][figure.name]) for name in report.found]
        reached = reaches(figure.aim, measured[AGENT][figure.name].value, world)
        mark = {None: "", True: " reached", False: " **missed**"}[reached]
        yield f"| {figure.words} | {aim_in_words(figure)}{mark} | {' | '.join(cells)} |"


def _cell(figure: Figure, found: Measured) -> str:
    if found.low is None or found.high is None:
        return in_words(figure, found.value)
    return f"{in_words(figure, found.value)} ({found.n}: {100 * found.low:.0f}-{100 * found.high:.0f})"


def _overlaps(report: Report) -> Iterator[str]:
    yield ""
    yield "## Somebody speaks while the agent should be speaking"
    yield ""
    yield "| | should | yielded | held | was silent |"
    yield "|---|---|---|---|---|"
    for name, found in report.found.items():
        for should, did in found.yield_hold.items():
            yield f"| {NAMES[name]} | {should} | {did['yielded']} | {did['held']} | {did['silent']} |"
