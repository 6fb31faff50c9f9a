"""Draw the pictures of docs/: `make figures`. Each is drawn from the code it explains, not beside it."""

import json
from pathlib import Path

import jax.numpy as jnp
import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from wanstreamer_jax.attention import Tokens, visible
from wanstreamer_jax.timeline import UNIT_MS, Group

HERE = Path(__file__).parent
COUNTS = {Group.USER_TEXT: 2, Group.USER_MEDIA: 4, Group.AGENT_TEXT: 2, Group.AGENT_MEDIA: 4}
COLOURS = {
    Group.USER_TEXT: "#7cb3e0",
    Group.USER_MEDIA: "#2f6fb0",
    Group.AGENT_TEXT: "#f2b36b",
    Group.AGENT_MEDIA: "#d9731a",
    "noisy": "#8a8a8a",
}
WORDS = {
    Group.USER_TEXT: "user text",
    Group.USER_MEDIA: "user audio + video",
    Group.AGENT_TEXT: "agent text",
    Group.AGENT_MEDIA: "agent audio + video",
    "noisy": "noisy latents",
}


def tokens_of(n_units: int) -> Tokens:
    """A few tokens of every group of each unit, then the noisy copies."""
    clean = [(k, g) for k in range(n_units) for g in Group for _ in range(COUNTS[g])]
    noisy = [(i, *clean[i]) for i in range(len(clean)) if clean[i][1] == Group.AGENT_MEDIA]
    unit = [k for k, _ in clean] + [k for _, k, _ in noisy]
    group = [g for _, g in clean] + [g for _, _, g in noisy]
    index = [*range(len(clean)), *(i for i, _, _ in noisy)]
    per_unit, media = sum(COUNTS.values()), COUNTS[Group.AGENT_MEDIA]
    commit_unit = [k + (g == Group.AGENT_MEDIA) for k, g in zip(unit, group, strict=True)]
    commit = [max(0, k * per_unit - media) for k in commit_unit]
    is_noisy = np.arange(len(unit)) >= len(clean)
    columns = (jnp.array(x) for x in (unit, group, index, is_noisy.astype(int), np.ones(len(unit), bool), commit))
    return Tokens(*columns)


