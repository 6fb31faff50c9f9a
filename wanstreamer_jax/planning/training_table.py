"""The plan of training as people and as programs read it."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wanstreamer_jax.planning.hardware import GPU
from wanstreamer_jax.planning.training import Floor, Memory, Row
from wanstreamer_jax.training.config import Training

COLUMNS = ("state", "frozen", "copy", "batch", "grads", "windows", "total", "floor, ms", "bound by")


def training_table(plans: Mapping[int, Sequence[Row]], settings: Sequence[Training], gpu: GPU) -> Iterator[str]:
    """A line for each mesh of each number of devices."""
    yield f"memory of a device in GB, {gpu.usable_bytes / 1e9:.0f} are usable; the least time of an update, and why"
    for (n_devices, rows), training in zip(plans.items(), settings, strict=True):
        yield ""
        yield f"{n_devices} GPUs, a batch of {training.batch} windows, accumulation {training.accumulation}"
        yield _line("data fsdp ulysses", *COLUMNS)
        yield from (_line(*_cells(row)) for row in rows)


def _cells(row: Row) -> list[str]:
    mesh = "{:>4} {:>4} {:>7}".format(*dataclasses.astuple(row.mesh))
    if row.memory is None or row.floor is None:
        return [mesh, f"  {row.impossible}"]
    gigabytes = [*dataclasses.astuple(row.memory), row.memory.total]
    limit = row.impossible or row.floor.binding
    return [mesh, *(f"{n / 1e9:.1f}" for n in gigabytes), f"{row.floor.ms:.0f}", f"  {limit}"]


def _line(label: str, *cells: str) -> str:
    return f"{label:<17}" + "".join(f"{cell:>10}" for cell in cells)


def rows_as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Bytes and ms, with totals and what binds."""
    return [dataclasses.asdict(row) | _sums(row.memory, row.floor) for row in rows]


def _sums(memory: Memory | None, floor: Floor | None) -> dict[str, Any]:
    if memory is None or floor is None:
        return {}
    return {"total": memory.total, "floor_ms": floor.ms, "bound_by": floor.binding}
