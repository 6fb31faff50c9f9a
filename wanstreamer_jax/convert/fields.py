"""A public config.json, field by field: what we do not have is collected, and said all at once."""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

MOST = 2**20  # of any size: more than any model has, few enough that a product of sizes is a number of bytes
MOST_NUMBER = 1e30


class Fields:
    """The fields of a config.json; `check` raises what was found wrong with those that were read.

    A field that is absent has the public implementation's default, where there is one. Of layers there are no more
    than `n_tensors`, so that a damaged file cannot ask for a million of them.
    """

    def __init__(self, raw: Mapping[str, Any], n_tensors: int) -> None:
        self._raw, self._n_tensors, self._prefix = raw, n_tensors, ""
        self._wrong: list[str] = []

    def inner(self, name: str) -> "Fields":
        """The fields of an object within this one, empty where there is none; `check` of either knows of both."""
        raw = self._read(name, {}, "an object", lambda x: isinstance(x, dict)) or {}
        inner = Fields(raw, self._n_tensors)
        inner._prefix, inner._wrong = f"{self._prefix}{name}.", self._wrong
        return inner

    def size(self, name: str, default: int | None = None) -> int:
        """A number of channels, pixels or the like."""
        return self._read(name, default, "a size", lambda x: _is_size(x, MOST)) or 1

    def count(self, name: str, default: int | None = None) -> int:
        """A number of layers or the like."""
        kind = f"a number of layers for {self._n_tensors} tensors"
        return self._read(name, default, kind, lambda x: _is_size(x, self._n_tensors)) or 1

    def sizes(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of sizes, as many as the default has."""
        return self._list(name, default, "sizes", lambda x: _is_size(x, MOST))

    def flags(self, name: str, default: tuple[bool, ...]) -> tuple[bool, ...]:
        """A list of truths, as many as the default has."""
        return self._list(name, default, "truths", lambda x: type(x) is bool)

    def numbers(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """A list of numbers, as many as the default has."""
        return tuple(map(float, self._list(name, default, "numbers", _is_number)))

    def number(self, name: str, default: float) -> float:
        """A positive number."""
        return float(self._read(name, default, "a positive number", lambda x: _is_number(x) and x > 0) or 1)

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        return bool(self._read(name, default, "true or false", lambda x: type(x) is bool))

    def must_be(self, **values: Any) -> None:
        """What these fields are where they are given: the only values that we have."""
        for name, value in values.items():
            self._read(name, value, f"{value!r}, the only one supported", functools.partial(operator.eq, value))

    def must_lack(self, *names: str) -> None:
        """What there must not be."""
        for name in names:
            if self._raw.get(name) is not None:
                self.refuse(f"{name}: {self._raw[name]!r:.80} is not supported")

    def refuse(self, reason: str) -> None:
        """Note what is wrong."""
        self._wrong.append(self._prefix + reason)

    def check(self) -> None:
        """Raise one ValueError that lists all that was wrong."""
        if self._wrong:
            raise ValueError("config.json describes a model that is not supported:\n  " + "\n  ".join(self._wrong))

    def _list(self, name: str, default: tuple, kind: str, fits: Callable[[Any], bool]) -> tuple:
        n = len(default)
        return tuple(
            self._read(name, default, f"{n} {kind}", lambda x: _is_list(x, n) and all(map(fits, x))) or default
        )

    def _read(self, name: str, default: Any, kind: str, fits: Callable[[Any], bool]) -> Any:
        """A field, or its default; None after noting that neither will do."""
        value = self._raw.get(name)
        if value is None:
            if default is None:
                self.refuse(f"{name}: missing")
            return default
        if fits(value):
            return value
        self.refuse(f"{name}: {value!r:.80}, expected {kind}")
        return None


def _is_size(x: Any, most: int) -> bool:
    return type(x) is int and 0 < x <= most


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) < MOST_NUMBER


def _is_list(x: Any, n: int) -> bool:
    return isinstance(x, list | tuple) and len(x) == n
