"""The program that makes a unit's latents, on one device or over ranks."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from wanstreamer_jax.cache import History, Slice
from wanstreamer_jax.config import Config
from wanstreamer_jax.parallel.mesh import AXIS
from wanstreamer_jax.parallel.ulysses import Ulysses, Whole
from wanstreamer_jax.stream import steps

EVERYWHERE, HEADS = PartitionSpec(), PartitionSpec(None, AXIS)
SLICE_HEADS = PartitionSpec(None, None, None, AXIS)


def performer_program(config: Config, mesh: Mesh | None, kept: Callable[[str, Any], Any], solver_steps: int) -> Any:
    """`perform` with so many solver steps, jitted, over the ranks of a mesh; without one, where its arguments are."""
    config = config.with_solver_steps(solver_steps)
    ranks = 1 if mesh is None else mesh.size
    perform: Any = functools.partial(steps.perform, config, split=performer_split(config, ranks))
    if ranks > 1:
        history = History(HEADS, HEADS, EVERYWHERE, EVERYWHERE)  # type: ignore[arg-type]
        new = Slice(SLICE_HEADS, EVERYWHERE)  # type: ignore[arg-type]
        specs = (EVERYWHERE, history, new, EVERYWHERE, EVERYWHERE)
        perform = jax.shard_map(perform, mesh=mesh, in_specs=specs, out_specs=(EVERYWHERE, history), check_vma=False)
    return kept(f"perform{solver_steps}", jax.jit(perform, donate_argnums=1))


def performer_split(config: Config, ranks: int) -> Whole:
    """How a unit's latent tokens are split over ranks: not at all over one."""
    if ranks == 1:
        return Whole()
    return Ulysses(AXIS, ranks, config.layout.n_agent_audio, config.picture.n_tokens)
