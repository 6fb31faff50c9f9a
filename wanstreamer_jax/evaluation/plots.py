"""Figures as pictures: when answers come, who yields, how mouth and sound go together, what drifts.

matplotlib is an extra (`pip install 'wanstreamer-jax[evaluate]'`), imported here alone.
"""

from pathlib import Path
from typing import Any

import numpy as np

from wanstreamer_jax.evaluation.drift import minutes_apart
from wanstreamer_jax.evaluation.floor import Did, Should
from wanstreamer_jax.evaluation.lips import MOST_LAG
from wanstreamer_jax.evaluation.report import AGENT, NAMES, WORLD, Report
from wanstreamer_jax.evaluation.turn_taking import ANSWER_MS, LATEST_MS
from wanstreamer_jax.timeline import FRAME_MS

_COLOURS = {AGENT: "#b3471d", WORLD: "#1f5fa8", "silent": "#999999", "copying": "#5b2d90", "rule": "#2c7a4b"}
_BIN_MS = 40
_DRIFTING = {"identity": "likeness", "brightness": "of 1", "loudness": "dB", "in_time": "share in time"}
_MISSING = "plots need matplotlib: pip install 'wanstreamer-jax[evaluate]' ({})"


def draw_plots(report: Report, folder: Path) -> None:
    """Write `latency.png`, `yield_hold.png`, `sync.png` and, after long runs, `drift.png`.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    _save(_latency, report, folder / "latency.png")
    _save(_yield_hold, report, folder / "yield_hold.png")
    _save(_sync, report, folder / "sync.png")
    if report.settings.long_minutes:
        _save(_drift, report, folder / "drift.png")


def pyplot() -> Any:
    """matplotlib, drawing into files; RuntimeError when it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise RuntimeError(_MISSING.format(error)) from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _save(draw: Any, report: Report, path: Path) -> None:
    plt = pyplot()
    figure = draw(plt, report)
    figure.savefig(path, dpi=120, metadata={"Software": None})  # no version in it: the same figures, the same file
    plt.close(figure)


def _latency(plt: Any, report: Report) -> Any:
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    edges = np.arange(-_BIN_MS * 2, LATEST_MS + _BIN_MS, _BIN_MS)
    for name in (WORLD, "rule", AGENT):
        style = {"histtype": "step", "lw": 1.5, "color": _COLOURS[name], "label": NAMES[name]}
        axis.hist(report.found[name].latencies_ms, edges, **style)
    axis.axvline(ANSWER_MS, color="#999999", lw=0.8, ls="--")
    axis.set_xlabel("ms from the end of a spoken question to the answer")
    axis.set_ylabel("answers")
    axis.legend(frameon=False)
    return figure


def _yield_hold(plt: Any, report: Report) -> Any:
    figure, axes = plt.subplots(1, len(report.found), figsize=(2.6 * len(report.found), 2.4), layout="constrained")
    for axis, (name, found) in zip(axes, report.found.items(), strict=True):
        counts = np.array([[found.yield_hold[should][did] for did in Did] for should in Should])
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), n in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, int(n), ha="center", va="center", color=colour)
        axis.set_xticks(range(len(Did)), list(Did), size=8)
        axis.set_yticks(range(len(Should)), [f"should\n{should}" for should in Should], size=8)
        axis.set_title(NAMES[name], size=10)
    return figure


def _sync(plt: Any, report: Report) -> Any:
    figure, axis = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
    lags_ms = np.arange(-MOST_LAG, MOST_LAG + 1) * FRAME_MS
    for name, found in report.found.items():
        if found.sync_curve is not None:
            axis.plot(lags_ms, found.sync_curve, color=_COLOURS[name], label=NAMES[name], marker=".")
    axis.axvline(0, color="#999999", lw=0.8)
    axis.set_xlabel("ms by which the mouth is later than the sound")
    axis.set_ylabel("correlation")
    axis.legend(frameon=False)
    return figure


def _drift(plt: Any, report: Report) -> Any:
    figure, axes = plt.subplots(len(_DRIFTING), 1, figsize=(7, 7), sharex=True, layout="constrained")
    for axis, (field, unit) in zip(axes, _DRIFTING.items(), strict=True):
        for name in (WORLD, AGENT):
            values = minutes_apart([getattr(minute, field) for minute in report.found[name].minutes])
            minutes = 1 + np.arange(len(values))
            axis.plot(minutes, values, color=_COLOURS[name], label=NAMES[name], marker=".")
        axis.set_ylabel(f"{field.replace('_', ' ')}, {unit}" if field != "in_time" else unit, size=8)
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("minute")
    return figure
