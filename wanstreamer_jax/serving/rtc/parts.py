"""Messages too long for a data channel, in parts.

    1 byte kind 16 | 8 bytes length of the whole message, float64 | payload          little endian

Browsers send 256 KiB at once, at most. Parts follow each other until the whole binary message is there.
"""

from wanstreamer_jax.serving import wire
from wanstreamer_jax.serving.outbox import Message

PART = 16  # kind


class Parts:
    """What came of a message so far."""

    def __init__(self) -> None:
        self._came = bytearray()

    def put(self, message: Message) -> Message | None:
        """A whole message; None when parts of it are to come.

        Raises:
            wire.WireError: bad_part.
        """
        if isinstance(message, str) or len(message) <= wire.HEADER.size or message[0] != PART:
            return message
        _, length = wire.HEADER.unpack_from(message)
        self._came += message[wire.HEADER.size :]
        if len(self._came) < length <= wire.MOST_MESSAGE_BYTES:
            return None
        whole = bytes(self._came)
        self._came.clear()
        if len(whole) != length:
            raise wire.WireError("bad_part", f"a message has {wire.MOST_MESSAGE_BYTES} bytes at most, in all its parts")
        return whole
