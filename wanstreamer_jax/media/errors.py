"""The one error of media in and out."""

from pathlib import Path


class MediaError(ValueError):
    """A file cannot be read or written: its message names the file, the reason and what to do."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
