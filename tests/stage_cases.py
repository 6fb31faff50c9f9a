"""What tests of several stages do."""

import jax
import numpy as np

from wanstreamer_jax.agent import init_agent, load_agent, save_agent
from wanstreamer_jax.training.origin import leave_agent, open_origin


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
