"""The step `perform` over ranks: as the performer does it, and as it would be done without its exchange.

    exchange           heads for tokens around attention (Ulysses), as in `stream.split.Split`
    compiler           the program of one device with its history by heads; the compiler chooses everything else
    compiler, tokens   the same, asked to keep the tokens of the picture split as well
    gather             tokens split; each rank gathers the keys and values of all tokens, and once those of the history
    gather, R copies   the same with the whole history kept on every rank, so that only the unit's keys and values move

B sessions, R ranks, T tokens, S tokens of the split sequence, K key/value heads, H head size.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wanstreamer_jax.cache import History, Slice, init_history
from wanstreamer_jax.config import Config
from wanstreamer_jax.model import Latents, Params
from wanstreamer_jax.parallel.mesh import AXIS
from wanstreamer_jax.parallel.ulysses import Attend, Ulysses, Whole
from wanstreamer_jax.stream import steps
from wanstreamer_jax.stream.performer import performer_split
from wanstreamer_jax.stream.placement import start_angles
from wanstreamer_jax.stream.types import Beat

EVERYWHERE, BY_HEADS = PartitionSpec(), PartitionSpec(None, AXIS)
SLICE_BY_HEADS = PartitionSpec(None, None, None, AXIS)


class Inputs(NamedTuple):
    """What `perform` is given."""

    params: Params
    history: History
    new: Slice
    noise: Latents
    beat: Beat


class Performer(NamedTuple):
    """`perform` over ranks, and where its inputs lie."""

    run: Callable[..., tuple[Latents, History]]  # the history is donated
    layout: Inputs  # of shardings


def full_inputs(config: Config, params: Params) -> Inputs:
    """One session whose window is full of noise, in the middle of its life."""
    t, layout = config.transformer, config.layout
    keys = iter(jax.random.split(jax.random.key(0), 2 * t.layers + 2))
    n_units = 2 * config.history.n_tokens // layout.n_slice
    empty = init_history(config, 1)
    k, v = (tuple(jax.random.normal(next(keys), x.shape, x.dtype) for x in layers) for layers in (empty.k, empty.v))
    history = History(k, v, jnp.array([config.n_world]), jnp.array([n_units * layout.n_slice]))
    new = jax.random.normal(next(keys), (1, t.layers, 2, t.kv_heads, layout.n_slice, t.head_size), t.dtype)
    start = start_angles(config, np.array([config.n_world + n_units * layout.advance]))
    answered = jnp.ones(1, bool)
    beat = Beat(jnp.array([n_units]), answered=answered, start=jnp.asarray(start), key=jax.random.key(1)[None])
    noise = steps.unit_noise(config, beat)
    return Inputs({"transformer": params["transformer"]}, history, Slice(new, jnp.array([layout.n_slice])), noise, beat)


def exchanging(config: Config, mesh: Mesh) -> Performer:
    """Heads for tokens around attention."""
    split = performer_split(config, mesh.size)
    return on_ranks(functools.partial(steps.perform, config, split=split), mesh, by_heads())


def gathering_own(config: Config, mesh: Mesh) -> Performer:
    """Each rank gathers the unit's keys and values, and has the whole history."""
    return on_ranks(functools.partial(steps.perform, config, split=gathered(config, mesh)), mesh, whole_history())


def gathering(config: Config, mesh: Mesh) -> Performer:
    """Each rank gathers the unit's keys and values, and once a unit those of the history."""

    def perform(params: Params, history: History, new: Slice, noise: Latents, beat: Beat) -> tuple[Latents, History]:
        k, v = (tuple(heads_of_all(x, 1) for x in layers) for layers in (history.k, history.v))
        every = history._replace(k=k, v=v)
        all_new = new._replace(kv=heads_of_all(new.kv, 3))
        latents, every = steps.perform(config, params, every, all_new, noise, beat, gathered(config, mesh))
        k, v = (tuple(own_heads(x, mesh.size) for x in layers) for layers in (every.k, every.v))
        return latents, every._replace(k=k, v=v)

    return on_ranks(perform, mesh, by_heads())


def compiled(config: Config, mesh: Mesh) -> Performer:
    """The program of one device; the compiler partitions it."""
    return partitioned(config, mesh, Whole())


