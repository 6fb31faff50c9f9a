"""Draw `docs/world.png`: a session of the synthetic world on one time axis, as a person would check it.

pip install 'wanstreamer-jax[train,figures]'
python docs/world_sheet.py
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wanstreamer_jax.data.world import Composition, Kind, Session, Who, World, make_session, measure_opening
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, VIDEO_FPS, Picture

SEED = 124
WORLD = World(
    seconds=16.0,
    mixture=dict.fromkeys((Kind.COLOUR, Kind.HOW_MANY, Kind.STOP, Kind.COMMENT), 1.0),
    user_picture=Picture(128, 64),
    agent_picture=Picture(112, 64),
    composition=Composition.MID_SHOT,
)
N_STILLS = 8
COLOURS = {Who.USER: "tab:blue", Who.AGENT: "tab:red", Who.USER_TYPED: "tab:green", Who.BACKGROUND: "tab:gray"}


def main() -> None:
    """Write the picture."""
    mpl.use("agg")
    session = make_session(SEED, WORLD)
    figure, rows = plt.subplots(5, 1, figsize=(13, 5.6), height_ratios=(0.84, 0.95, 1, 1, 1.3), layout="constrained")
    stills(rows[0], session.user_frames, "user")
    stills(rows[1], session.agent_frames, "agent")
    sound(rows[2], session, Who.USER)
    sound(rows[3], session, Who.AGENT)
    behaviour(rows[4], session)
    save(figure, Path(__file__).with_name("world.png"))


def stills(row: Axes, frames: np.ndarray, name: str) -> None:
    """A frame from the middle of each eighth."""
    each = len(frames) // N_STILLS
    chosen = frames[each // 2 :: each][:N_STILLS]
    row.imshow(np.concatenate(list(np.pad(chosen, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)), axis=1))
    row.set(xticks=[], yticks=[], ylabel=name)


def sound(row: Axes, session: Session, who: Who) -> None:
    """A waveform, with the words under it."""
    samples = session.user_samples if who is Who.USER else session.agent_samples
    row.plot(np.arange(len(samples))[::24] / SAMPLE_RATE_HZ, samples[::24], color=COLOURS[who], linewidth=0.4)
    for word in session.labels.words:
        if word.who is who:
            row.text(word.start_ms / 1000, -0.62, word.text, fontsize=7, rotation=35, va="bottom")
    row.set(ylabel=who.value, ylim=(-0.62, 0.6), xticks=[], yticks=[])
    limit(row, session)


def behaviour(row: Axes, session: Session) -> None:
    """Mouth as labelled and as measured in the pixels; cards, nods and blinks."""
    labels = session.labels
    seconds = (np.arange(len(labels.mouth_opening)) + 0.5) / VIDEO_FPS
    seen = measure_opening(session.agent_frames, labels.composition)
    row.plot(seconds, labels.mouth_opening, color="black", linewidth=1, label="mouth, label")
    row.plot(seconds, (seen - seen.min()) / np.ptp(seen), "--", color="tab:red", linewidth=1, label="mouth, pixels")
    for y, name, spans in ((1.25, "nods", labels.nods_ms), (1.5, "blinks", labels.blinks_ms)):
        row.hlines([y] * len(spans), *np.array(spans).T / 1000, linewidth=4, color="tab:orange")
        row.text(0.05, y, name, fontsize=7, va="center")
    for card in labels.cards:
        end = card.gone_ms / 1000 if card.gone_ms else seconds[-1]
        row.hlines(1.8, card.appear_ms / 1000, end, linewidth=9, color=card.colour, alpha=0.6)
        row.text(card.settled_ms / 1000, 1.8, f"{card.count} {card.colour} {card.shape}", fontsize=7, va="center")
    row.set(ylim=(-0.05, 2.0), yticks=[], xlabel="seconds")
    row.legend(fontsize=7, loc="center right")
    limit(row, session)


def limit(row: Axes, session: Session) -> None:
    """All rows show the same time."""
    row.set_xlim(0, len(session.user_frames) / VIDEO_FPS)


def save(figure: Figure, path: Path) -> None:
    """Write the picture and say how large it is."""
    figure.savefig(path, dpi=75)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
