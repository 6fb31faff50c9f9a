"""Independent tasks as windows of one timeline: captions, ASR, TTS, dialogue, generation of what is seen and heard.

The forward and the loss are those of `interact`; what differs is where windows come from. Every task is an example
of `wanstreamer_jax.data.tasks`, or made of a prepared recording, with a weight for each unit's text, sound and picture.

B windows, U units, T text tokens.
"""

import collections
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.tasks import TASKS, Example, Setting, make_example
from wanstreamer_jax.data.tasks.mixture import Mixture
from wanstreamer_jax.data.world import Split
from wanstreamer_jax.flow import noised
from wanstreamer_jax.model import Latents
from wanstreamer_jax.session import Predicted
from wanstreamer_jax.tokens import Tokenizer, byte_tokenizer
from wanstreamer_jax.training.config import PretrainWeights, Training
from wanstreamer_jax.training.stage import Batch, Metrics, Sample, Source, Trees
from wanstreamer_jax.training.stages import interact
from wanstreamer_jax.training.stages.sessions import HELDOUT_SEED, LOSSES, Window, Windows, records_of, windows

NAMES = tuple(TASKS)  # a sample's task is its place here
SILENT = "·"  # a unit without text, in a table


# ---- Looking at it


def measure(
    config: Config, weights: PretrainWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """What `interact` measures, and each task's own terms, by its name: means over its windows.

    They are means over all held-out batches together, to which every batch adds what it has of a task; not a number
    where the batches have none.
    """
    seen, noise, predicted = _predict(config, trainees, frozen, batch, key)
    terms, more = interact.losses(config, predicted, noise, seen, batch)
    found = {"loss": interact.add_up(weights, terms)} | terms | more
    for i, (name, task) in enumerate(TASKS.items()):
        if getattr(weights.mixture, name) == 0:
            continue
        mine = batch["task"] == i
        only = batch | {f"loss_{stream}": batch[f"loss_{stream}"] * mine[:, None] for stream in LOSSES}
        own, _ = interact.losses(config, predicted, noise, seen, only)
        found |= {f"{name}_{stream}": own[stream] * batch["inverse_shares"][0, i] for stream in task.streams}
    return found


def preview(
    config: Config, weights: PretrainWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """One step from noise for the window of which most picture counts; of all, the texts, and the likeliest tokens."""
    most_first = jnp.argsort(-jnp.sum(batch["loss_video"], axis=1))
    shown = interact.preview(config, weights, trainees, frozen, jax.tree.map(lambda x: x[most_first], batch), key)
    predicted = _predict(config, trainees, frozen, batch, key)[2]
    likeliest = jnp.argmax(interact.token_scores(config, predicted.text_logits), axis=-1)
    texts = {"typed": batch["user_text"], "wanted": batch["agent_text"], "likeliest": likeliest}
    counts = {"n_typed": batch["n_user_text"], "n_wanted": batch["n_agent_text"]}
    return shown | texts | counts | {"task": batch["task"], "unit_end": jnp.int32(config.text.unit_end)}


def draw(shown: Mapping[str, np.ndarray], folder: Path) -> None:
    """What `interact` draws, and `texts.md`: what was typed, what was to be written, and the likeliest tokens."""
    interact.draw(shown, folder)
    tokenizer = byte_tokenizer()
    known = tokenizer if tokenizer.n_entries == int(shown["unit_end"]) else None
    rows = ["| task | typed | wanted | likeliest |", "|---|---|---|---|"]
    for k, task in enumerate(shown["task"]):
        columns = [
            _read(shown[name][k], shown[count][k], known)
            for name, count in (("typed", "n_typed"), ("wanted", "n_wanted"), ("likeliest", "n_wanted"))
        ]
        rows.append(f"| {NAMES[int(task)]} | {' | '.join(columns)} |")
    (folder / "texts.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _predict(
    config: Config, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> tuple[Windows, Latents, Predicted]:
    """The forward at the solver's pairs of times, conditioned, and the noise in it."""
    seen = windows(config, frozen | trainees[interact.AGENT], batch)
    noise_key, time_key = jax.random.split(key)
    noise = interact.draw_noise(noise_key, seen.session.clean)
    tau = interact.draw_times(time_key, config.flow, batch["unit_mask"].shape, coupled=1.0)
    points = noised(seen.session.clean, noise, Latents(*tau))
    return seen, noise, interact.predict(seen, points, tau, jnp.zeros(tau.audio.shape, bool))


def _read(ids: np.ndarray, n: np.ndarray, tokenizer: Tokenizer | None) -> str:
    """Units' tokens as text, or as numbers of an unknown tokenizer."""
    units = [row[:count].tolist() for row, count in zip(ids, n, strict=True)]
    texts = [tokenizer.decode(unit) if tokenizer else " ".join(map(str, unit)) for unit in units]
    return "".join(text or SILENT for text in texts).rstrip(SILENT).replace("|", "\\|")


# ---- Data


@dataclasses.dataclass(frozen=True)
class WorldTasks:
    """Examples of the synthetic world; the seeds of held-out ones are higher."""

    setting: Setting

    def make(self, task: str, seed: int) -> Example:
        """Make the example of a task and a seed."""
        return make_example(task, seed + (HELDOUT_SEED if self.setting.split is Split.HELDOUT else 0), self.setting)


class Tasks:
    """Sample i: an example of the mixture's task i, on the timeline."""

    def __init__(self, makers: WorldTasks, mixture: Mixture, window: Window, n_samples: int, n_measured: int):
        self._makers, self._mixture, self._window, self._n_samples = makers, mixture, window, n_samples
        drawn = collections.Counter(mixture[i] for i in range(n_measured))
        inverse_shares = [n_measured / drawn[name] if drawn[name] else np.nan for name in NAMES]
        self._inverse_shares = np.array(inverse_shares, np.float32)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._n_samples

    def __getitem__(self, index: int) -> Sample:
        """Make an example."""
        index = int(index)
        task = self._mixture[index]
        record, counts = self._makers.make(task, index)
        sample = self._window(record, np.random.default_rng(index))
        weights = {f"loss_{name}": sample[f"loss_{name}"] * x for name, x in counts._asdict().items()}
        about = {"task": np.int32(NAMES.index(task)), "inverse_shares": self._inverse_shares}
        return sample | weights | about


def source(config: Config, training: Training, heldout: bool, data: Path | None) -> Source:
    """Examples of the mixture."""
    weights: PretrainWeights = training.weights
    _, layout = records_of(config, training, heldout, data)
    setting = Setting(layout, byte_tokenizer(), Split.HELDOUT if heldout else Split.TRAIN, weights.units)
    n_measured = min(training.samples // training.batch, training.heldout_batches) * training.batch
    window = Window(config, layout, weights.units)
    mixture = Mixture(dataclasses.asdict(weights.mixture))
    return Tasks(WorldTasks(setting), mixture, window, training.samples, n_measured)


stage = dataclasses.replace(interact.stage, name="pretrain", source=source, measure=measure, preview=preview, draw=draw)
