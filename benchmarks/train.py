"""Steps of training: how fast, how much of the machine, how long they wait for samples, how much memory they take.

    python benchmarks/train.py [--stages video_vae,audio_vae] [--steps 10]

Each stage of the tiny preset trains as `train.py` does, on sessions of the synthetic world, in a directory that is
removed. The first steps, which compile, do not count. Arithmetic is counted in the program: products and convolutions,
forward and backward. The peak is that of one product of 1,024 x 1,024 float32 matrices, timed in the same run.
Hardware: whatever it runs on, named in the first line; it must be idle otherwise.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import jax
from machine import machine

from wanstreamer_jax.compilations import remember_compilations
from wanstreamer_jax.presets import load_preset, load_training
from wanstreamer_jax.training.config import MeshShape
from wanstreamer_jax.training.flops import peak_flops
from wanstreamer_jax.training.loop import Job, Run
from wanstreamer_jax.training.origin import open_origin
from wanstreamer_jax.training.run_log import Counts
from wanstreamer_jax.training.stages import find_stage

WARM_UP = 2  # steps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", default="video_vae,audio_vae", help="separated by commas")
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    args = parser.parse_args()
    remember_compilations()
    print(f"{machine()}; jax {jax.__version__}; peak {peak_flops('float32') / 1e9:.0f} GFLOP/s")
    print("stage       ms/step   GFLOP  GFLOP/s  of peak media s/s  waiting  state MB")
    for name in args.stages.split(","):
        print(row(name, args.steps), flush=True)


def row(name: str, n_steps: int) -> str:
    """One stage's line."""
    stage, config = find_stage(name), load_preset("tiny")
    training = dataclasses.replace(load_training("tiny")[name], mesh=MeshShape(data=1))
    with tempfile.TemporaryDirectory() as workdir:
        job = Job(stage, training, open_origin(None, config, 0), Path(workdir))
        with Run(job) as run:
            used = timed(run, n_steps)
            megabytes = sum(x.nbytes for x in jax.tree.leaves(run.state)) / 1e6
    gigaflops = used.flops / used.step / 1e9
    rate, media = used.step / used.seconds, stage.units_per_sample(config, training) * training.batch
    return (
        f"{name:10} {1000 / rate:8.0f} {gigaflops:7.0f} {gigaflops * rate:8.0f} "
        f"{gigaflops * rate * 1e9 / peak_flops('float32'):8.0%} {media * rate:9.2f} "
        f"{used.waited_s / used.seconds:8.1%} {megabytes:9.1f}"
    )


def timed(run: Run, n_steps: int) -> Counts:
    """What the steps after the first ones use."""
    for _ in range(WARM_UP):
        run.take_step()
    jax.block_until_ready(run.state)
    start = run.counts()
    for _ in range(n_steps):
        run.take_step()
    jax.block_until_ready(run.state)
    return Counts(*(b - a for a, b in zip(start, run.counts(), strict=True)))


if __name__ == "__main__":
    main()
