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


def choose_devices(ranks: int, kv_heads: int, available: Sequence[jax.Device] | None = None) -> Devices:
    """The first device thinks, the next `ranks` perform.

    Raises:
        ValueError: there are too few devices, or `ranks` do not divide the key/value heads.
    """
    available = jax.devices() if available is None else available
    if ranks < 1 or kv_heads % ranks:
        fitting = [r for r in range(1, kv_heads + 1) if kv_heads % r == 0]
        raise ValueError(f"{ranks} performer ranks do not divide {kv_heads} key/value heads: take one of {fitting}")
    if len(available) < 1 + ranks:
        raise ValueError(
            f"a thinker and {ranks} performer ranks need {1 + ranks} devices, here are {len(available)}: take fewer "
            "ranks, or --placement unified"
        )
    return Devices(available[0], tuple(available[1 : 1 + ranks]))
