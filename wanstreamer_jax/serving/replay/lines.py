"""The lines of a replay file: JSON, each with a checksum that goes on from the line before; only ever appended to.

    {"format": "wanstreamer_jax replay", "version": 1, ..., "crc32": "89abcdef"}
    {..., "crc32": "01234567"}

So a file that was cut off anywhere is whole up to there, and a line that is damaged, missing or moved is found.
"""

import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

FORMAT, VERSION = "wanstreamer_jax replay", 1
MOST_LINE_BYTES = 1 << 26
_HEAD = re.compile(rb'\{"format": "wanstreamer_jax replay", "version": (\d{1,9})[,}]')
_SEAL = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\n')
_SEAL_BYTES = len(b', "crc32": "01234567"}\n')
_REMEDY = "ask for the file again"


class ReplayError(ValueError):
    """A file that cannot be replayed: the message names the file, the line, the reason and what to do."""

    def __init__(self, path: Path, reason: str, remedy: str, line: int | None = None) -> None:
        where = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {reason}; {remedy}")


class Line(NamedTuple):
    """A whole line."""

    number: int  # from 1
    fields: dict[str, Any]


class LineWriter:
    """Appends lines; each is the operating system's as soon as it is written, whatever becomes of this program."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Begin the file, in place of one that was there; `header` is the rest of the first line.

        Raises:
            ReplayError: it cannot be written, as of `write`.
        """
        self._path, self._crc = path, 0
        with self._writable():
            self._file = path.open("wb", buffering=0)
        self.write({"format": FORMAT, "version": VERSION, **header})

    def write(self, fields: dict[str, Any]) -> None:
        """Append a line."""
        body = json.dumps(fields).encode()[:-1]
        self._crc = zlib.crc32(body, self._crc)
        rest = memoryview(b'%s, "crc32": "%08x"}\n' % (body, self._crc))
        with self._writable():
            while rest:
                rest = rest[self._file.write(rest) :]

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise ReplayError(self._path, reason, "make room or name another place") from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read_lines(path: Path) -> Iterator[Line]:
    """Every whole line, the header first.

    Raises:
        ReplayError: it is no replay file, or a newer one, or a line of it is damaged. That it was cut off is no error,
            as long as the header is there.
    """
    try:
        with path.open("rb") as file:
            yield from _read(path, file)
    except OSError as error:
        raise ReplayError(path, f"cannot be read ({error.strerror})", "check its name and permissions") from error


def _read(path: Path, file: BinaryIO) -> Iterator[Line]:
    crc, number = 0, 0
    while raw := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if number == 1:
            _check_head(path, raw)
        if len(raw) > MOST_LINE_BYTES:
            raise ReplayError(path, f"is longer than {MOST_LINE_BYTES >> 20} MiB", _REMEDY, number)
        if not raw.endswith(b"\n"):
            return  # cut off in the middle of it
        body, seal = raw[:-_SEAL_BYTES], _SEAL.fullmatch(raw[-_SEAL_BYTES:])
        crc = zlib.crc32(body, crc)
        if seal is None or int(seal[1], 16) != crc:
            raise ReplayError(path, "is damaged: its checksum is another", _spared(path, number), number)
        yield Line(number, _parsed(path, number, body + b"}"))
    if number == 0:
        raise ReplayError(path, "is empty", _REMEDY)


def _check_head(path: Path, raw: bytes) -> None:
    """Whether a first line is one of a replay file that can be read."""
    head = _HEAD.match(raw)
    if head is None:
        raise ReplayError(path, *_what_else(path, raw))
    if int(head[1]) > VERSION:
        raise ReplayError(
            path,
            f"written in version {int(head[1])} of the format by a newer wanstreamer_jax",
            f"this one reads up to version {VERSION}: update it",
        )
    if not raw.endswith(b"\n") and len(raw) <= MOST_LINE_BYTES:
        raise ReplayError(path, "is cut off in its first line, before anything was lived", _REMEDY)


def _what_else(path: Path, raw: bytes) -> tuple[str, str]:
    """What a file is that is no replay file, and what to do."""
    if path.name == "session.json" and b'"format"' not in raw:
        beside = f"{path.absolute().parent}.json"
        return "describes a session folder, whose films are not exact", f"what can be replayed lies beside it: {beside}"
    return "is no replay file", "give what serve.py --record, or a server with --recordings, has written"


def _spared(path: Path, number: int) -> str:
    if number == 1:
        return _REMEDY
    return f"what comes before it can be replayed: head -n {number - 1} {path} > shorter.json"


def _parsed(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReplayError(path, f"is no JSON ({error})", _REMEDY, number) from error
    if not isinstance(fields, dict):
        raise ReplayError(path, "is no JSON object", _REMEDY, number)
    return fields
