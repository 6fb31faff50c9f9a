"""Training of `interact` on a mesh: what a device must hold, and what an update cannot take less than.

    state       parameters, two moments and the average, float32        over fsdp
    frozen      the VAEs, which a run holds for its pictures            over fsdp
    copy        parameters in the dtype of computation, whole: where that is float32 and fsdp is 1, there is none
    batch       windows with their latents prepared                     over data and fsdp
    gradients   and, where a batch is computed in pieces, their sum     over fsdp
    windows     what one window keeps alive, most of it for the backward pass, and what one layer receives from
                others, times the windows of a piece on a device        over ulysses

Gradients and windows are of the moment in the program at which they are largest together (`planning.step`).
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from wanstreamer_jax.config import Config
from wanstreamer_jax.planning.hardware import BYTES, DEVICES_OF_A_NODE, GPU
from wanstreamer_jax.planning.roofline import exchanged_bytes
from wanstreamer_jax.planning.step import Step, batch_of, parts_of
from wanstreamer_jax.session_attention import Spans
from wanstreamer_jax.training.config import MeshShape, Training
from wanstreamer_jax.training.sharding import fsdp_spec

PASSES = 3  # of a layer: forward, computed again, backward


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device; see above."""

    state: int
    frozen: int
    copy: int
    batch: int
    gradients: int
    windows: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Floor:
    """Least time of an update in ms by each thing that could take it, everything else being hidden behind it."""

    products: float
    memory: float
    fsdp: float
    data: float
    ulysses: float

    @property
    def ms(self) -> float:
        """The longest."""
        return max(dataclasses.astuple(self))

    @property
    def binding(self) -> str:
        """Which it is."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


@dataclasses.dataclass(frozen=True)
class Row:
    """A mesh: what it holds and takes, or why there is none."""

    mesh: MeshShape
    memory: Memory | None = None
    floor: Floor | None = None
    impossible: str = ""


def plan_training(config: Config, gpu: GPU, n_devices: int, training: Training, step: Step) -> list[Row]:
    """A row for each sensible mesh of so many devices; `step` is `training`'s, traced."""
    return [_row(config, gpu, dataclasses.replace(training, mesh=mesh), step) for mesh in meshes(n_devices)]


def meshes(n_devices: int) -> Iterator[MeshShape]:
    """Ulysses within a node; fsdp not at all, within a node, or over everything."""
    node = math.gcd(n_devices, DEVICES_OF_A_NODE)
    for ulysses in (u for u in range(1, node + 1) if node % u == 0):
        for fsdp in sorted({1, node // ulysses, n_devices // ulysses}):
            yield MeshShape(n_devices // (fsdp * ulysses), fsdp, ulysses)


def _row(config: Config, gpu: GPU, training: Training, step: Step) -> Row:
    mesh = training.mesh
    impossible = _impossible(config, training)
    if impossible:
        return Row(mesh, impossible=impossible)
    memory = training_memory(config, training, step)
    if memory.total > gpu.usable_bytes:
        impossible = f"does not fit: {gpu.usable_bytes / 1e9:.0f} GB are usable"
    return Row(mesh, memory, training_floor(config, gpu, training, step), impossible)


def _impossible(config: Config, training: Training) -> str:
    mesh, kv_heads = training.mesh, config.transformer.kv_heads
    if kv_heads % mesh.ulysses:
        return f"{kv_heads} key/value heads do not divide by ulysses {mesh.ulysses}"
    shares = mesh.data * mesh.fsdp * training.accumulation
    if training.batch % shares:
        return f"batch {training.batch} does not divide by data x fsdp x accumulation = {shares}"
    return ""


# ---- Memory


def training_memory(config: Config, training: Training, step: Step) -> Memory:
    """What a device of `training.mesh` holds at most."""
    mesh, n_windows = training.mesh, _windows(training)
    trainees, frozen = parts_of(config)
    shared, whole = _float32_bytes(trainees, mesh.fsdp), _float32_bytes(trainees, 1)
    pieces_sum = shared if training.accumulation > 1 else 0
    alive = step.peak(n_windows / mesh.ulysses, 1 / mesh.fsdp)
    return Memory(
        state=(4 if training.ema else 3) * shared,
        frozen=_float32_bytes(frozen, mesh.fsdp),
        copy=0 if training.compute == "float32" and mesh.fsdp == 1 else whole * BYTES[training.compute] // 4,
        batch=n_windows * training.accumulation * _tree_bytes(batch_of(config, training.weights.units, 1)),
        gradients=int(alive.gradients) + pieces_sum,
        windows=int(alive.window) + n_windows * int(_exchanged(config, training)),
    )


def _windows(training: Training) -> int:
    """Windows that a device computes at a time, with those that share them."""
    return training.batch // (training.mesh.data * training.mesh.fsdp * training.accumulation)


def _float32_bytes(tree: Any, fsdp: int) -> int:
    """Of one device's part."""

    def part(x: jax.ShapeDtypeStruct) -> int:
        return BYTES["float32"] * x.size // (fsdp if "fsdp" in fsdp_spec(x.shape, fsdp) else 1)

    return sum(part(x) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))


def _tree_bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


# ---- Time


def training_floor(config: Config, gpu: GPU, training: Training, step: Step) -> Floor:
    """The least time of an update, at the peaks of a GPU and its links."""
    mesh, pieces, layers = training.mesh, training.accumulation, config.transformer.layers
    n_windows = _windows(training) * pieces
    whole = _float32_bytes(parts_of(config)[0], 1) * BYTES[training.compute] / BYTES["float32"]
    memory = n_windows * step.moved.window / mesh.ulysses + pieces * (step.moved.gradients + PASSES * whole)
    memory += _update_bytes(config, training)
    gathered = whole * (1 + pieces) * (mesh.fsdp - 1) / mesh.fsdp
    reduced = 2 * pieces * whole / mesh.fsdp * (mesh.data - 1) / mesh.data
    within_fsdp, within_data = mesh.ulysses * mesh.fsdp, mesh.ulysses * mesh.fsdp * mesh.data
    return Floor(
        products=1e3 * n_windows * step.flop / mesh.ulysses / gpu.peak_flops(training.compute),
        memory=1e3 * memory / gpu.memory_bytes_s,
        fsdp=1e3 * gathered / gpu.bytes_s_among(within_fsdp),
        data=1e3 * reduced / gpu.bytes_s_among(within_data),
        ulysses=1e3 * n_windows * PASSES * layers * _exchanged(config, training) / gpu.bytes_s_among(mesh.ulysses),
    )


def _update_bytes(config: Config, training: Training) -> int:
    """The optimiser reads the gradient, and reads and writes parameters, moments and the average."""
    shared = _float32_bytes(parts_of(config)[0], training.mesh.fsdp)
    return (1 + 2 * (4 if training.ema else 3)) * shared


def _exchanged(config: Config, training: Training) -> float:
    """Bytes that a device sends, and receives, in the all-to-alls of a layer and a window."""
    layout, t, ranks, weights = config.layout, config.transformer, training.mesh.ulysses, training.weights
    spans = Spans(config.n_world, layout.n_slice, weights.copies * layout.n_agent_media, weights.units)
    return exchanged_bytes(t, spans.n_slots, 0, ranks)