def compiled_with_tokens(config: Config, mesh: Mesh) -> Performer:
    """The same, asked to keep the picture's tokens split."""
    tokens = NamedSharding(mesh, PartitionSpec(None, AXIS))
    return partitioned(
        config, mesh, Hinted(AXIS, mesh.size, config.layout.n_agent_audio, config.picture.n_tokens, tokens)
    )


PERFORMERS: dict[str, Callable[[Config, Mesh], Performer]] = {
    "exchange": exchanging,
    "compiler": compiled,
    "compiler, tokens": compiled_with_tokens,
    "gather": gathering,
    "gather, R copies": gathering_own,
}


def partitioned(config: Config, mesh: Mesh, split: Whole) -> Performer:
    """A whole program, with only its inputs and outputs laid out."""
    layout = placed(mesh, by_heads())
    run = jax.jit(
        functools.partial(steps.perform, config, split=split),
        in_shardings=tuple(layout),
        out_shardings=(NamedSharding(mesh, EVERYWHERE), layout.history),
        donate_argnums=1,
    )
    return Performer(run, layout)


def on_ranks(perform: Callable[..., Any], mesh: Mesh, specs: Inputs) -> Performer:
    """A rank's program on every rank."""
    mapped = jax.shard_map(
        perform, mesh=mesh, in_specs=tuple(specs), out_specs=(EVERYWHERE, specs.history), check_vma=False
    )
    return Performer(jax.jit(mapped, donate_argnums=1), placed(mesh, specs))


def by_heads() -> Inputs:
    """Each rank has its heads of history and slice, and everything else."""
    history = History(BY_HEADS, BY_HEADS, EVERYWHERE, EVERYWHERE)  # type: ignore[arg-type]
    new = Slice(SLICE_BY_HEADS, EVERYWHERE)  # type: ignore[arg-type]
    return Inputs(EVERYWHERE, history, new, EVERYWHERE, EVERYWHERE)  # type: ignore[arg-type]


def whole_history() -> Inputs:
    """Each rank has everything."""
    return by_heads()._replace(
        history=History(EVERYWHERE, EVERYWHERE, EVERYWHERE, EVERYWHERE),  # type: ignore[arg-type]
        new=Slice(EVERYWHERE, EVERYWHERE),  # type: ignore[arg-type]
    )


def placed(mesh: Mesh, specs: Inputs) -> Inputs:
    """Specs as shardings of a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, PartitionSpec))


def heads_of_all(x: jax.Array, axis: int) -> jax.Array:
    """The heads of all ranks."""
    return jax.lax.all_gather(x, AXIS, axis=axis, tiled=True)


def own_heads(x: jax.Array, ranks: int) -> jax.Array:
    """This rank's heads of [B, K, S, H]."""
    n = x.shape[1] // ranks
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * n, n, axis=1)


def gathered(config: Config, mesh: Mesh) -> "Gathered":
    """Tokens split, keys and values gathered."""
    return Gathered(AXIS, mesh.size, config.layout.n_agent_audio, config.picture.n_tokens)


class Gathered(Ulysses):
    """Tokens are split as the performer splits them; a rank's queries see all heads of all tokens."""

    def attend(self, see: Attend, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """Attention of this rank's tokens, after one gather of keys and values."""
        own = jnp.stack([k, v])  # [2, B, K, T, H]
        split = jax.lax.all_gather(own[:, :, :, self.n_shared :], self.axis, axis=3, tiled=True)
        k, v = jnp.concatenate([own[:, :, :, : self.n_shared], split], axis=3)
        return see(q, k, v)


@dataclasses.dataclass(frozen=True)
class Hinted(Ulysses):
    """All tokens on all ranks as far as the program says; the compiler is asked to keep the sequence split."""

    tokens: NamedSharding

    def local(self, x: jax.Array) -> jax.Array:
        """The padded sequence."""
        padding = [(0, 0)] * x.ndim
        padding[1] = (0, self.n_local * self.ranks - self.n_split)
        return jax.lax.with_sharding_constraint(jnp.pad(x, padding), self.tokens)

    def whole(self, x: jax.Array) -> jax.Array:
        """The sequence without padding."""
        return x[:, : self.n_split]

    def attend(self, see: Attend, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """Attention as it is on one device."""
        return Whole().attend(see, q, k, v)
