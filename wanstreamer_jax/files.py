"""Files that people give us and that we leave: pickles told by content, directories whole or not at all."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ZIP, PICKLE, PROTOCOLS = b"PK\x03\x04", b"\x80", (b"\2", b"\3", b"\4", b"\5")


def is_pickle(path: Path) -> bool:
    """A pickle of protocol 2 or later, or a zip archive, as which PyTorch writes them, whatever the file's name.

    The first bytes of a safetensors file are a length and may look like either, but then comes a brace.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(9)
    marked = head.startswith(ZIP) or (head[:1] == PICKLE and head[1:2] in PROTOCOLS)
    return marked and head[8:9] != b"{"


def check_replaceable(directory: Path, mark: str, *, overwrite: bool) -> None:
    """Raise ValueError when a directory is in the way: `overwrite` replaces only one that holds the file `mark`."""
    if directory.exists() and not overwrite:
        raise ValueError(f"{directory}: exists already; choose another place or say --overwrite")
    if directory.exists() and not (directory / mark).is_file():
        raise ValueError(f"{directory}: exists and holds no {mark}, so it is something else; not overwritten")


def file_sha256s(paths: Iterable[Path]) -> list[str]:
    """Sha256 of each file in hexadecimal, several at once."""

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor() as pool:
        return list(pool.map(digest, paths))


@contextlib.contextmanager
def pending_directory(directory: Path) -> Iterator[Path]:
    """A fresh directory to write into, which takes the place of `directory` when the block ends without an error.

    It lies beside its place, so that to rename is enough; whatever ends the block early leaves nothing behind.
    """
    directory = directory.absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as scratch:
        fresh, replaced = Path(scratch, "fresh"), Path(scratch, "replaced")
        fresh.mkdir()
        yield fresh
        if directory.exists():
            directory.rename(replaced)
        fresh.rename(directory)
