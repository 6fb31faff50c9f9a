"""Which devices think and which perform: two meshes that share no device, or one device that does both."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "ulysses"


@dataclasses.dataclass(frozen=True)
class Devices:
    """The thinker's device and the performer's ranks, in their order."""

    thinker: jax.Device
    performer: tuple[jax.Device, ...]

    def performer_mesh(self) -> Mesh:
        """The ranks as a mesh of one axis. Its type is Auto: `shard_map` says what every program does."""
        return Mesh(np.array(self.performer), (AXIS,), axis_types=(AxisType.Auto,))

    def thinker_sharding(self) -> NamedSharding:
        """All of an array on the thinker."""
        mesh = Mesh(np.array([self.thinker]), ("thinker",), axis_types=(AxisType.Auto,))
        return NamedSharding(mesh, PartitionSpec())


def automatic_ranks(kv_heads: int, n_devices: int) -> int:
    """Performer ranks for so many devices, one of which thinks; 0 where one device does both."""
    return max((r for r in range(1, n_devices) if kv_heads % r == 0), default=0)


def choose_devices(ranks: int, kv_heads: int, indices: Sequence[int] | None = None) -> Devices:
    """One device thinks, `ranks` others perform: the first ones, or those of `indices`, the thinker's first.

    Raises:
        ValueError: a device is missing or named twice, or `ranks` do not divide the key/value heads.
    """
    available = jax.devices()
    if ranks < 1 or kv_heads % ranks:
        fitting = [r for r in range(1, kv_heads + 1) if kv_heads % r == 0]
        raise ValueError(f"{ranks} performer ranks do not divide {kv_heads} key/value heads: take one of {fitting}")
    indices = range(1 + ranks) if indices is None else indices
    if len(indices) != 1 + ranks:
        raise ValueError(f"a thinker and {ranks} performer ranks need {1 + ranks} devices, not {len(indices)}")
    if len(set(indices)) < len(indices):
        raise ValueError(f"devices {list(indices)}: one is named twice; thinker and ranks each need their own")
    if missing := [i for i in indices if not 0 <= i < len(available)]:
        raise ValueError(
            f"a thinker and {ranks} performer ranks need devices {list(indices)}; here are {len(available)}, so "
            f"{missing} are missing: take fewer ranks, or --placement unified"
        )
    thinker, *performer = (available[i] for i in indices)
    return Devices(thinker, tuple(performer))
