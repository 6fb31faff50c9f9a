"""A file that appears only when it is complete: written beside its place under another name, then renamed."""

import json
import os
import secrets
from abc import abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from wanstreamer_jax.media.errors import MediaError


class PendingFile(AbstractContextManager["PendingFile"]):
    """The place of a file to be, and the hidden file `part` that becomes it.

    As a context manager it leaves nothing behind but what was committed.
    """

    def __init__(self, path: Path, source: Path | None = None) -> None:
        """Check that `path` can be written, and that it is not `source`, which is being read.

        Raises:
            MediaError: it cannot. Nothing has been written.
        """
        check_place(path, source)
        self.path = path.resolve()  # a link stays, what it points to is replaced
        self.part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        try:
            self.part.touch(exist_ok=False)
        except OSError as error:
            raise MediaError(path, f"cannot be written ({error.strerror})", "name another place") from error

    def commit(self) -> None:
        """Let the file appear, in place of one that was there."""
        self.part.replace(self.path)

    def commit_json(self, contents: Any) -> None:
        """Let the file appear, with this in it."""
        self.part.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", "utf-8")
        self.commit()

    def discard(self) -> None:
        """Leave nothing behind."""
        self.part.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Discard what was not committed."""
        self.discard()


Writer = TypeVar("Writer")


class Output(AbstractContextManager[Writer]):
    """What is written piece by piece and ends in one of two ways, whichever comes first.

    As a context manager: leaving normally or by KeyboardInterrupt finishes what has been written, any other
    exception discards it.
    """

    @abstractmethod
    def finish(self) -> None:
        """Complete the file and let it appear."""

    @abstractmethod
    def discard(self) -> None:
        """Leave nothing behind."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.finish()
        else:
            self.discard()


def check_place(path: Path, source: Path | None) -> None:
    """Raise MediaError when a file cannot be written there, or is `source`, which is being read."""
    if path.is_dir():
        raise MediaError(path, "is a folder", "name a file in it")
    if not path.parent.is_dir():
        raise MediaError(path, "lies in a folder that does not exist", f"make {path.parent} first")
    if path.exists() and not path.is_file():
        raise MediaError(path, "is not a regular file", "name a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise MediaError(path, "may not be overwritten", "check its permissions or name another file")
    if source is not None and source.exists() and path.exists() and source.samefile(path):
        raise MediaError(path, "is the input too", "name another file for the output")
