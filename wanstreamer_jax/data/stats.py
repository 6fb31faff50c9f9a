"""What is in sessions, in numbers: how long, who speaks how much, how loud, how text falls into units."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from wanstreamer_jax.data.record import Record, to_float32
from wanstreamer_jax.data.world import Who
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, UNIT_MS

PAUSE_MS = 600  # words of one speaker that are no further apart are one turn
GRID_MS = 10
_SAMPLES_PER_STEP = GRID_MS * SAMPLE_RATE_HZ // 1000
_PER_UNIT = UNIT_MS // GRID_MS


@dataclasses.dataclass
class Speaker:
    """One side."""

    words: int = 0
    turns: int = 0
    speech_s: float = 0.0
    energy: float = 0.0  # sum of squares of the samples while there are words
    n_samples: int = 0
    peak: float = 0.0

    @property
    def loudness_db(self) -> float:
        """Root mean square while there are words, dB under full scale; -inf without any."""
        return 10 * float(np.log10(self.energy / self.n_samples)) if self.energy else -np.inf


@dataclasses.dataclass
class Stats:
    """All sessions together."""

    sessions: int = 0
    seconds: float = 0.0
    user: Speaker = dataclasses.field(default_factory=Speaker)
    agent: Speaker = dataclasses.field(default_factory=Speaker)
    typed_words: int = 0
    overlap_s: float = 0.0  # both speak
    silence_s: float = 0.0  # neither does
    units: int = 0
    tokens: int = 0  # of the agent's text, <unit_end> not counted
    most_tokens: int = 0  # in a unit
    words_moved: int = 0  # whose text ends in a later unit than they were typed or said in
    full_units: int = 0  # with no room for another token
    licences: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def to_json(self) -> dict[str, Any]:
        """All numbers, times in seconds; no loudness (null) where there is nothing to hear."""
        sides = {name: getattr(self, name) for name in ("user", "agent")}
        measured = {
            name: dataclasses.asdict(side) | {"loudness_db": _finite(side.loudness_db)} for name, side in sides.items()
        }
        for side in measured.values():
            del side["energy"], side["n_samples"]
        return dataclasses.asdict(self) | measured | {"licences": dict(self.licences)}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def gather(records: Iterable[Record]) -> Stats:
    """The numbers of records, each session's in their order."""
    stats = Stats()
    for session in _sessions(records):
        _add(stats, session)
    return stats


def _sessions(records: Iterable[Record]) -> Iterator[list[Record]]:
    for _, group in itertools.groupby(records, key=lambda r: r.name.rsplit(",", 1)[0]):
        yield list(group)


def _add(stats: Stats, session: Sequence[Record]) -> None:
    n_units = sum(record.n_units for record in session)
    first_ms = session[0].first_unit * UNIT_MS
    words = [word for record in session for word in record.words]
    speaking = {}
    for who, side in ((Who.USER, stats.user), (Who.AGENT, stats.agent)):
        spans = [(w["start_ms"] - first_ms, w["end_ms"] - first_ms) for w in words if w["who"] == who]
        samples = np.concatenate([getattr(record, f"{who}_samples").reshape(-1) for record in session])
        speaking[who] = _on_grid(_turns(spans), n_units)
        _add_side(side, spans, samples, n_units)
    stats.sessions += 1
    stats.seconds += n_units * UNIT_MS / 1000
    stats.typed_words += sum(w["who"] == Who.USER_TYPED for w in words)
    stats.overlap_s += _seconds(speaking[Who.USER] & speaking[Who.AGENT])
    stats.silence_s += _seconds(~speaking[Who.USER] & ~speaking[Who.AGENT])
    stats.licences[session[0].licence] += n_units
    for record in session:
        _add_text(stats, record)


def _add_side(side: Speaker, spans: list[tuple[int, int]], samples: np.ndarray, n_units: int) -> None:
    turns = _turns(spans)
    side.words += len(spans)
    side.turns += len(turns)
    side.speech_s += _seconds(_on_grid(turns, n_units))
    spoken = to_float32(samples.reshape(-1, _SAMPLES_PER_STEP)[_on_grid(spans, n_units)])
    side.energy += float(np.square(spoken, dtype=np.float64).sum())
    side.n_samples += spoken.size
    side.peak = max(side.peak, float(np.abs(to_float32(samples)).max(initial=0)))


def _add_text(stats: Stats, record: Record) -> None:
    n_tokens, room = record.n_agent_text - 1, record.agent_text.shape[1] - 1
    stats.units += record.n_units
    stats.words_moved += record.words_moved
    stats.tokens += int(n_tokens.sum())
    stats.most_tokens = max(stats.most_tokens, int(n_tokens.max(initial=0)))
    stats.full_units += int((n_tokens == room).sum())


def _turns(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Words with short pauses between them as one."""
    turns: list[tuple[int, int]] = []
    for start, end in spans:
        if turns and start - turns[-1][1] <= PAUSE_MS:
            turns[-1] = turns[-1][0], max(turns[-1][1], end)
        else:
            turns.append((start, end))
    return turns


def _on_grid(spans: list[tuple[int, int]], n_units: int) -> Bool[np.ndarray, " steps"]:
    grid = np.zeros(n_units * _PER_UNIT, bool)
    for start, end in spans:
        grid[start // GRID_MS : -(-end // GRID_MS)] = True
    return grid


def _seconds(grid: Bool[np.ndarray, " steps"]) -> float:
    return round(float(grid.sum()) * GRID_MS / 1000, 3)


def table(stats: Stats) -> str:
    """The numbers for people."""
    seconds, units = max(stats.seconds, 1e-9), max(stats.units, 1)
    rows = [
        ("sessions", f"{stats.sessions}"),
        ("hours", f"{stats.seconds / 3600:.3f}"),
        *_side_rows("user", stats.user, seconds),
        *_side_rows("agent", stats.agent, seconds),
        ("typed words", f"{stats.typed_words}"),
        ("both speak", f"{stats.overlap_s:.1f} s, {stats.overlap_s / seconds:.1%}"),
        ("nobody speaks", f"{stats.silence_s:.1f} s, {stats.silence_s / seconds:.1%}"),
        ("agent's text", f"{stats.tokens / units:.2f} tokens a unit, at most {stats.most_tokens}"),
        ("full units", f"{stats.full_units}, {stats.full_units / units:.1%}"),
        ("moved words", f"{stats.words_moved}, of which a part is written in a later unit"),
        *(("licence", f"{name}: {n * UNIT_MS / 3.6e6:.3f} h") for name, n in sorted(stats.licences.items())),
    ]
    return "\n".join(f"{name:14}  {value}" for name, value in rows)


def _side_rows(name: str, side: Speaker, seconds: float) -> list[tuple[str, str]]:
    said = f"{side.words} words, {side.turns} turns, {side.speech_s:.1f} s, {side.speech_s / seconds:.1%}"
    return [(name, said), (f"{name}'s sound", f"{side.loudness_db:.1f} dBFS in words, peak {side.peak:.2f}")]
