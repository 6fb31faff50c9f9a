"""A session on one sheet, as a person checks it: both pictures, both sounds, every word, on one time axis.

matplotlib is an extra (`pip install 'wanstreamer-jax[figures]'`), imported here alone.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.data.record import Record, to_float32
from wanstreamer_jax.data.world import Who
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, UNIT_MS, VIDEO_FPS

LINE_S = 8.0  # of a line of the sheet; a session is a page of lines
MOST_LINES = 12
_COLOURS = {Who.USER: "#1f5fa8", Who.AGENT: "#b3471d", Who.USER_TYPED: "#5b2d90", Who.BACKGROUND: "#777777"}
_SHOWN = {Who.USER_TYPED: "[{}]", Who.BACKGROUND: "({})"}
_HEIGHTS = (1.05, 1.0, 0.34, 1.0, 1.05, 0.22)  # strip, sound, text, sound, strip, room
_WIDTH, _LEFT, _RIGHT = 16.0, 0.05, 0.985  # inches; edges of the axes in it
_STRIP_INCHES_PER_S = (_RIGHT - _LEFT) * _WIDTH / LINE_S
_BINS_PER_S = 400
_MISSING = "a sheet needs matplotlib: pip install 'wanstreamer-jax[figures]'"


class _Session(NamedTuple):
    """Records of a session as one, from `start_s` on."""

    start_s: float
    has_picture: dict[Who, bool]
    frames: dict[Who, UInt8[np.ndarray, "T H W 3"]]
    samples: dict[Who, Float32[np.ndarray, " n"]]
    words: list[dict[str, Any]]
    n_tokens: np.ndarray  # of the agent's text in each unit
    most_tokens: int

    @property
    def seconds(self) -> float:
        return len(self.n_tokens) * UNIT_MS / 1000


def draw_sheet(records: Sequence[Record], output: Path) -> None:
    """Write the sheet of consecutive records of a session, as a PNG or whatever the file's name says.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    plt = _pyplot()
    session = _joined(records)
    n_lines = min(MOST_LINES, max(1, int(-(-session.seconds // LINE_S))))
    figure = plt.figure(figsize=(_WIDTH, 0.8 + n_lines * sum(_HEIGHTS)), layout="none")
    figure.suptitle(_title(records, session, n_lines), x=0.01, y=1 - 0.25 / figure.get_figheight(), ha="left", size=11)
    top = 1 - 0.75 / figure.get_figheight()
    grid = figure.add_gridspec(
        len(_HEIGHTS) * n_lines,
        1,
        height_ratios=_HEIGHTS * n_lines,
        left=_LEFT,
        right=_RIGHT,
        top=top,
        bottom=0.02,
        hspace=0,
    )
    for line in range(n_lines):
        axes = [figure.add_subplot(grid[len(_HEIGHTS) * line + i]) for i in range(len(_HEIGHTS) - 1)]
        _draw_line(axes, session, line * LINE_S)
    figure.savefig(output, dpi=110)
    plt.close(figure)


def _joined(records: Sequence[Record]) -> _Session:
    def sides(name: str) -> dict[Who, np.ndarray]:
        return {
            who: np.concatenate([getattr(record, f"{who}_{name}") for record in records])
            for who in (Who.USER, Who.AGENT)
        }

    return _Session(
        start_s=records[0].first_unit * UNIT_MS / 1000,
        has_picture={who: getattr(records[0].streams, f"{who}_video") for who in (Who.USER, Who.AGENT)},
        frames={who: x.reshape(-1, *x.shape[2:]) for who, x in sides("frames").items()},
        samples={who: to_float32(x.reshape(-1)) for who, x in sides("samples").items()},
        words=[word for record in records for word in record.words],
        n_tokens=np.concatenate([record.n_agent_text for record in records]) - 1,
        most_tokens=records[0].agent_text.shape[1] - 1,
    )


def _title(records: Sequence[Record], session: _Session, n_lines: int) -> str:
    missing = [name.replace("_", " ") for name, there in records[0].streams._asdict().items() if not there]
    parts = [records[0].name, f"{session.seconds:.2f} s", f"licence {records[0].licence}"]
    if missing:
        parts.append(f"without {', '.join(missing)}")
    if session.seconds > n_lines * LINE_S:
        parts.append(f"the first {n_lines * LINE_S:.0f} s are shown")
    return "   ·   ".join([*parts, "[typed]   (further away)"])


def _draw_line(axes: list[Any], session: _Session, at_s: float) -> None:
    """Five rows that share their time: the user's picture and sound, the agent's text, sound and picture."""
    user_picture, user_sound, text, agent_sound, agent_picture = axes
    for axis, who in ((user_picture, Who.USER), (agent_picture, Who.AGENT)):
        _draw_pictures(axis, session, who, at_s)
    for axis, who in ((user_sound, Who.USER), (agent_sound, Who.AGENT)):
        _draw_sound(axis, session, who, at_s)
    _draw_words(user_sound, session, (Who.USER, Who.USER_TYPED, Who.BACKGROUND), at_s)
    _draw_words(agent_sound, session, (Who.AGENT,), at_s)
    _draw_tokens(text, session, at_s)
    for axis in axes:
        axis.set_xlim(session.start_s + at_s, session.start_s + at_s + LINE_S)
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)
    for axis in (user_picture, user_sound, text, agent_sound):
        axis.set_xticks([])
    seconds = session.start_s + at_s + np.arange(LINE_S + 1)
    agent_picture.tick_params(axis="x", labelsize=7, length=2, pad=1)
    agent_picture.set_xticks(seconds, [f"{t:g} s" for t in seconds])
    names = ("user's\npicture", "user's\nsound", "tokens\na unit", "agent's\nsound", "agent's\npicture")
    for axis, name in zip(axes, names, strict=True):
        axis.set_ylabel(name, rotation=0, ha="right", va="center", size=8)


def _draw_pictures(axis: Any, session: _Session, who: Who, at_s: float) -> None:
    """Frames in their shape, as many as there is room for, each beginning where it is seen."""
    axis.set_ylim(0, 1)
    if not session.has_picture[who]:
        axis.text(0.01, 0.5, "no picture", size=8, color="#999999", va="center", transform=axis.transAxes)
        return
    height, width = session.frames[who].shape[1:3]
    wide_s = _HEIGHTS[0] * width / height / _STRIP_INCHES_PER_S
    step_s = LINE_S / max(1, int(LINE_S / wide_s))
    for start_s in np.arange(at_s, at_s + LINE_S - step_s / 2, step_s):
        first = round(start_s * VIDEO_FPS)
        if first < len(session.frames[who]):
            left_s = session.start_s + start_s
            extent = (left_s, left_s + 0.98 * wide_s, 0, 1)
            axis.imshow(session.frames[who][first], extent=extent, aspect="auto", interpolation="lanczos")


def _draw_sound(axis: Any, session: _Session, who: Who, at_s: float) -> None:
    """The span of the samples in each short stretch, over what is loudest in the session."""
    samples = session.samples[who]
    part = samples[round(at_s * SAMPLE_RATE_HZ) : round((at_s + LINE_S) * SAMPLE_RATE_HZ)]
    per_bin = SAMPLE_RATE_HZ // _BINS_PER_S
    bins = part[: len(part) // per_bin * per_bin].reshape(-1, per_bin)
    times = session.start_s + at_s + np.arange(len(bins)) / _BINS_PER_S
    loudest = max(float(np.abs(samples).max()), 1e-3)
    axis.fill_between(
        times, bins.min(axis=1) / loudest, bins.max(axis=1) / loudest, color=_COLOURS[who], alpha=0.45, lw=0.3
    )
    axis.set_ylim(-1.05, 2.3)


def _draw_words(axis: Any, session: _Session, speakers: Sequence[Who], at_s: float) -> None:
    """Each word on a line from where it begins to where it ends, its text above it, on one of three levels."""
    levels = itertools.cycle((1.1, 1.45, 1.8))
    for word in session.words:
        start_s, end_s = word["start_ms"] / 1000, word["end_ms"] / 1000
        level = next(levels) if word["who"] in speakers else None
        from_s, to_s = session.start_s + at_s, session.start_s + at_s + LINE_S
        if level is None or end_s < from_s or start_s >= to_s:
            continue
        colour = _COLOURS[Who(word["who"])]
        axis.plot([max(start_s, from_s), min(end_s, to_s)], [level, level], color=colour, lw=1.2, solid_capstyle="butt")
        if start_s >= from_s:
            shown = _SHOWN.get(word["who"], "{}").format(word["text"])
            axis.text(start_s, level + 0.03, shown, size=7, color=colour, va="bottom", clip_on=True)


def _draw_tokens(axis: Any, session: _Session, at_s: float) -> None:
    """How full each unit is of the agent's text."""
    unit_s = UNIT_MS / 1000
    first, last = int(at_s / unit_s), int(np.ceil((at_s + LINE_S) / unit_s))
    n = session.n_tokens[first:last]
    starts = session.start_s + (first + np.arange(len(n))) * unit_s
    axis.bar(starts, n, width=unit_s, align="edge", color="#999999", edgecolor="white", lw=0.5)
    axis.set_ylim(0, session.most_tokens)
    for start in starts:
        axis.axvline(start, color="#dddddd", lw=0.4, zorder=0)


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise RuntimeError(_MISSING) from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt
