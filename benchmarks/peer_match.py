"""A match: our part and a public implementation of the same model, ready to do the same work on the same weights."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file
from transformers import PreTrainedModel

from wanstreamer_jax.model import Params
from wanstreamer_jax.presets import load_preset

Run = Callable[[], np.ndarray]

TINY = load_preset("tiny")


class Match(NamedTuple):
    """The same work on both sides; a run does the next piece of it and returns the result, channels last."""

    size: str
    work: str
    ours: Run
    theirs: Run
    aim: float
    n_warm_turns: int = 2


def published_tensors(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """A model's tensors as its checkpoint names them, which may differ from its modules' names."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder, "model.safetensors"))


def on_device(params: Params) -> Params:
    """Parameters as JAX arrays."""
    return jax.tree.map(jnp.asarray, params)


def normal(*shape: int) -> np.ndarray:
    """Noise."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)
