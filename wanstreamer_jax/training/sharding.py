"""The mesh of training, and where every array lies on it: one rule, from shapes.

    axis      what it shares out
    data      the samples of a batch; parameters are copied
    fsdp      the samples of a batch, and every large parameter and its optimiser state
    ulysses   the tokens of a sequence, inside the attention of stages over sessions

Axes are Auto on purpose: losses are written for whole arrays and know no mesh, and XLA places what this file does not.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wanstreamer_jax.session_attention import HERE, Spread
from wanstreamer_jax.training.config import MeshShape, Training
from wanstreamer_jax.training.errors import TrainingError

AXES = ("data", "fsdp", "ulysses")
MIN_SHARDED = 1024  # numbers: smaller arrays cost more to gather than to keep whole


def make_mesh(shape: MeshShape) -> Mesh:
    """The mesh of training over the devices of all hosts.

    Raises:
        TrainingError: the devices do not make such a mesh.
    """
    n_devices, shared = jax.device_count(), shape.fsdp * shape.ulysses
    if min(shape.fsdp, shape.ulysses) < 1 or shape.data < 0:
        raise TrainingError(f"mesh {shape}: fsdp and ulysses are at least 1, and data at least 0, which is all others")
    if shape.data == 0 and n_devices % shared:
        raise TrainingError(
            f"mesh: {n_devices} devices do not divide by fsdp {shape.fsdp} x ulysses {shape.ulysses} = {shared}"
        )
    data = shape.data or n_devices // shared
    if data * shared > n_devices:
        raise TrainingError(
            f"mesh: {data} x {shape.fsdp} x {shape.ulysses} needs more than the {n_devices} devices here"
        )
    if jax.process_count() > 1 and data * shared < n_devices:
        raise TrainingError(
            f"mesh: {data} x {shape.fsdp} x {shape.ulysses} must use all {n_devices} devices of all hosts"
        )
    devices = jax.devices()[: data * shared]
    return jax.make_mesh((data, shape.fsdp, shape.ulysses), AXES, (AxisType.Auto,) * len(AXES), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shard_tree(mesh: Mesh, shapes: Any) -> Any:
    """The sharding of each array of a tree of parameters or optimiser state."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, fsdp_spec(leaf.shape, mesh.shape["fsdp"])), shapes)


def fsdp_spec(shape: tuple[int, ...], n_shards: int) -> PartitionSpec:
    """The largest axis that the shards divide is shared out; where there is none, nothing is."""
    fitting = [axis for axis, size in enumerate(shape) if size % n_shards == 0]
    if not fitting or math.prod(shape) < MIN_SHARDED:
        return PartitionSpec()
    axis = max(fitting, key=lambda i: shape[i])
    return PartitionSpec(*[None] * axis, "fsdp")


def batch_sharding(mesh: Mesh, axes: tuple[str, ...]) -> NamedSharding:
    """Samples, axis 0, are shared out over the mesh's `axes`."""
    return NamedSharding(mesh, PartitionSpec(axes))


def token_spread() -> Spread:
    """How sequences lie on the mesh that is set (`jax.set_mesh`): on all devices of its ulysses axis."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape["ulysses"] == 1:
        return HERE
    samples = ("data", "fsdp")
    shared, whole = PartitionSpec(samples, "ulysses"), PartitionSpec(samples)
    place = jax.lax.with_sharding_constraint
    return Spread(mesh.shape["ulysses"], lambda x: place(x, shared), lambda x: place(x, whole))


def check_batch(training: Training, mesh: Mesh, axes: tuple[str, ...]) -> None:
    """Raise TrainingError unless every device gets whole samples in each piece of an update."""
    shares = math.prod(mesh.shape[axis] for axis in axes)
    if training.accumulation < 1 or training.batch % (shares * training.accumulation):
        raise TrainingError(
            f"batch {training.batch} does not divide by accumulation {training.accumulation} x {shares} devices that "
            f"share it ({' x '.join(axes)})"
        )


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """A batch on its devices, from the part of it that this host has read."""
    return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()}


def fetch(tree: Any, mesh: Mesh) -> Any:
    """A tree as numpy arrays on every host, one array after the other."""
    gather = jax.jit(lambda x: x, out_shardings=replicated(mesh))
    return jax.tree.map(lambda x: np.asarray(gather(x)), tree)
