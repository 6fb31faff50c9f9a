"""A table of tensors: what a public checkpoint calls each one and how it lays it out, in and out.

A table is strict: every tensor of it is there once, with the expected shape, and nothing else is, but for what the
family leaves behind. Tensors are moved, nothing is computed: there and back is bit for bit the same, in any dtype.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from einops import rearrange
from flax import nnx, traverse_util

from wanstreamer_jax.convert.container import StoredTensor

Params = dict[str, Any]
Tensor = np.ndarray | jax.Array | StoredTensor
Shape = tuple[int, ...]

STRIP = 16  # columns
FLOATS = {np.dtype(kind) for kind in (np.float32, np.float16, ml_dtypes.bfloat16)}


class Layout(NamedTuple):
    """The axes of a tensor, as einops writes them."""

    theirs: str
    ours: str
    sizes: tuple[tuple[str, int], ...] = ()  # of axes that einops cannot infer

    def to_ours(self, x: np.ndarray) -> np.ndarray:
        """A public tensor as we lay it out."""
        return rearrange(x, f"{self.theirs} -> {self.ours}", **dict(self.sizes))

    def to_theirs(self, x: np.ndarray) -> np.ndarray:
        """Our tensor as the public checkpoint lays it out."""
        return rearrange(x, f"{self.ours} -> {self.theirs}", **dict(self.sizes))


VECTOR = Layout("c", "c")
LINEAR = Layout("o i", "i o")


class Entry(NamedTuple):
    """A tensor: its public name, and the dotted path of its place in our parameters."""

    theirs: str
    ours: str
    layout: Layout = VECTOR
    copy: bool = False  # a second public name of what another entry holds, which it must equal


def affine_entries(theirs: str, ours: str, layout: Layout = LINEAR) -> Iterator[Entry]:
    """Kernel and bias of a linear layer or a convolution."""
    yield Entry(f"{theirs}.weight", f"{ours}.kernel", layout)
    yield Entry(f"{theirs}.bias", f"{ours}.bias")


def layer_norm_entries(theirs: str, ours: str) -> Iterator[Entry]:
    """Scale and bias of a layer norm."""
    yield Entry(f"{theirs}.weight", f"{ours}.scale")
    yield Entry(f"{theirs}.bias", f"{ours}.bias")


def shapes_of(init: Callable[[], nnx.Module]) -> dict[str, Shape]:
    """Dotted path -> shape of every parameter of the module that `init` makes; nothing is drawn."""
    return {path: x.shape for path, x in flatten(nnx.to_pure_dict(nnx.state(nnx.eval_shape(init)))).items()}


def check(
    entries: Sequence[Entry],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, Shape],
    unused: str,
    duplicates: Iterable[str] = (),
) -> None:
    """Raise one ValueError that lists every unknown, missing, duplicate, ill-shaped and ill-typed tensor.

    `shapes` are those of our parameters, by path. `unused`: a regular expression of names that are left behind.
    """
    wanted = {entry.theirs: _their_shape(entry, shapes[entry.ours]) for entry in entries}
    given = {name: x for name, x in tensors.items() if name in wanted or not re.fullmatch(unused, name)}
    wrong = [f"duplicate {name}" for name in sorted(duplicates)]
    wrong += [f"unknown {name}" for name in sorted(given.keys() - wanted.keys())]
    wrong += [f"missing {name}" for name in sorted(wanted.keys() - given.keys())]
    for name in sorted(given.keys() & wanted.keys()):
        x = given[name]
        if tuple(x.shape) != wanted[name]:
            wrong.append(f"{name}: shape {tuple(x.shape)}, expected {wanted[name]}")
        elif x.dtype not in FLOATS:
            wrong.append(f"{name}: {x.dtype}, expected float32, bfloat16 or float16")
    if not wrong:
        wrong = _untrue_copies(entries, tensors)
    if wrong:
        raise ValueError("the checkpoint is not of this configuration:\n  " + "\n  ".join(wrong))


def take(entries: Iterable[Entry], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, np.ndarray]]:
    """Our path and our layout of each tensor, one at a time; `tensors` have been checked."""
    for entry in entries:
        if not entry.copy:
            yield entry.ours, contiguous(entry.layout.to_ours(np.asarray(tensors[entry.theirs])))


def read(
    entries: Sequence[Entry],
    tensors: Mapping[str, Tensor],
    init: Callable[[], nnx.Module],
    unused: str,
    fresh_dtype: str = "float32",
) -> Params:
    """Return the parameters of the module that `init` makes, with the table's tensors taken from `tensors`.

    What is not in the table begins as `init` draws it, in `fresh_dtype`; what is in it keeps its dtype. Raises the
    ValueError of `check`.
    """
    shapes = shapes_of(init)
    check(entries, tensors, shapes, unused)
    taken = dict(take(entries, tensors))

    def fresh() -> Params:
        return jax.tree.map(lambda x: x.astype(fresh_dtype), nnx.to_pure_dict(nnx.state(init())))

    return nested(taken | draw(fresh, shapes.keys() - taken.keys()))


def draw(init: Callable[[], Params], paths: Iterable[str]) -> dict[str, np.ndarray]:
    """Some of the parameters that `init` makes, by dotted path; under jit, nothing else is drawn."""
    wanted = sorted(paths)

    def pick() -> dict[str, jax.Array]:
        fresh = flatten(init())
        return {path: fresh[path] for path in wanted}

    return jax.tree.map(np.asarray, jax.jit(pick)())


def flatten(params: Params) -> dict[str, Any]:
    """Parameters by dotted path."""
    return {".".join(map(str, path)): x for path, x in traverse_util.flatten_dict(params).items()}


def nested(flat: Mapping[str, Any]) -> Params:
    """Parameters by dotted path as a nested dict; layers are counted by integers."""
    return traverse_util.unflatten_dict(
        {tuple(int(key) if key.isdigit() else key for key in path.split(".")): x for path, x in flat.items()}
    )


def write(entries: Iterable[Entry], params: Params) -> dict[str, np.ndarray]:
    """The tensors of the table under their public names, in their public layout."""
    flat = flatten(params)
    return {entry.theirs: give(entry, flat[entry.ours]) for entry in entries}


def give(entry: Entry, x: Tensor) -> np.ndarray:
    """Our tensor of an entry in its public layout."""
    return contiguous(entry.layout.to_theirs(np.asarray(x)))


def contiguous(x: np.ndarray) -> np.ndarray:
    """The same array, row by row in memory; a transposed matrix in strips that stay in cache, ten times as fast."""
    if x.ndim != 2 or x.flags.c_contiguous:
        return np.ascontiguousarray(x)
    bits = x.view(f"u{x.itemsize}")  # numpy copies its own kinds faster than bfloat16
    copied = np.empty(x.shape, bits.dtype)

    def copy(columns: range) -> None:
        for i in columns:
            copied[:, i : i + STRIP] = bits[:, i : i + STRIP]

    middle = x.shape[1] // 2 // STRIP * STRIP
    with ThreadPoolExecutor(1) as other:  # numpy copies without Python's lock
        second = other.submit(copy, range(middle, x.shape[1], STRIP))
        copy(range(0, middle, STRIP))
        second.result()
    return copied.view(x.dtype)


def _untrue_copies(entries: Sequence[Entry], tensors: Mapping[str, Tensor]) -> list[str]:
    """Copies that differ from what they should be copies of."""
    originals = {entry.ours: entry.theirs for entry in entries if not entry.copy}
    pairs = [(entry.theirs, originals[entry.ours]) for entry in entries if entry.copy]
    return [
        f"{a}: differs from {b}, with which it is tied" for a, b in pairs if _digest(tensors[a]) != _digest(tensors[b])
    ]


def _digest(x: Tensor) -> bytes:
    """One of the two may not fit in memory beside the other."""
    return hashlib.sha256(np.ascontiguousarray(x).view(np.uint8).data).digest()


def _their_shape(entry: Entry, our_shape: Shape) -> Shape:
    return entry.layout.to_theirs(np.broadcast_to(np.float32(0), our_shape)).shape
