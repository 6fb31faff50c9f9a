"""Steps of training: how fast, how much of the machine, how long they wait for samples, how much memory they take.

    python benchmarks/train.py [--stages video_vae,audio_vae,interact] [--steps 10] [--units 32] [--peer]

Each stage of the tiny preset trains as `train.py` does, in a directory that is removed: the VAEs on sessions of the
synthetic world as they are made, the others on sessions prepared with their latents. The first steps, which compile,
do not count. Arithmetic is counted in the program: products and convolutions, forward, backward and what is computed
again. The peak is that of one product of 1,024 x 1,024 float32 matrices, timed before and after the steps.
As in `train.py` memory comes in large pages, for torch too, and a batch of several is shared out to cores.

--peer trains Transformers' Qwen3 of the same sizes in torch, on sequences of as many tokens as a window of `interact`
has, in a process of its own and in turns with that stage: forward, backward, AdamW. Ours has the VAEs' prepared
latents, perception, and the flow's conditioning to do besides.

Hardware: whatever it runs on, named in the first line; it must be idle otherwise.
"""

import argparse
import contextlib
import dataclasses
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from machine import machine
from peer_training import run_alone

from wanstreamer_jax.agent import init_agent
from wanstreamer_jax.compilations import remember_compilations
from wanstreamer_jax.config import Config
from wanstreamer_jax.cpu import take_cores, use_large_pages
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.prepare import Job as Preparation
from wanstreamer_jax.data.prepare import prepare
from wanstreamer_jax.data.world import World, write_sessions
from wanstreamer_jax.presets import load_preset, load_training
from wanstreamer_jax.training.config import MeshShape, Training
from wanstreamer_jax.training.flops import peak_flops
from wanstreamer_jax.training.loop import Job, Run
from wanstreamer_jax.training.origin import open_origin
from wanstreamer_jax.training.run_log import Counts
from wanstreamer_jax.training.stages import find_stage

WARM_UP = 2  # steps
N_SESSIONS, SECONDS = 4, 20.0  # that are prepared
PEER_TURNS, TURN = 3, 3  # turns of each side, steps of one of ours


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", default="video_vae,audio_vae,interact", help="separated by commas")
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--units", type=int, help="of a window of sessions; the preset's unless given")
    parser.add_argument("--peer", action="store_true", help="compare with Qwen3 in torch")
    args = parser.parse_args()
    remember_compilations()
    take_cores(load_training("tiny")["interact"].batch)
    print(f"{machine()}; jax {jax.__version__}")
    print("| stage | ms/step | GFLOP | GFLOP/s | of peak | peak | s of media/s | waiting | state MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.stages.split(","):
        print(row(name, args.steps, args.units), flush=True)
    if args.peer:
        compare(args.units)


def peak() -> float:
    """FLOP/s of the whole machine: virtual devices share it."""
    return peak_flops("float32") * jax.device_count()


def settings(name: str, n_units: int | None) -> Training:
    """A stage's, with windows of so many units."""
    training = load_training("tiny")[name]
    if n_units is None or name.endswith("_vae"):
        return training
    return dataclasses.replace(training, weights=dataclasses.replace(training.weights, units=n_units))


def row(name: str, n_steps: int, n_units: int | None) -> str:
    """One stage's line."""
    stage, training = find_stage(name), settings(name, n_units)
    with running(name, training) as run:
        before = peak()
        used = timed(run, n_steps)
        product = statistics.mean((before, peak()))
        megabytes = sum(x.nbytes for x in jax.tree.leaves(run.state)) / 1e6
    gigaflops, rate = used.flops / used.step / 1e9, used.step / used.seconds
    media = stage.units_per_sample(load_preset("tiny"), training) * training.batch * rate
    share = gigaflops * rate * 1e9 / product
    return (
        f"| {name} | {1000 / rate:.0f} | {gigaflops:.0f} | {gigaflops * rate:.0f} | {share:.0%} | {product / 1e9:.0f} "
        f"| {media:.2f} | {used.waited_s / used.seconds:.1%} | {megabytes:.1f} |"
    )


@contextlib.contextmanager
def running(name: str, training: Training) -> Iterator[Run]:
    """A stage's run, compiled, on as many devices as share its batch."""
    config = load_preset("tiny")
    training = dataclasses.replace(training, mesh=MeshShape(data=math.gcd(training.batch, jax.device_count())))
    with tempfile.TemporaryDirectory() as folder:
        data = None if name.endswith("_vae") else prepared(config, Path(folder))
        job = Job(find_stage(name), training, open_origin(None, config, 0), Path(folder) / "run", data)
        with Run(job) as run:
            run_in(run, WARM_UP)
            yield run


def prepared(config: Config, folder: Path) -> Path:
    """Sessions of the world with their latents."""
    agent = init_agent(config, seed=0)
    world = World(seconds=SECONDS, user_picture=config.vision.picture, agent_picture=config.picture)
    for _ in write_sessions(folder / "sessions", range(N_SESSIONS), world):
        pass
    layout = Layout.of(config, agent.tokenizer)
    prepare(Preparation(folder / "sessions", folder / "data" / "train", layout, agent.tokenizer, agent))
    return folder / "data"


def run_in(run: Run, n_steps: int) -> None:
    """Take so many steps, and wait for them."""
    for _ in range(n_steps):
        run.take_step()
    jax.block_until_ready(run.state)


def timed(run: Run, n_steps: int) -> Counts:
    """What so many steps use."""
    start = run.counts()
    run_in(run, n_steps)
    return Counts(*(b - a for a, b in zip(start, run.counts(), strict=True)))


# ---- The peer


def compare(n_units: int | None) -> None:
    """Tokens a second of `interact` and of Qwen3 in torch, in turns."""
    config, training = load_preset("tiny"), settings("interact", n_units)
    n_tokens = tokens_of_window(config, training.weights.units)
    with running("interact", training) as run:
        turns = [(_seconds(run), run_alone(n_tokens)) for _ in range(PEER_TURNS)]
    ours, theirs = (statistics.median(itertools.chain(*side)) for side in zip(*turns, strict=True))
    rates = [training.batch * n_tokens / seconds for seconds in (ours, theirs)]
    print(f"\n{n_tokens} tokens a window, {training.batch} windows a step")
    print("| Transformer | s a step | tokens/s |\n|---|---|---|")
    print(f"| ours, `interact` | {ours:.2f} | {rates[0]:.0f} |\n| Qwen3, torch | {theirs:.2f} | {rates[1]:.0f} |")
    print(f"ratio {rates[0] / rates[1]:.2f}")


def tokens_of_window(config: Config, n_units: int) -> int:
    """The world, and of each unit its commit and its noisy latents."""
    return config.n_world + n_units * (config.layout.n_slice + config.layout.n_agent_media)


def _seconds(run: Run) -> list[float]:
    times = []
    for _ in range(TURN):
        start = time.perf_counter()
        run.take_step()
        jax.block_until_ready(run.state)
        times.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    use_large_pages()
    main()
