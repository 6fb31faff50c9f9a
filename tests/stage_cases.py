"""What tests of several stages do."""

import jax
import numpy as np

from tests.small import quick_jit
from wanstreamer_jax.agent import init_agent, load_agent, save_agent
from wanstreamer_jax.training.origin import leave_agent, open_origin
from wanstreamer_jax.training.sharding import replicated
from wanstreamer_jax.training.step import Program


def learn(program: Program, parts, batch):
    """The trainees before, the trainees after, and what was logged of all of a program's steps on one batch."""
    shardings = program.shardings(jax.eval_shape(program.init, parts))
    state = quick_jit(program.init, out_shardings=shardings)(parts)
    before = jax.tree.map(np.array, state.trainees)
    frozen = {name: parts[name] for name in program.stage.frozen}
    # A state lies where it lay before the step: otherwise the second step would be compiled again.
    out = shardings, replicated(program.mesh)
    step = quick_jit(program.train_step, static_argnames="due", donate_argnums=0, out_shardings=out)
    logged = []
    for i in range(program.training.steps):
        state, metrics = step(state, frozen, batch, due=program.due(i))
        logged.append({name: float(x) for name, x in metrics.items()})
    return before, state.trainees, logged


def changed_sense(folder, config, stage, sense, trees) -> bool:
    """Whether a stage leaves an agent with all of a sense moved, and all else as it was, untrained."""
    before = init_agent(config, 0)
    save_agent(folder / "before", before)
    origin = open_origin(folder / "before", config, 0)
    moved = jax.tree.map(lambda x: np.asarray(x) + 1, trees)
    leave_agent(origin, stage.finish(config, moved, {}), stage.name, {}, folder / "after")
    after = load_agent(folder / "after")
    same = jax.tree.map(np.array_equal, before.params, after.params)
    of_sense = same["perception"].pop(sense)
    return not any(jax.tree.leaves(of_sense)) and jax.tree.all(same) and not after.trained
