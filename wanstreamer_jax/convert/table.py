"""A table of tensors: what a public checkpoint calls each one and how it lays it out, in and out.

A table is strict: every tensor of it is there once, with the expected shape, and nothing else is, but for what the
caller says is not used. Tensors are moved, nothing is computed: there and back is bit for bit the same.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from einops import rearrange
from flax import nnx, traverse_util

Params = dict[str, Any]


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


def affine_entries(theirs: str, ours: str, layout: Layout = LINEAR) -> Iterator[Entry]:
    """Kernel and bias of a linear layer or a convolution."""
    yield Entry(f"{theirs}.weight", f"{ours}.kernel", layout)
    yield Entry(f"{theirs}.bias", f"{ours}.bias")


def layer_norm_entries(theirs: str, ours: str) -> Iterator[Entry]:
    """Scale and bias of a layer norm."""
    yield Entry(f"{theirs}.weight", f"{ours}.scale")
    yield Entry(f"{theirs}.bias", f"{ours}.bias")


def read(
    table: Iterable[Entry], tensors: Mapping[str, np.ndarray], init: Callable[[], nnx.Module], unused: str
) -> Params:
    """Return the parameters of the module that `init` makes, with the table's tensors taken from `tensors`.

    What is not in the table begins as `init` draws it. `unused` is a regular expression of names to leave out. Raises
    one ValueError that lists every unknown, missing and ill-shaped tensor.
    """
    entries = {entry.theirs: entry for entry in table}
    ours = _flatten(nnx.to_pure_dict(nnx.state(nnx.eval_shape(init))))
    wanted = {name: _their_shape(entry, ours[entry.ours][1].shape) for name, entry in entries.items()}
    given = {name: np.asarray(x, np.float32) for name, x in tensors.items() if not re.fullmatch(unused, name)}
    _check(given, wanted)
    taken = {entry.ours: np.ascontiguousarray(entry.layout.to_ours(given[name])) for name, entry in entries.items()}
    values = taken | _draw(init, ours.keys() - taken.keys())
    return traverse_util.unflatten_dict({path: values[dotted] for dotted, (path, _) in ours.items()})


def _draw(init: Callable[[], nnx.Module], paths: Iterable[str]) -> dict[str, np.ndarray]:
    """The fresh parameters at `paths`; under jit, nothing else is drawn."""

    def pick() -> dict[str, jax.Array]:
        fresh = _flatten(nnx.to_pure_dict(nnx.state(init())))
        return {path: fresh[path][1] for path in paths}

    return jax.tree.map(np.asarray, jax.jit(pick)())


def write(table: Iterable[Entry], params: Params) -> dict[str, np.ndarray]:
    """The tensors of the table under their public names, in their public layout."""
    flat = _flatten(params)
    return {
        entry.theirs: np.ascontiguousarray(entry.layout.to_theirs(np.asarray(flat[entry.ours][1]))) for entry in table
    }


def _check(given: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [f"unknown {name}" for name in sorted(given.keys() - wanted.keys())]
    wrong += [f"missing {name}" for name in sorted(wanted.keys() - given.keys())]
    for name in sorted(given.keys() & wanted.keys()):
        if given[name].shape != wanted[name]:
            wrong.append(f"{name}: shape {given[name].shape}, expected {wanted[name]}")
    if wrong:
        raise ValueError("the checkpoint is not of this configuration:\n  " + "\n  ".join(wrong))


def _their_shape(entry: Entry, our_shape: tuple[int, ...]) -> tuple[int, ...]:
    return entry.layout.to_theirs(np.broadcast_to(np.float32(0), our_shape)).shape


def _flatten(params: Params) -> dict[str, tuple[tuple, Any]]:
    """Dotted path -> (path, array)."""
    flat = traverse_util.flatten_dict(params)
    return {".".join(map(str, path)): (path, x) for path, x in flat.items()}
