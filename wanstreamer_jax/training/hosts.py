"""Several hosts as one program: how they meet, and what they must decide alike."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from wanstreamer_jax.training.errors import TrainingError

_LONGEST = 256  # bytes of what the primary says


class Address(NamedTuple):
    """Where this process stands among the others."""

    coordinator: str  # host:port of process 0
    processes: int
    process: int


def connect(address: Address | None, environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes of this run, if there are any; before anything else is asked of JAX.

    Either `address` says where, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (or Kubernetes'
    JOB_COMPLETION_INDEX) do, or JAX reads it from Slurm or Open MPI.

    Raises:
        TrainingError: they cannot be reached.
    """
    address = address or _from_environment(environment)
    if address is None and not _launched_by_scheduler(environment):
        return
    try:
        jax.distributed.initialize(*(address or ()))
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the processes of this run do not meet at {address or 'the scheduler'}: {error}"
        ) from error


def _from_environment(environment: Mapping[str, str]) -> Address | None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES")
    process = environment.get("JAX_PROCESS_ID", environment.get("JOB_COMPLETION_INDEX"))
    if process is None or any(name not in environment for name in names):
        return None
    return Address(environment[names[0]], int(environment[names[1]]), int(process))


def _launched_by_scheduler(environment: Mapping[str, str]) -> bool:
    """Inside `srun` or `mpirun` with more than one task; a lone task, as in an interactive job, needs nobody."""
    slurm = "SLURM_STEP_ID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    return slurm or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1


def is_primary() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def any_host(*flags: bool) -> tuple[bool, ...]:
    """Each flag as true where it is so on any host; a meeting of all of them."""
    if jax.process_count() == 1:
        return flags
    gathered = multihost_utils.process_allgather(np.array(flags))
    return tuple(bool(flag) for flag in np.any(gathered, axis=0))


def said_by_primary(text: str) -> str:
    """What process 0 passed, on every host."""
    if jax.process_count() == 1:
        return text
    padded = np.frombuffer(text.encode().ljust(_LONGEST, b"\0"), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).rstrip(b"\0").decode()
