"""Small sessions, folders and datasets of the synthetic world, for the tests of data."""

import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path

from tests.small_preset import config as byte_config
from wanstreamer_jax.data.dataset import Dataset, DatasetWriter
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.record import Record
from wanstreamer_jax.data.world import Kind, World, make_session, write_session
from wanstreamer_jax.data.world_source import WorldSource
from wanstreamer_jax.tokens import byte_tokenizer

CONFIG = dataclasses.replace(
    byte_config,
    text=dataclasses.replace(byte_config.text, max_agent=8),
    world=dataclasses.replace(byte_config.world, max_text=80),
)
TOKENIZER = byte_tokenizer()
LAYOUT = Layout.of(CONFIG, TOKENIZER)
WORLD = World(  # so short that little else fits
    mixture={Kind.GREETING: 5.0, Kind.TYPED: 1.0},
    seconds=2.4,
    user_picture=LAYOUT.user_picture,
    agent_picture=LAYOUT.agent_picture,
)


@functools.cache
def records(n: int = 7) -> tuple[Record, ...]:
    """The records of the first seeds."""
    source = WorldSource(WORLD, TOKENIZER, LAYOUT, n)
    return tuple(source[i] for i in range(n))


def write_dataset(directory: Path, shard_bytes: int = 3_000_000, encoders: dict[str, str] | None = None) -> Dataset:
    """A dataset of `records()`."""
    directory.mkdir()
    with DatasetWriter(directory, LAYOUT, TOKENIZER, encoders, shard_bytes) as writer:
        for record in records():
            writer.add(record)
        writer.finish({})
    return Dataset(directory)


def damage(dataset: Dataset, shard: int, where: float = 0.25) -> Dataset:
    """The dataset with a flipped bit in a shard."""
    path = dataset.directory / dataset.manifest["shards"][shard]["file"]
    data = bytearray(path.read_bytes())
    data[round(where * len(data))] ^= 4
    path.write_bytes(data)
    return Dataset(dataset.directory)


@functools.cache
def _kept() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


@functools.cache
def _written(seed: int) -> Path:
    folder = Path(_kept().name) / f"train-{seed:08d}"
    write_session(make_session(seed, WORLD), folder)
    return folder


def session_folder(parent: Path, seed: int = 0) -> Path:
    """The session folder of a seed, a fresh copy in `parent`."""
    source = _written(seed)
    return Path(shutil.copytree(source, parent / source.name))
