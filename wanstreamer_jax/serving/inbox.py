"""What a user sends, with the times of the user's own clock, as units on the clock of the session.

Sound, pictures and text come when the network brings them. A unit is a stretch of the user's clock, 160 ms long, that
ends so long before now as the network's delay varies:

    user's clock    ---[ unit k-1 ][  unit k  ]······>
                                              | cushion | delay (the least there was) |
    session's clock                                                                  now

Nothing queues. What comes after its unit was taken is forgotten, what a unit lacks is silence or the picture before,
and what is taken is never older than the cushion, whatever piled up on the way.
"""

import threading
from collections import deque
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.media.picture import black
from wanstreamer_jax.serving.clock_offset import ClockOffset
from wanstreamer_jax.serving.pictures import BadPictureError, decode_picture
from wanstreamer_jax.serving.sound_line import SoundLine
from wanstreamer_jax.timeline import (
    FRAME_MS,
    FRAMES_PER_UNIT,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_UNIT,
    UNIT_MS,
    Picture,
)

SLIP_MS = 10.0  # a unit begins where the one before ended, unless that is so far from where it should
MOST_PICTURES = 16  # held: what a unit needs, four times
STILL_MS = 1000.0  # so long a camera that stops is a picture that stands; then it is darkness
MOST_TEXT = 4096  # tokens that wait for their units


class Seen(NamedTuple):
    """One unit of a user."""

    frames: UInt8[np.ndarray, "f H W 3"]
    samples: Float32[np.ndarray, " n"]
    text: list[int]
    end_ms: float  # when it ended, on the user's clock


class Losses(NamedTuple):
    """What units had to do without, so far."""

    samples: int = 0  # that were not there, counted from the first that was
    pictures: int = 0  # that could not be decoded
    slips: int = 0  # units that did not begin where the one before had ended


class Came(NamedTuple):
    """A picture as it came; a JPEG is decoded when its unit is taken, if it is looked at."""

    time_ms: float
    picture: bytes | UInt8[np.ndarray, "H W 3"]


class Inbox:
    """Takes from one thread what comes, and gives units to another. `now_ms` is the session's clock."""

    def __init__(self, picture: Picture, max_text: int):
        """`picture` is the size in which the agent sees; `max_text` the most tokens of a unit."""
        self.losses = Losses()
        self._picture, self._max_text = picture, max_text
        self._lock = threading.Lock()
        self._offset = ClockOffset()
        self._sound = SoundLine()
        self._pictures: deque[Came] = deque(maxlen=MOST_PICTURES)
        self._text: deque[int] = deque()
        self._frame, self._frame_ms = black(picture), -np.inf
        self._end_ms: float | None = None  # of the unit taken last

    def hear(self, now_ms: float, time_ms: float, samples: Float32[np.ndarray, " n"]) -> None:
        """Sound whose first sample is at `time_ms` of the user's clock."""
        lasts_ms = len(samples) * 1000 / SAMPLE_RATE_HZ
        with self._lock:
            self._offset.note(now_ms, time_ms + lasts_ms, lasts_ms)
            self._sound.put(time_ms, samples)

    def see(self, now_ms: float, time_ms: float, picture: bytes | UInt8[np.ndarray, "H W 3"]) -> None:
        """A picture of `time_ms` of the user's clock: a JPEG of any size, or pixels of the size the agent sees."""
        with self._lock:
            self._offset.note(now_ms, time_ms, 0.0)
            if not self._pictures or self._pictures[-1].time_ms < time_ms:
                self._pictures.append(Came(time_ms, picture))

    def read(self, ids: list[int]) -> bool:
        """Text that was typed; False when so much waits already that this does not fit."""
        with self._lock:
            fits = len(self._text) + len(ids) <= MOST_TEXT
            if fits:
                self._text.extend(ids)
        return fits

    def take(self, complete_ms: float, *, read: bool) -> Seen:
        """The unit that was complete at that time of the session's clock; its text only when somebody will `read` it.

        Times never go back.
        """
        with self._lock:
            end_ms = self._next_end_ms(complete_ms)
            samples, n_missing = self._sound.take(end_ms - UNIT_MS, SAMPLES_PER_UNIT)
            pictures = self._chosen(end_ms)
            n_text = min(self._max_text, len(self._text)) if read else 0
            text = [self._text.popleft() for _ in range(n_text)]
            self.losses = self.losses._replace(samples=self.losses.samples + n_missing)
        return Seen(self._frames(pictures, end_ms), samples, text, end_ms)

    def _next_end_ms(self, complete_ms: float) -> float:
        wanted = self._offset.user_ms(complete_ms)
        follows = wanted if self._end_ms is None else self._end_ms + UNIT_MS
        if abs(wanted - follows) > SLIP_MS:
            self.losses = self.losses._replace(slips=self.losses.slips + 1)
            follows = wanted
        self._end_ms = follows
        return follows

    def _chosen(self, end_ms: float) -> list[Came | None]:
        """For each frame of a unit the newest picture that had been taken by its end; None: there is no new one."""
        chosen: list[Came | None] = []
        for i in range(FRAMES_PER_UNIT):
            until_ms = end_ms - (FRAMES_PER_UNIT - 1 - i) * FRAME_MS
            newest = None
            while self._pictures and self._pictures[0].time_ms <= until_ms:
                newest = self._pictures.popleft()
            chosen.append(newest)
        return chosen

    def _frames(self, pictures: list[Came | None], end_ms: float) -> UInt8[np.ndarray, "f H W 3"]:
        for_each = []
        for came in pictures:
            if came is not None:
                self._show(came)
            for_each.append(self._frame if end_ms - self._frame_ms < STILL_MS else black(self._picture))
        return np.stack(for_each)

    def _show(self, came: Came) -> None:
        try:
            picture = came.picture
            self._frame = decode_picture(picture, self._picture) if isinstance(picture, bytes) else picture
            self._frame_ms = came.time_ms
        except BadPictureError:
            self.losses = self.losses._replace(pictures=self.losses.pictures + 1)
