"""How long does a conversion take, and how much memory, beside a plain copy of the same files?

    python benchmarks/convert.py [--model 1.7b] [--turns 3] [--workdir DIR]

Makes a checkpoint of the size of a Qwen3 with random bytes (1.7b: 3.4 GB in bfloat16, two shards), then in turns
copies it with `cp -r` and converts it with the command line: when the model must be read from disk, and when it lies in
the page cache. The table shows medians, and the most memory that the conversion held. Both end with `sync`: what counts
is bytes on disk. Needs three times the model on disk.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machine import machine

from wanstreamer_jax.convert.container import DTYPES, Shaped, describe, write_file
from wanstreamer_jax.convert.families import FAMILIES
from wanstreamer_jax.convert.table import shapes_of
from wanstreamer_jax.presets import QWEN3
from wanstreamer_jax.tokens import byte_tokenizer

N_SHARDS = 2


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(QWEN3), default="1.7b", help="size of the Qwen3")
    parser.add_argument("--turns", type=int, default=3, help="copies and conversions to take the median of")
    parser.add_argument("--workdir", type=Path, help="where to put all files (default: the system's temporary place)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.workdir) as scratch:
        source, copy, part = Path(scratch, "qwen3"), Path(scratch, "copy"), Path(scratch, "part")
        with multiprocessing.get_context("spawn").Pool(1) as maker:  # a child starts with its parent's peak memory
            n_bytes = maker.apply(make_checkpoint, (source, args.model))
        convert = [sys.executable, "-m", "wanstreamer_jax.convert", "qwen3", "--input", source, "--output", part]
        runs = {name: [["cp", "-r", source, copy], convert] for name in ("on disk", "in memory")}
        print(
            f"{machine()}; Qwen3-{args.model}, {n_bytes / 1e9:.2f} GB in {N_SHARDS} shards; medians of {args.turns}\n"
        )
        print("| the model is | plain copy s | conversion s | ratio | GB/s | peak GB |\n|---|---|---|---|---|---|")
        for name, commands in runs.items():
            turns = []
            for _ in range(args.turns):
                turns.append([timed(command, source, cold=name == "on disk") for command in commands])
                shutil.rmtree(copy)
                shutil.rmtree(part)
            copied, converted = (statistics.median(turn[i][0] for turn in turns) for i in range(2))
            peak = max(turn[1][1] for turn in turns)
            cells = f"{copied:.1f} | {converted:.1f} | {converted / copied:.2f} | {n_bytes / converted / 1e9:.2f}"
            print(f"| {name} | {cells} | {peak / 1e9:.2f} |")


def make_checkpoint(directory: Path, model: str) -> int:
    """A Qwen3 of random bytes, with its index, configuration and a tokenizer; returns the size of its tensors."""
    family, config = FAMILIES["qwen3"], dataclasses.replace(QWEN3[model], tied=True)
    shapes = shapes_of(lambda: family.init(config))
    theirs = {e.theirs: e.layout.to_theirs(np.broadcast_to(0, shapes[e.ours])).shape for e in family.table(config, ())}
    names = list(theirs)
    weight_map = {name: f"model-{1 + N_SHARDS * i // len(names)}.safetensors" for i, name in enumerate(names)}
    directory.mkdir()
    for file in sorted(set(weight_map.values())):
        shaped = {name: Shaped(theirs[name], DTYPES["BF16"]) for name in names if weight_map[name] == file}
        write_file(directory / file, describe(shaped, {"format": "pt"}), random_arrays(shaped))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(family.write_config(config)))
    byte_tokenizer().save(directory / "tokenizer.json")
    return sum(Shaped(shape, DTYPES["BF16"]).n_bytes for shape in theirs.values())


def random_arrays(shaped: dict[str, Shaped]) -> Iterator[np.ndarray]:
    """Arrays of random bytes, as incompressible as weights."""
    rng = np.random.default_rng(0)
    for x in shaped.values():
        yield np.frombuffer(rng.bytes(x.n_bytes), x.dtype).reshape(x.shape)


def timed(command: list, source: Path, *, cold: bool) -> tuple[float, int]:
    """Seconds until a command's files are on disk, and the most memory it held, in bytes; `cold`: read from disk."""
    subprocess.run(["sync"], check=True)
    for path in source.iterdir() if cold else ():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    subprocess.run(["sync"], check=True)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))}: failed")
    return time.perf_counter() - start, 1024 * usage.ru_maxrss


if __name__ == "__main__":
    main()
