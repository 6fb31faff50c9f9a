"""Fields of nested dataclasses from the command line: `--optimizer.learning_rate 1e-3`, one way for all of them."""

import dataclasses
import difflib
import inspect
import json
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from wanstreamer_jax.config import build
from wanstreamer_jax.training.errors import TrainingError

T = TypeVar("T")
_FIELD = re.compile(r"^    (\w+):.*?#\s*(.+)$", re.MULTILINE)


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Values by dotted field from `--field value` or `--field=value`; TrainingError when there is something else."""
    words = [word for argument in arguments for word in _words(argument)]
    if len(words) % 2 or any(not word.startswith("--") for word in words[::2]):
        raise TrainingError(f"cannot read {' '.join(arguments)!r}: fields are overridden as --field value")
    return {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}


def _words(argument: str) -> list[str]:
    return argument.split("=", 1) if argument.startswith("--") else [argument]


def override(root: T, values: dict[str, str]) -> T:
    """The dataclass with some fields replaced, each in the type it has.

    Raises:
        TrainingError: there is no such field (the nearest is named), or its value is of another type.
    """
    for path, text in values.items():
        root = _replaced(root, path.split("."), text, path)
    return root


def _replaced(part: Any, path: list[str], text: str, whole: str) -> Any:
    name, rest = path[0], path[1:]
    names = [field.name for field in dataclasses.fields(part)]
    if name not in names:
        raise TrainingError(f"--{whole}: {type(part).__name__} has no field {name!r}; {_nearest(name, names)}")
    value = getattr(part, name)
    if not rest:
        new = _read(typing.get_type_hints(type(part))[name], text, whole)
    elif dataclasses.is_dataclass(value):
        new = _replaced(value, rest, text, whole)
    else:
        raise TrainingError(f"--{whole}: {name!r} has no fields of its own")
    try:
        return dataclasses.replace(part, **{name: new})
    except ValueError as error:  # a check between fields
        raise TrainingError(f"--{whole} {text}: {error}") from error


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def _read(kind: Any, text: str, whole: str) -> Any:
    """A value of type `kind` as JSON, or as a bare word; the lax spelling of people is understood."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e3 steps
    try:
        return build(kind, value, f"--{whole}")
    except ValueError as error:
        raise TrainingError(str(error)) from error


def describe(part: Any, prefix: str = "") -> Iterator[str]:
    """A line for every field: its name, its value, and the comment that stands beside it in the source."""
    comments = dict(_FIELD.findall(inspect.getsource(type(part))))
    for field in dataclasses.fields(part):
        value, name = getattr(part, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from describe(value, f"{name}.")
        else:
            yield f"  --{name} {value}".ljust(44) + f"  {comments.get(field.name, '')}".rstrip()
