"""A thread that writes: whoever lives never waits for a disk, and what cannot be written costs nothing else."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from wanstreamer_jax.serving.log import logger

T = TypeVar("T")


class Writing(Generic[T]):
    """Items on their way to the disk, from `put` to what `write` makes of them."""

    def __init__(self, name: str, most_waiting: int, write: Callable[[Iterator[T]], None], failed: str) -> None:
        """`write` is given all items, in a thread of its own; when it raises, `failed` is logged with the reason."""
        self._queue: queue.Queue[T | None] = queue.Queue(most_waiting)
        self._is_behind = False
        self._write, self._failed = write, failed
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, item: T) -> None:
        """What comes next; never waits."""
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._is_behind = True

    def end(self) -> None:
        """There is no more."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait until all is written; where nothing was begun, for nothing."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        items = iter(self._queue.get, None)
        try:
            self._write(self._in_time(items))
        except Exception:  # noqa: BLE001 - a recording that fails costs the conversation nothing
            logger.exception(self._failed)
            deque(items, maxlen=0)  # what still comes is let go

    def _in_time(self, items: Iterator[T | None]) -> Iterator[T]:
        for item in items:
            if self._is_behind:
                raise OSError("the disk is too slow for a recording")
            assert item is not None
            yield item