def attention_rule(n_units: int, window: int | None, path: Path) -> None:
    """Who sees whom: queries down, keys across, coloured by the key's group."""
    tokens = tokens_of(n_units)
    seen = np.asarray(visible(tokens, tokens, window))
    kinds = ["noisy" if n else Group(int(g)) for g, n in zip(tokens.group, tokens.noisy, strict=True)]
    names = list(COLOURS)
    picture = np.where(seen, [names.index(k) + 1 for k in kinds], 0)
    size = 3.2 + len(kinds) * 0.1
    figure, axes = plt.subplots(figsize=(size + 1.4, size))
    axes.imshow(picture, cmap=ListedColormap(["white", *COLOURS.values()]), vmin=0, vmax=len(names))
    for i in range(len(kinds) + 1):
        axes.axhline(i - 0.5, color="#e6e6e6", linewidth=0.4)
        axes.axvline(i - 0.5, color="#e6e6e6", linewidth=0.4)
    draw_borders(axes, kinds, tokens)
    handles = [Rectangle((0, 0), 1, 1, color=COLOURS[k]) for k in names]
    axes.legend(handles, [WORDS[k] for k in names], loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    title = "one unit" if n_units == 1 else f"{n_units} units" + (f", a window of {window} tokens" if window else "")
    axes.set_title(f"Who sees whom: {title}", pad=14)
    axes.set(xlabel="key", xticks=[], yticks=[])
    axes.set_ylabel("query", labelpad=14)
    save(figure, path)


def draw_borders(axes, kinds: list, tokens: Tokens) -> None:
    """Coloured edges that name each token, and lines between units."""
    for i, kind in enumerate(kinds):
        for x, y in ((-1.6, i - 0.5), (i - 0.5, -1.6)):
            axes.add_patch(Rectangle((x, y), 1, 1, color=COLOURS[kind], clip_on=False))
    unit = np.asarray(tokens.unit)
    for i in np.flatnonzero((unit[1:] != unit[:-1]) | np.diff(np.asarray(tokens.noisy).astype(int)).astype(bool)) + 0.5:
        axes.axhline(i, color="black", linewidth=0.9)
        axes.axvline(i, color="black", linewidth=0.9)


# A beat as design section 4 orders it. Spans are to be read, not measured: (row, start ms, length ms, words).
BEAT = [
    ("user", 0, 160, "unit k"),
    ("user", 160, 160, "unit k+1"),
    ("thinker", 160, 28, "observe"),
    ("thinker", 188, 36, "think"),
    ("performer", 224, 62, "perform"),
    ("thinker", 286, 30, "render"),
    ("agent", 316, 160, "response k is seen and heard"),
    ("thinker", 320, 28, "observe"),
    ("thinker", 348, 36, "think"),
    ("performer", 384, 62, "perform k+1"),
]
ROWS = {"user": "#2f6fb0", "thinker": "#5a9e6f", "performer": "#8d6bb8", "agent": "#d9731a"}


TRACED = range(40, 44)  # units of the trace that are drawn
STEP_COLOURS = {
    "observe": "#2f6fb0",
    "think": "#5a9e6f",
    "commit": "#9aa0a6",
    "perform": "#8d6bb8",
    "render": "#d9731a",
}


def beat(path: Path) -> None:
    """The order of a beat: what runs where, and what passes between."""
    figure, axes = plt.subplots(figsize=(11, 2.9))
    y_of = {name: -i for i, name in enumerate(ROWS)}
    for row, start, length, words in BEAT:
        axes.barh(y_of[row], length, left=start, height=0.62, color=ROWS[row], edgecolor="white")
        axes.text(start + length / 2, y_of[row], words, ha="center", va="center", fontsize=7.5, color="white")
    for x, top, bottom, words in ((224, "thinker", "performer", "slice"), (286, "performer", "thinker", "latents")):
        axes.annotate("", (x, y_of[bottom]), (x, y_of[top]), arrowprops={"arrowstyle": "->", "color": "black"})
        axes.text(x + 3, (y_of[top] + y_of[bottom]) / 2, words, fontsize=7.5, va="center")
    axes.annotate("", (316, 0.62), (160, 0.62), arrowprops={"arrowstyle": "<->"})
    axes.text(239, 0.74, "model-side latency", ha="center", fontsize=8)
    axes.set(yticks=[y_of[r] for r in ROWS], yticklabels=list(ROWS), ylim=(-3.5, 1.1), xlim=(0, 480))
    axes.set(xticks=range(0, 481, UNIT_MS), xticklabels=[f"{t} ms" for t in range(0, 481, UNIT_MS)])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    save(figure, path)


def trace(source: Path, path: Path) -> None:
    """Some units of a trace that `serve.py --trace` wrote: a row for the thinker, a row for the performer."""
    events = json.loads(source.read_text())["traceEvents"]
    rows = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    spans = [e for e in events if e["ph"] == "X" and int(e["name"].split()[1]) in TRACED]
    origin = min(e["ts"] for e in spans)
    figure, axes = plt.subplots(figsize=(11, 1.9))
    for e in spans:
        start, length, unit = (e["ts"] - origin) / 1000, e["dur"] / 1000, int(e["name"].split()[1])
        shade = STEP_COLOURS[e["cat"]]
        axes.barh(-e["tid"], length, left=start, height=0.7, color=shade, edgecolor="white", alpha=1 - 0.3 * (unit % 2))
        if length > 7:
            axes.text(start + length / 2, -e["tid"], e["name"], ha="center", va="center", fontsize=6.5, color="white")
    axes.set(yticks=[-tid for tid in rows], yticklabels=list(rows.values()), xlabel="ms")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    save(figure, path)


def save(figure, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    print(path.name)


def main() -> None:
    """Draw them all."""
    mpl.rcParams.update({"svg.hashsalt": "wanstreamer", "font.size": 9})
    attention_rule(1, None, HERE / "attention_one_unit.svg")
    attention_rule(3, None, HERE / "attention_three_units.svg")
    attention_rule(3, 12, HERE / "attention_window.svg")
    beat(HERE / "beat.svg")
    trace(HERE / "trace_split.json", HERE / "trace_split.svg")


if __name__ == "__main__":
    main()
