"""What waits to be sent to a client: a few units at most. A client that is behind misses units; it is never queued."""

import asyncio
from collections import deque
from typing import NamedTuple

from wanstreamer_jax.serving import wire

Message = bytes | str  # binary or JSON

MOST_UNITS = 3  # that wait
MOST_MESSAGES = 64  # without media


class Unit(NamedTuple):
    """A unit as messages: media, which may be missed, and what is said of it, which may not."""

    media: list[bytes]
    words: list[str]


class Outbox:
    """Filled and emptied in the event loop's thread."""

    def __init__(self) -> None:
        self.n_missed = 0  # units whose media were not sent
        self._units: deque[Unit] = deque()
        self._words: deque[str] = deque(maxlen=MOST_MESSAGES)
        self._filled = asyncio.Event()
        self._is_open = True
        self._has_gap = False  # before the pictures that are sent next

    def put_unit(self, unit: Unit) -> None:
        """Have a unit sent; the oldest one that waits loses its media when too many do.

        Pictures that cannot be decoded without those that were lost are not sent either.
        """
        self._units.append(unit)
        if len(self._units) > MOST_UNITS:
            self._words.extend(self._units.popleft().words)
            self.n_missed += 1
            self._has_gap = True
        self._filled.set()

    def put(self, words: str) -> None:
        """Have a message sent, before any media that wait."""
        self._words.append(words)
        self._filled.set()

    def close(self) -> None:
        """Nothing is put any more; what waits is still there to be taken, but for media."""
        while self._units:
            self._words.extend(self._units.popleft().words)
        self._is_open = False
        self._filled.set()

    async def take(self) -> list[Message]:
        """What is to be sent next; nothing when all is sent and the box is closed."""
        while self._is_open and not (self._words or self._units):
            self._filled.clear()
            await self._filled.wait()
        messages: list[Message] = [*self._words]
        self._words.clear()
        if self._units:
            unit = self._units.popleft()
            messages += [*unit.words, *(message for message in unit.media if self._is_decodable(message))]
        return messages

    def _is_decodable(self, message: bytes) -> bool:
        if message[0] == wire.KEY_PICTURE:
            self._has_gap = False
        return not (self._has_gap and message[0] == wire.NEXT_PICTURE)
