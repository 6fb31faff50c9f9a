"""Compressed media of one client, decoded in a thread of its own and put into its inbox.

Nothing queues for long, and no client takes more than its share of a core: what is too much is left out. A stream of
pictures that was cut begins again with the next key frame, which the client is asked for.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from wanstreamer_jax.serving.codecs import BadSoundError, PictureDecoder, SoundDecoder
from wanstreamer_jax.serving.inbox import Inbox
from wanstreamer_jax.serving.pictures import BadPictureError
from wanstreamer_jax.serving.wire import PacketIn, StreamPictureIn, WireError
from wanstreamer_jax.timeline import Picture

MOST_WAITING = 64  # pieces: of most of a second
MOST_BUSY = 0.5  # of a core
BURST_S = 1.0  # of a core's time that may be saved up
ASK_EVERY_S = 1.0


class Replies(NamedTuple):
    """What a client is told; called in the thread that decodes."""

    refuse: Callable[[WireError], None]
    ask_for_key: Callable[[], None]


class Came(NamedTuple):
    """A piece, when it came, and whether pictures were left out before it."""

    now_ms: float
    media: StreamPictureIn | PacketIn
    after_gap: bool


class Unpacking:
    """`put` and `close` are for one thread, and never wait."""

    def __init__(self, inbox: Inbox, picture: Picture, replies: Replies, codec: str = "h264") -> None:
        """`picture` is the size in which the agent sees; `codec` that of the client's pictures."""
        self._inbox, self._replies = inbox, replies
        self._pictures, self._sound = PictureDecoder(picture, codec), SoundDecoder()
        self._waiting: queue.Queue[Came | None] = queue.Queue()
        self._has_gap, self._is_open = False, True
        self._share = Share()
        self._asked_s = -ASK_EVERY_S
        threading.Thread(target=self._run, name="unpacking", daemon=True).start()

    def put(self, now_ms: float, media: StreamPictureIn | PacketIn) -> None:
        """Have a piece decoded that came at a time of the session; it is left out when too many wait."""
        if self._waiting.qsize() < MOST_WAITING:
            self._waiting.put(Came(now_ms, media, self._has_gap))
            self._has_gap = False
        elif isinstance(media, StreamPictureIn):
            self._has_gap = True

    def close(self) -> None:
        """Nothing is put any more, and what waits is forgotten."""
        self._is_open = False
        self._waiting.put(None)

    # ---- In the thread that decodes

    def _run(self) -> None:
        while (came := self._waiting.get()) is not None and self._is_open:
            if came.after_gap:
                self._pictures.lose()
            began_s = time.thread_time()
            try:
                self._decode(came)
            except BadPictureError as error:
                self._replies.refuse(WireError("bad_picture", str(error)))
            except BadSoundError as error:
                self._replies.refuse(WireError("bad_sound", str(error)))
            self._share.spend(time.thread_time() - began_s)

    def _decode(self, came: Came) -> None:
        if isinstance(came.media, StreamPictureIn):
            self._see(came.now_ms, came.media)
        elif self._share.is_left:
            self._inbox.hear(came.now_ms, *self._sound.decode(*came.media))

    def _see(self, now_ms: float, media: StreamPictureIn) -> None:
        try:
            if not self._share.is_left:
                self._pictures.lose()
            elif (frame := self._pictures.decode(media.picture)) is not None:
                self._inbox.see(now_ms, media.time_ms, frame)
        finally:
            self._ask()

    def _ask(self) -> None:
        now_s = time.monotonic()
        if self._pictures.waits and now_s - self._asked_s >= ASK_EVERY_S:
            self._asked_s = now_s
            self._replies.ask_for_key()


class Share:
    """Seconds of a core that may still be spent."""

    def __init__(self) -> None:
        self._left_s, self._at_s = BURST_S, time.monotonic()

    @property
    def is_left(self) -> bool:
        """Whether there are any."""
        return self._left_s > 0

    def spend(self, seconds: float) -> None:
        """So many were, and time has passed."""
        now_s = time.monotonic()
        self._left_s = min(BURST_S, self._left_s + MOST_BUSY * (now_s - self._at_s)) - seconds
        self._at_s = now_s
