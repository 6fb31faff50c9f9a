"""Draw `docs/tiny.png`: losses of the runs that made the bundled agent, one after the other.

pip install 'wanstreamer-jax[train,figures]'
python docs/tiny_curves.py RUN...        working directories of train.py, in the order in which they were run
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib import pyplot as plt

AGENT = "agent"  # the objective of `pretrain` and `interact`
TERMS = {"text": "text, nats a unit", "audio": "sound, velocity error", "video": "picture, velocity error"}
AVERAGED = 20  # steps: a batch has few words


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="working directories of train.py")
    mpl.use("agg")
    figure, rows = plt.subplots(len(TERMS), 1, figsize=(11, 6), sharex=True, layout="constrained")
    first = 0
    for run in parser.parse_args().runs:
        steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        measures = [json.loads(line) for line in (run / "measures.jsonl").read_text().splitlines()]
        for row, (term, name) in zip(rows, TERMS.items(), strict=True):
            losses = averages(np.array([step[f"{AGENT}/{term}"] for step in steps], float))
            row.plot(first + AVERAGED * np.arange(1, len(losses) + 1), losses, label=run.name)
            row.plot([first + m["step"] for m in measures], [m[term] for m in measures], "k.")
            row.set(ylabel=name, yscale="log")
        first += len(steps)
    rows[0].legend(title="black: held out", fontsize="small")
    rows[-1].set_xlabel("step")
    figure.savefig(Path(__file__).with_name("tiny.png"), dpi=110, metadata={"Software": None})


def averages(losses: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Means of so many steps each; what is left over at the end is left out."""
    return losses[: len(losses) // AVERAGED * AVERAGED].reshape(-1, AVERAGED).mean(axis=1)


if __name__ == "__main__":
    main()
