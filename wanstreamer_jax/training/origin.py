"""The agent that a run starts from, and the one it leaves."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from wanstreamer_jax.agent import MANIFEST, Agent, differing_parameters, init_agent, load_agent, save_agent
from wanstreamer_jax.config import Config
from wanstreamer_jax.files import check_replaceable
from wanstreamer_jax.model import init_params
from wanstreamer_jax.tokens import fresh_tokenizer
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.sharding import shard_tree
from wanstreamer_jax.training.stage import Trees


@dataclasses.dataclass(frozen=True)
class Origin:
    """An agent directory, or fresh parameters of a configuration."""

    config: Config
    directory: Path | None
    seed: int

    def __str__(self) -> str:
        """What tells one origin from another."""
        if self.directory is None:
            return f"fresh parameters of seed {self.seed}"
        return f"the agent {json.loads((self.directory / MANIFEST).read_text(encoding='utf-8'))['sha256']}"

    def changed(self, config: Config) -> "Origin":
        """The same with another configuration, such as another picture size.

        Raises:
            TrainingError: the parameters of its directory would not fit.
        """
        if self.directory is not None and config != self.config:
            wrong = differing_parameters(config, self.config)
            if wrong:
                raise TrainingError(f"--agent.FIELD: {self.directory} has other shapes of {', '.join(wrong[:3])}")
        return dataclasses.replace(self, config=config)

    def params(self, parts: tuple[str, ...], mesh: Mesh) -> Trees:
        """Some of its parts on a mesh; fresh ones are made there, none is ever whole on one device."""

        def init() -> Trees:
            fresh = init_params(self.config, self.seed)
            return {name: fresh[name] for name in parts}

        shardings = shard_tree(mesh, jax.eval_shape(init))
        if self.directory is None:
            return jax.jit(init, out_shardings=shardings)()
        opened = load_agent(self.directory).params
        return jax.device_put({name: opened[name] for name in parts}, shardings)

    def check_leaving(self, directory: Path) -> None:
        """Raise ValueError, before anything is trained, when the trained agent could not be written there."""
        check_replaceable(directory, MANIFEST, overwrite=True)
        if self.directory is None:
            fresh_tokenizer(self.config)

    def agent(self) -> Agent:
        """The whole agent."""
        return init_agent(self.config, self.seed) if self.directory is None else load_agent(self.directory)


def open_origin(directory: Path | None, config: Config, seed: int) -> Origin:
    """The agent of a directory, or a fresh one of `config`; AgentError when the directory holds none."""
    return Origin(config if directory is None else load_agent(directory).config, directory, seed)


def leave_agent(
    origin: Origin, trained: tuple[Config, Trees], stage: str, summary: Mapping[str, Any], directory: Path
) -> None:
    """Write the origin with the trained parts in place of its own, in its own dtypes."""
    agent, (config, parts) = origin.agent(), trained
    left = dataclasses.replace(
        agent,
        config=config,
        params=_put(agent.params, parts),
        trained=agent.trained or "transformer" in parts,
        training=dict(agent.training) | {stage: dict(summary)},
    )
    save_agent(directory, left, overwrite=directory.exists())


def _put(params: dict[Any, Any], trained: dict[Any, Any]) -> dict[Any, Any]:
    """Parameters with those that were trained in their places, in the dtypes that are there."""
    put = {
        name: _put(params[name], new) if isinstance(new, dict) else new.astype(params[name].dtype)
        for name, new in trained.items()
    }
    return params | put
