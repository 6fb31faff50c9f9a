"""Writing many tensors, one at a time, while a bar shows tensors and bytes."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wanstreamer_jax.convert.container import CheckpointError, Shaped, write_file


def write_tensors(path: Path, header: str, tensors: Mapping[str, Shaped], arrays: Iterator[np.ndarray]) -> None:
    """Write a safetensors file: `header` describes `tensors`, and `arrays` come in their order.

    Raises CheckpointError when the disk has no room for it.
    """
    n_bytes = sum(x.n_bytes for x in tensors.values())
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes + len(header.encode()):
        raise CheckpointError(f"{path}: needs {n_bytes / 1e9:.2f} GB, but its disk has {free / 1e9:.2f} GB free")
    with tqdm(total=n_bytes, unit="B", unit_scale=True, desc=path.name) as bar:
        write_file(path, header, _counted(arrays, len(tensors), bar))


def _counted(arrays: Iterator[np.ndarray], n_tensors: int, bar: tqdm) -> Iterator[np.ndarray]:
    for i, x in enumerate(arrays, 1):
        yield x  # and when the next is asked for, this one is written
        bar.set_postfix_str(f"{i}/{n_tensors} tensors", refresh=False)
        bar.update(x.nbytes)
