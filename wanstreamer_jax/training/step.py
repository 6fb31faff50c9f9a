"""One update: the losses that are due, over the pieces of a batch, and what they change."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from wanstreamer_jax.config import Config
from wanstreamer_jax.training.config import Training
from wanstreamer_jax.training.optimizer import make_optimizer
from wanstreamer_jax.training.sharding import batch_sharding, replicated, shard_tree
from wanstreamer_jax.training.stage import Batch, Metrics, Objective, Params, Stage, Trees
from wanstreamer_jax.training.state import Optimizers, Skips, TrainState, init_state, move_average


class Update(NamedTuple):
    """What one objective asks for: a gradient, and numbers to be logged."""

    gradient: Params
    metrics: Metrics


@dataclasses.dataclass(frozen=True)
class Program:
    """A stage on a mesh: the functions that are compiled, and where their arrays lie."""

    stage: Stage
    config: Config
    training: Training
    mesh: Mesh

    @functools.cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """All of the run's objectives."""
        return self.stage.objectives(self.training)

    @functools.cached_property
    def optimizers(self) -> Optimizers:
        """The optimiser of each trainee."""
        training = self.training
        return {
            o.trainee: make_optimizer(
                training.helper if o.trainee in self.stage.helpers else training.optimizer, training.steps // o.every
            )
            for o in self.objectives
        }

    def due(self, step: int) -> tuple[int, ...]:
        """Indices of the objectives that are updated at a step."""
        return tuple(i for i, objective in enumerate(self.objectives) if objective.due(step))

    # ---- Where things lie

    def init(self, parts: Trees) -> TrainState:
        """The state before the first step, from an agent's parameters; run it under jit."""
        key = jax.random.fold_in(jax.random.key(self.training.seed), INIT)
        trainees = self.stage.init(self.config, self.training.weights, parts, key)
        trainees = jax.tree.map(lambda x: x.astype(jnp.float32), trainees)
        averaged = trainees.keys() - self.stage.helpers if self.training.ema else ()
        return init_state(trainees, self.optimizers, averaged)

    def shardings(self, shapes: TrainState) -> TrainState:
        """Where each array of a state lies."""
        return shard_tree(self.mesh, shapes)

    # ---- A step

    def train_step(
        self, state: TrainState, frozen: Trees, batch: Batch, due: tuple[int, ...]
    ) -> tuple[TrainState, Metrics]:
        """The state after one step, and what is logged of it; `due` are indices of objectives, static."""
        whole = self.computed(state.trainees), self.computed(frozen)
        metrics: Metrics = {}
        new = state._replace(step=state.step + 1)
        for i in due:
            objective = self.objectives[i]
            key = step_key(self.training.seed, state.step, i)
            update = self.accumulate(objective, *whole, batch, key)
            new, logged = self.apply(objective.trainee, new, update)
            metrics |= {f"{objective.trainee}/{name}": value for name, value in logged.items()}
        return new, metrics

    def computed(self, trees: Trees) -> Trees:
        """Trees as losses see them: in the dtype of computation, and whole on each device where the stage says so."""
        cast = jax.tree.map(lambda x: x.astype(self.training.compute), trees)
        return jax.lax.with_sharding_constraint(cast, replicated(self.mesh)) if self.stage.gathered else cast

    def accumulate(self, objective: Objective, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array) -> Update:
        """The mean of an objective's gradient and metrics over the pieces of a batch, one after the other."""
        n_pieces = self.training.accumulation
        if n_pieces == 1:  # no loop: XLA's CPU convolutions are many times slower in the body of one
            return self.differentiate(objective, trainees, frozen, batch, key)

        def add(total: Update, piece: tuple[Batch, jax.Array]) -> tuple[Update, None]:
            update = self.differentiate(objective, trainees, frozen, *piece)
            return jax.tree.map(lambda a, b: a + b / n_pieces, total, update), None

        pieces = jax.tree.map(self._split, batch), jax.random.split(key, n_pieces)
        like = jax.eval_shape(
            lambda p: self.differentiate(objective, trainees, frozen, *p), jax.tree.map(lambda x: x[0], pieces)
        )
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        return jax.lax.scan(add, zeros, pieces)[0]

    def _split(self, x: jax.Array) -> jax.Array:
        """A batch [B, ..] as pieces [A, B / A, ..], without moving a sample to another device."""
        pieces = jnp.moveaxis(x.reshape(-1, self.training.accumulation, *x.shape[1:]), 1, 0)
        axes = batch_sharding(self.mesh, self.stage.batch_axes).spec
        return jax.lax.with_sharding_constraint(pieces, jax.NamedSharding(self.mesh, jax.P(None, *axes)))

    def differentiate(
        self, objective: Objective, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
    ) -> Update:
        """An objective's float32 gradient and metrics over one piece of a batch."""

        def loss(own: Params) -> tuple[jax.Array, Metrics]:
            trees = trainees | {objective.trainee: own}
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                value, metrics = objective.loss(self.config, self.training.weights, trees, frozen, batch, key)
            return value, metrics | {"loss": value}

        if self.training.remat == "elementwise":
            loss = jax.checkpoint(loss, policy=jax.checkpoint_policies.dots_saveable)
        own = trainees[objective.trainee]
        gradient, metrics = jax.grad(loss, has_aux=True)(own)
        gradient = jax.tree.map(lambda g: g.astype(jnp.float32), gradient)
        metrics = jax.tree.map(lambda m: m.astype(jnp.float32), metrics)
        return Update(jax.lax.with_sharding_constraint(gradient, shard_tree(self.mesh, own)), metrics)

    def apply(self, trainee: str, state: TrainState, update: Update) -> tuple[TrainState, Metrics]:
        """The state after an update of one trainee; one that is not finite changes nothing but the count of such."""
        params, optimizer = state.trainees[trainee], state.optimizer[trainee]
        norm = optax.tree.norm(update.gradient)
        finite = jnp.isfinite(norm) & jnp.isfinite(update.metrics["loss"])
        change, changed = self.optimizers[trainee].update(update.gradient, optimizer, params)
        keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
        params = keep(optax.apply_updates(params, change), params)
        old = state.skips[trainee]
        skips = Skips(old.total + ~finite, jnp.where(finite, 0, old.in_a_row + 1))
        state = state._replace(
            trainees=state.trainees | {trainee: params},
            optimizer=state.optimizer | {trainee: keep(changed, optimizer)},
            skips=state.skips | {trainee: skips},
        )
        if trainee in state.ema:
            average = move_average(state.ema[trainee], params, state.step, self.training.ema)
            state = state._replace(ema=state.ema | {trainee: keep(average, state.ema[trainee])})
        logged = {"gradient_norm": norm, "skipped": skips.total, "skipped_in_a_row": skips.in_a_row}
        return state, update.metrics | logged

    # ---- Looking at it

    def look(self, function: Any, trees: Trees, frozen: Trees, batch: Batch, key: jax.Array) -> Metrics:
        """What a stage's `measure` or `preview` says of a held-out batch."""
        whole = self.computed(trees), self.computed(frozen)
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            return function(self.config, self.training.weights, *whole, batch, key)


INIT, HELDOUT = 2**31 - 1, 2**31 - 2  # in the place of a step: the keys of what is no step


def step_key(seed: int, step: jax.Array | int, objective: int) -> jax.Array:
    """The key of an objective at a step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), objective)


def best_trees(state: TrainState) -> Trees:
    """The trainees as they are measured, shown and exported: averaged where there are averages."""
    return state.trainees | state.ema
