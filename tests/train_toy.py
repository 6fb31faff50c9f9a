"""A stage that compiles at once: two maps fitted to one, the second seldom, with noise; and runs of it as a program.

python -m tests.train_toy WORKDIR [--field value]
"""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tests import small_preset
from wanstreamer_jax.training.config import MeshShape, OptimizerConfig, Training
from wanstreamer_jax.training.hosts import Address, connect
from wanstreamer_jax.training.loop import Job, train
from wanstreamer_jax.training.origin import Origin
from wanstreamer_jax.training.overrides import override, parse_overrides
from wanstreamer_jax.training.stage import Objective, Stage

WIDTH, N_SAMPLES = 64, 24


@dataclasses.dataclass(frozen=True)
class ToyWeights:
    noise: float = 0.01  # of the target
    poison: int = -1  # a sample whose loss is not finite; -1: none


class ToySource:
    def __len__(self):
        return N_SAMPLES

    def __getitem__(self, index):
        x = np.random.default_rng(index).normal(size=WIDTH).astype(np.float32)
        return {"x": x, "index": np.int32(index)}


def fit(config, weights, trainees, frozen, batch, key):
    noise = weights.noise * jax.random.normal(key, batch["x"].shape)
    predicted = batch["x"] @ trainees["student"]["kernel"] + trainees["student"]["bias"]
    loss = jnp.mean(jnp.square(predicted - jnp.roll(batch["x"], 1, axis=-1) - noise))
    loss = jnp.where(jnp.any(batch["index"] == weights.poison), jnp.nan, loss)
    # Which samples were there, a bit each: exact in float32 as long as there are no more than 24.
    return loss, {"seen": jnp.sum(2.0 ** batch["index"])}


def follow(config, weights, trainees, frozen, batch, key):
    student = jax.lax.stop_gradient(trainees["student"]["kernel"])
    return jnp.mean(jnp.square(trainees["critic"]["kernel"] - student)), {}


def measure(config, weights, trainees, frozen, batch, key):
    loss, _ = fit(config, dataclasses.replace(weights, poison=-1), trainees, frozen, batch, key)
    return {"error": loss, "per_channel": jnp.mean(batch["x"], axis=0)}


def init(config, weights, parts, key):
    kernels = jax.random.normal(key, (2, WIDTH, WIDTH)) / WIDTH
    return {
        "student": {"kernel": kernels[0], "bias": jnp.zeros(WIDTH)},
        "critic": {"kernel": kernels[1], "bias": jnp.zeros(WIDTH)},
    }


stage = Stage(
    name="toy",
    parts=(),
    init=init,
    frozen=(),
    objectives=lambda training: (Objective("student", fit), Objective("critic", follow, every=3, start=2)),
    source=lambda config, training, heldout, data: ToySource(),
    measure=measure,
    preview=lambda *arguments: {"x": arguments[4]["x"]},
    draw=lambda shown, folder: (folder / "seen.txt").write_text(str(shown["x"].shape)),
    finish=lambda config, trainees, measured: (config, {}),
)

TRAINING = Training(
    weights=ToyWeights(),
    steps=12,
    batch=8,
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup=2),
    mesh=MeshShape(data=1),
    heldout_batches=1,
    save_every_s=0.0,
    log_every=2,
    preview_every=6,
    measure_every=6,
)
CONFIG = small_preset.config


def job(workdir: Path, **changes) -> Job:
    return Job(stage, dataclasses.replace(TRAINING, **changes), Origin(CONFIG, None, 0), workdir)


if __name__ == "__main__":
    import tests.conftest  # noqa: F401 (virtual devices, and what was compiled before)

    fields, others = sys.argv[2:], []
    if fields and not fields[-2].startswith("--"):
        fields, others = fields[:-3], fields[-3:]
        jax.config.update("jax_num_cpu_devices", 1)
        connect(Address(others[0], int(others[1]), int(others[2])))
    training = override(TRAINING, parse_overrides(fields))
    train(dataclasses.replace(job(Path(sys.argv[1])), training=training))
