"""Independent tasks as windows of one timeline: captions, ASR, TTS, dialogue, generation of what is seen and heard.

The forward and the loss are those of `interact`; what differs is where windows come from. Every task is an example
of `wanstreamer_jax.data.tasks`, or made of a prepared recording, with a weight for each unit's text, sound and picture.

B windows, U units, T text tokens.
"""

import collections
import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.clips import Sample
from wanstreamer_jax.data.dataset import Dataset
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.record import Record
from wanstreamer_jax.data.samples import NOTE, Samples, write_note
from wanstreamer_jax.data.tasks import TASKS, Example, Setting, make_example
from wanstreamer_jax.data.tasks.mixture import Mixture
from wanstreamer_jax.data.tasks.recorded import example_of
from wanstreamer_jax.data.world import Split
from wanstreamer_jax.flow import noised
from wanstreamer_jax.model import Latents
from wanstreamer_jax.session import Predicted
from wanstreamer_jax.tokens import Tokenizer, own_tokenizer
from wanstreamer_jax.training.clips import seed_of
from wanstreamer_jax.training.config import PretrainWeights, Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.recordings import PER_RECORD, open_dataset
from wanstreamer_jax.training.stage import Batch, Metrics, Source, Trees
from wanstreamer_jax.training.stages import interact
from wanstreamer_jax.training.stages.sessions import LOSSES, Window, Windows, windows, world_tokenizer

NAMES = tuple(TASKS)  # a sample's task is its place here
SILENT = "·"  # a unit without text, in a table
PROBES = 32  # records that are looked at for material

Make = Callable[[str, int], Sample]  # the window of a task and a number, with the task's loss weights; always the same


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
    known = own_tokenizer(int(shown["unit_end"]))
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
    window: Window

    def make(self, task: str, number: int) -> Sample:
        """Make the example of a task whose seed is a number."""
        return on_timeline(self.window, make_example(task, seed_of(number, self.setting.split), self.setting))


class RecordedTasks:
    """Examples from recordings."""

    def __init__(self, dataset: Dataset, setting: Setting, window: Window, seed: int):
        self._n_records = len(dataset)
        self._samples = {task: Samples(dataset, _Take(task, setting, window), seed) for task in NAMES}

    def has(self, task: str) -> bool:
        """Whether one of some records, from all over the dataset, has material for a task."""
        return any(self._samples[task].take(i)[0] for i in range(0, self._n_records, -(-self._n_records // PROBES)))

    def make(self, task: str, number: int) -> Sample:
        """Take an example from a record, or from the next that has material.

        Raises:
            TrainingError: none has.
        """
        left_out = None
        for more in range(self._n_records):
            # The next record; and another draw from it than any that a number of this epoch begins with.
            sample, met = self._samples[task].take(number + more * (PER_RECORD * self._n_records + 1))
            left_out = left_out or met
            if sample:
                return sample | {NOTE: write_note(left_out)}
        raise TrainingError(f"no recording has anything for {task}")


@dataclasses.dataclass(frozen=True)
class _Take:
    """The window of a task from a record; an empty one where the record has no material."""

    task: str
    setting: Setting
    window: Window

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        example = example_of(self.task, record, rng, self.setting)
        return on_timeline(self.window, example) if example else {}


def on_timeline(window: Window, example: Example) -> Sample:
    """An example as the forward reads it, completed with units that are not there."""
    sample = window(example.record, np.random.default_rng(0))
    for name, counts in example.counts._asdict().items():
        sample[f"loss_{name}"] = sample[f"loss_{name}"] * np.pad(counts, (0, window.n_units - len(counts)))
    return sample


class Tasks:
    """Sample i: an example of the mixture's task i."""

    def __init__(self, make: Make, mixture: Mixture, n_samples: int, n_measured: int):
        self._make, self._mixture, self._n_samples = make, mixture, n_samples
        drawn = collections.Counter(mixture[i] for i in range(n_measured))
        self._inverse_shares = np.array([n_measured / drawn[x] if drawn[x] else np.nan for x in NAMES], np.float32)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._n_samples

    def __getitem__(self, index: int) -> Sample:
        """Make an example."""
        task = self._mixture[int(index)]
        about = {"task": np.array(NAMES.index(task), np.int32), "inverse_shares": self._inverse_shares}
        return self._make(task, int(index)) | about


def source(config: Config, training: Training, heldout: bool, data: Path | None) -> Source:
    """Examples of the mixture, of the world or of recordings.

    Raises:
        TrainingError: the recordings were prepared for another agent, or have nothing for any task.
        DataError: the recordings come without the tokenizer of their text.
        ValueError: a weight of the mixture is below 0, or none is above.
    """
    weights: PretrainWeights = training.weights
    mixture, split = dataclasses.asdict(weights.mixture), Split.HELDOUT if heldout else Split.TRAIN
    Mixture(mixture)  # before recordings are read
    if data is None:
        tokenizer = world_tokenizer(config)
        setting = Setting(Layout.of(config, tokenizer), tokenizer, split, weights.units)
        world = WorldTasks(setting, Window(config, setting.layout, weights.units))
        return _tasks(world.make, mixture, training.samples, training)
    dataset = open_dataset(config, data, heldout)
    setting = Setting(dataset.layout, dataset.tokenizer(), split, weights.units)
    recorded = RecordedTasks(dataset, setting, Window(config, dataset.layout, weights.units), training.seed)
    there = with_material(mixture, recorded, dataset.directory)
    return _tasks(recorded.make, there, PER_RECORD * len(dataset), training)


def with_material(mixture: Mapping[str, float], recorded: RecordedTasks, directory: Path) -> dict[str, float]:
    """A mixture without the tasks for which there is nothing, which are named on stderr."""
    there = {task: weight for task, weight in mixture.items() if weight and recorded.has(task)}
    missing = [task for task, weight in mixture.items() if weight and task not in there]
    if not there:
        raise TrainingError(f"--data: {directory} has nothing for any task of the mixture: {', '.join(missing)}")
    if missing:
        print(f"pretrain: {directory} has nothing for {', '.join(missing)}: left out of the mixture", file=sys.stderr)
    return there


def _tasks(make: Make, mixture: Mapping[str, float], n_samples: int, training: Training) -> Tasks:
    n_measured = min(n_samples // training.batch, training.heldout_batches) * training.batch
    return Tasks(make, Mixture(mixture), n_samples, n_measured)


stage = dataclasses.replace(interact.stage, name="pretrain", source=source, measure=measure, preview=preview, draw=draw)
