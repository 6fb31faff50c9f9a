"""Where a conversation was lived: by which agent, and on what. Only there is it the same to the bit."""

import functools
import hashlib
import importlib.metadata
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

import wanstreamer_jax
from wanstreamer_jax.agent import Agent
from wanstreamer_jax.config import to_json
from wanstreamer_jax.cpu import processor_name
from wanstreamer_jax.serving.replay.arrays import digest
from wanstreamer_jax.stream.pace import Session
from wanstreamer_jax.stream.placement import Placement

STEPS = "flow.solver_steps"  # every unit says its own
LEVELS = 4  # of a configuration
SHOWN = 60  # characters of what a file says, in messages


def agent_facts(agent: Agent) -> dict[str, Any]:
    """What makes an agent another one, in JSON's types."""
    config = json.loads(to_json(agent.config))
    return {"trained": agent.trained, "config": config, "tokenizer": agent.tokenizer.sha256, "weights": weights(agent)}


@functools.lru_cache(maxsize=1)
def weights(agent: Agent) -> str:
    """Sha256 of all parameters to the bit, from whatever files they came; reads all of them, the first time."""
    leaves, structure = jax.tree.flatten(agent.params)
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda leaf: f"{leaf.dtype} {leaf.shape} {digest(np.asarray(leaf))}", leaves)
        return hashlib.sha256("\n".join([str(structure), *digests]).encode()).hexdigest()


def machine_facts(session: Session) -> dict[str, str | int]:
    """What the bits of a conversation may depend on, besides the agent and what it sees."""
    placement, ranks = (session.name, session.n_ranks) if isinstance(session, Placement) else ("none", 0)
    versions = {library: importlib.metadata.version(library) for library in ("jax", "jaxlib")}
    return {
        "wanstreamer_jax": wanstreamer_jax.__version__,
        **versions,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "processor": processor_name(),
        "processors": os.cpu_count() or 0,
        "placement": placement,
        "performer_ranks": ranks,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def other_agent(recorded: dict[str, Any], agent: Agent) -> str:
    """How the agent of a recording is another one than this, in words; empty when it is this one."""
    here = agent_facts(agent)
    theirs, ours = _flat(recorded["config"]), _flat(here["config"])
    names = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    names = [name for name in names if name != STEPS]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return "its configuration differs in " + ", ".join(name[:SHOWN] for name in names[:3]) + more
    for part in ("weights", "tokenizer"):
        if recorded[part] != here[part]:
            return f"its {part} have the checksum {recorded[part][:12]!r}, here {here[part][:12]!r}"
    return ""


def other_machine(recorded: dict[str, Any], here: dict[str, str | int]) -> list[str]:
    """What differs from where a conversation was recorded, a phrase each."""
    return [
        f"{name} was {str(recorded.get(name))[:SHOWN]!r} and is {str(value)[:SHOWN]!r}"
        for name, value in here.items()
        if recorded.get(name) != value
    ]


def _flat(tree: Any, where: str = "", levels: int = LEVELS) -> dict[str, Any]:
    """The leaves of nested objects by dotted path, down to so many levels."""
    if not isinstance(tree, dict) or levels == 0:
        return {where: tree}
    parts = (_flat(value, f"{where}.{name}" if where else name, levels - 1) for name, value in tree.items())
    return {name: leaf for part in parts for name, leaf in part.items()}
