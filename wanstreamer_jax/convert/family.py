"""What there is to know of a family of public checkpoints; the families are listed in `families.py`."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flax import nnx

from wanstreamer_jax.convert.table import Entry, Tensor


@dataclasses.dataclass(frozen=True)
class Family:
    """How checkpoints of a family are read and written."""

    name: str
    model_types: tuple[str, ...]  # `model_type` or `_class_name` of its config.json
    safetensors: str  # where it is published in safetensors
    read_config: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Any]
    """config.json ({} where there is none) and tensors -> our sizes; ValueError lists all that we do not have."""
    write_config: Callable[[Any], dict[str, Any]]
    """Our sizes -> a config.json with which the public implementation builds the same model."""
    table: Callable[[Any, Collection[str]], list[Entry]]
    """Our sizes and the names of a checkpoint's tensors (none: as first published) -> every tensor that is taken."""
    init: Callable[[Any], nnx.Module]
    """Our sizes -> a module that has (at least) all parameters of the table; for their shapes."""
    unused: str  # a regular expression of the names of tensors that are left behind
