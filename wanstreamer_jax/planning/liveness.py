"""What a traced program keeps alive, instruction by instruction, and what it moves through memory.

A value takes memory when a kernel writes it. Kernels are products, convolutions, reductions, gathers and the like;
arithmetic is fused into the kernels that read it, as XLA does, and takes memory only where a product reads it, where
several values are made of it, or where the program returns it. Reshaping and slicing take none. A buffer is alive from
the kernel that writes it to the last that reads it, in the program's own order: what is computed again is alive twice,
each time briefly. Arguments of the program are not counted.
"""

import collections
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Float

VIEWS = frozenset(("reshape", "squeeze", "expand_dims", "transpose", "rev", "slice", "split", "stop_gradient")).union(
    ("copy", "sharding_constraint", "reshard")
)
CHEAP = VIEWS | {"broadcast_in_dim", "iota", "convert_element_type", "select_n", "pad", "tile"}  # repeated, never kept
PRODUCTS = frozenset(("dot_general", "conv_general_dilated"))
LOOPS = ("scan", "while", "cond")
KERNELS = PRODUCTS.union(
    ("reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "argmax", "argmin", "sort", "cumsum"),
    ("cummax", "concatenate", "gather", "scatter", "scatter-add", "dynamic_slice", "dynamic_update_slice"),
    ("random_bits", *LOOPS),
)
CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
NOTHING = frozenset[int]()


class Instruction(NamedTuple):
    """An equation; values are numbers, and arguments and constants have none."""

    name: str
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass
class Listing:
    """A program in which functions, rematerialised or not, stand where they are called."""

    instructions: list[Instruction] = dataclasses.field(default_factory=list)
    values: list[Any] = dataclasses.field(default_factory=list)  # shape and dtype of each
    results: list[int | None] = dataclasses.field(default_factory=list)
    repeated: list[range] = dataclasses.field(default_factory=list)  # of every layer, what computes it again backward
    moved: int = 0  # bytes that the turns of loops write and read

    @classmethod
    def of(cls, jaxpr: Any) -> "Listing":
        """The instructions of a program."""
        listing = cls()
        listing.results = listing._add(jaxpr, [None] * len(jaxpr.invars))
        return listing

    def n_bytes(self, values: list[int]) -> Float[np.ndarray, " N"]:
        """How large values are."""
        return np.array([self.values[x].size * self.values[x].dtype.itemsize for x in values], float)

    def _add(self, jaxpr: Any, arguments: list[int | None]) -> list[int | None]:
        known = dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> int | None:
            return None if isinstance(atom, Literal) else known.get(atom)

        for equation in jaxpr.eqns:
            inputs, called = [read(x) for x in equation.invars], _called(equation)
            if called is None:
                known |= zip(equation.outvars, self._write(equation, tuple(inputs)), strict=False)
            else:
                first = len(self.instructions)
                known |= zip(equation.outvars, self._add(called, inputs), strict=True)
                if equation.params.get("differentiated"):
                    self.repeated.append(range(first, len(self.instructions)))
        return [read(x) for x in jaxpr.outvars]

    def _write(self, equation: Any, inputs: tuple[int | None, ...]) -> list[int]:
        """The values of an equation's results and, if it is a loop, one more: what a turn of it needs."""
        first = len(self.values)
        self.values += [x.aval for x in equation.outvars]
        if equation.primitive.name in LOOPS:
            alive, moved = _turns(equation)
            self.values.append(jax.ShapeDtypeStruct((alive,), np.uint8))  # nobody reads it
            self.moved += moved
        outputs = list(range(first, len(self.values)))
        self.instructions.append(Instruction(equation.primitive.name, inputs, tuple(outputs)))
        return outputs


def _turns(equation: Any) -> tuple[int, int]:
    """Bytes that a loop has alive beside what it reads and gives, and those that its turns move.

    XLA gives a loop buffers of its own, to read and to write; a turn's slices are copies too.
    """
    alive = moved = 0
    for body in (x for value in equation.params.values() for x in (value if isinstance(value, tuple) else (value,))):
        if hasattr(body, "jaxpr"):
            listing = Listing.of(body.jaxpr)
            buffers = buffers_of(listing)
            n_bytes = listing.n_bytes(buffers.value)
            slices = body.jaxpr.invars[equation.params.get("num_consts", 0) + equation.params.get("num_carry", 0) :]
            turn = int(buffers.alive(n_bytes[:, None], len(listing.instructions)).max())
            alive = max(alive, _n_bytes(slices) + turn)
            moved += int(np.array(buffers.n_moves) @ n_bytes) + listing.moved
    return alive + _n_bytes([*equation.invars, *equation.outvars]), moved * equation.params.get("length", 1)


def _n_bytes(variables: list[Any]) -> int:
    return sum(x.aval.size * x.aval.dtype.itemsize for x in variables)


def _called(equation: Any) -> Any:
    """The program that an equation runs once, in its place."""
    if equation.primitive.name in LOOPS:
        return None
    closed = next((equation.params[name] for name in CALLED if name in equation.params), None)
    return getattr(closed, "jaxpr", closed)


class Buffers(NamedTuple):
    """What takes memory, a buffer each."""

    value: list[int]
    written: list[int]  # by which instruction
    read: list[int]  # the last one that reads it
    n_moves: list[int]  # how often it is written or read
    of_results: set[int]  # values that arithmetic alone stands between and what the program returns

    def alive(self, sizes: Float[np.ndarray, "N C"], n_instructions: int) -> Float[np.ndarray, "I C"]:
        """Bytes alive at each instruction, and at the end, of buffers of so many bytes in each class C."""
        change = np.zeros((n_instructions + 2, sizes.shape[1]))
        np.add.at(change, self.written, sizes)
        np.subtract.at(change, np.array(self.read, int) + 1, sizes)
        return np.cumsum(change, axis=0)[:-1]


def buffers_of(listing: Listing) -> Buffers:
    """Which values take memory, and how long they must stay."""
    kept = _kept(listing)
    sources: list[frozenset[int]] = [NOTHING] * len(listing.values)
    written: dict[int, int] = {}
    last: dict[int, int] = {}
    n_moves: collections.Counter[int] = collections.Counter()
    for i, (_, inputs, outputs) in enumerate(listing.instructions):
        read = NOTHING.union(*(sources[x] for x in inputs if x is not None))
        new = kept.intersection(outputs)
        for out in outputs:
            sources[out] = frozenset((out,)) if out in new else read
        if new:
            written |= dict.fromkeys(new, i)
            last |= dict.fromkeys(new | read, i)
            n_moves.update(new | read)
    returned = NOTHING.union(*(sources[x] for x in listing.results if x is not None))
    last |= dict.fromkeys(returned, len(listing.instructions))
    order = list(written)
    moves = [n_moves[x] for x in order]
    return Buffers(order, list(written.values()), [last[x] for x in order], moves, _of_results(listing))


def _kept(listing: Listing) -> set[int]:
    """Values that a kernel writes to memory."""
    n_readers: collections.Counter[int | None] = collections.Counter()
    wanted, stacked = set(listing.results), set[int | None]()
    kept: set[int] = set()
    for name, inputs, outputs in reversed(listing.instructions):
        passed_on = name in CHEAP
        n = sum(n_readers[x] for x in outputs) if passed_on else 1
        n_readers.update(dict.fromkeys(inputs, n))
        if name in LOOPS:
            stacked.update(inputs)
        if name == "transpose" and not stacked.isdisjoint(outputs):
            kept.update(outputs)
        elif name in VIEWS and not stacked.isdisjoint(outputs):
            stacked.update(inputs)
        if name in PRODUCTS or name in LOOPS or (name in VIEWS and not wanted.isdisjoint(outputs)):
            wanted.update(inputs)
        if name in KERNELS:
            kept.update(outputs)
        elif name not in VIEWS:
            kept.update(x for x in outputs if x in wanted or (not passed_on and n_readers[x] > 1))
    return kept


def _of_results(listing: Listing) -> set[int]:
    found = {x for x in listing.results if x is not None}
    for name, inputs, outputs in reversed(listing.instructions):
        if name not in KERNELS and not found.isdisjoint(outputs):
            size = listing.values[outputs[0]].size
            found |= {x for x in inputs if x is not None and listing.values[x].size == size}
    return found
