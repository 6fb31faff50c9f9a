"""Bundle a trained agent as `wanstreamer_jax/assets/tiny`, with the world that its sessions began with in training.

    python docs/make_tiny.py AGENT

AGENT is what a stage of `train.py configs/tiny.py` left. It is written in half precision, which halves what is
downloaded; it is computed with as its configuration says.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from wanstreamer_jax import bundled
from wanstreamer_jax.agent import load_agent, save_agent
from wanstreamer_jax.data.world import World, make_session
from wanstreamer_jax.data.world.folder import write_world


def bundle_agent(source: Path) -> None:
    """The agent, in half precision; ValueError when a number does not fit into it."""
    agent = load_agent(source)
    params = jax.tree.map(lambda x: np.asarray(x, np.float16), agent.params)
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(params)):
        raise ValueError(f"{source}: has numbers that half precision does not hold")
    save_agent(bundled.AGENT, dataclasses.replace(agent, params=params), overwrite=True)


def bundle_world() -> None:
    """Persona, portrait and voice of every session of the synthetic world."""
    folder = bundled.WORLD.parent
    folder.mkdir(exist_ok=True)
    fields = write_world(make_session(0, World(seconds=1.0)).portrait, folder)
    bundled.WORLD.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Bundle both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", type=Path, help="an agent directory")
    bundle_agent(parser.parse_args().agent)
    bundle_world()


if __name__ == "__main__":
    main()
