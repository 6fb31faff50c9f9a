"""One run a working directory: two would write over each other. The lock goes with its process, however that ends."""

import fcntl
import os
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from wanstreamer_jax.training.errors import TrainingError


class WorkdirLock(AbstractContextManager["WorkdirLock"]):
    """Held from when it is made until it is left."""

    def __init__(self, workdir: Path):
        """Raise TrainingError when a run is under way there."""
        workdir.mkdir(parents=True, exist_ok=True)
        self._file = (workdir / ".lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise TrainingError(
                f"{workdir}: another run is under way there (process {holder}): let it end, or name another --workdir"
            ) from error
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let others in."""
        self._file.close()
