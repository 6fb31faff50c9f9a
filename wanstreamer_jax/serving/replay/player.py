"""A recorded conversation lived again, unit by unit, and compared with what came out then."""

from typing import NamedTuple

import numpy as np

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.serving.placing import observation
from wanstreamer_jax.serving.replay.arrays import digest
from wanstreamer_jax.serving.replay.records import (
    SAMPLE_STEP,
    Replied,
    Seen,
    Shown,
    sha256_shown,
    some_pixels,
)
from wanstreamer_jax.serving.world_file import Setting, opening_screen
from wanstreamer_jax.stream import pace
from wanstreamer_jax.stream.pace import Session
from wanstreamer_jax.stream.placement import Reply
from wanstreamer_jax.tokens import TextStream

MOST_WAITING = 8  # replies to be shown; the paced loop has three at most
LARGEST_ID = 2**31


class Difference(NamedTuple):
    """What came out of a unit otherwise than it was recorded, and by how much, in words."""

    unit: int
    stream: str
    words: str


class Player:
    """Lives what records say, in a session that has begun as the recorded one did."""

    def __init__(self, agent: Agent, session: Session, setting: Setting) -> None:
        self._agent, self._session = agent, session
        self._said = TextStream(agent.tokenizer)
        self._screen = opening_screen(agent.config, setting)
        self._living: list[Reply] = []  # replies that are not compared yet
        self._waiting: dict[int, Reply] = {}  # and those that are not shown yet
        self._n_missed = 0

    def live(self, seen: Seen) -> Reply:
        """Live a unit with what was seen then; raises what the session raises."""
        for _ in range(seen.n_skipped):
            self._session.skip()
        given = observation(self._agent.config, seen.frames, seen.samples, seen.text)
        reply = self._session.step(given, seen.solver_steps)
        self._living.append(reply)
        self._waiting[seen.unit] = reply
        if len(self._waiting) > MOST_WAITING:
            self._waiting.pop(next(iter(self._waiting)))
        return reply

    def compare(self, then: Replied) -> list[Difference]:
        """How the reply to a unit differs from that which was recorded."""
        now = self._living.pop(0)
        frames, samples = now.frames[0], np.asarray(now.samples[0], np.float32)
        found = []
        if now.text[0] != then.text:
            found.append(("text", self._other_text(then.text, now.text[0])))
        if digest(frames) != then.frames:
            by = np.max(np.abs(some_pixels(frames).astype(int) - then.some_pixels), initial=0)
            found.append(("picture", f"by up to {by} of 255" if by else "in none of the pixels that were kept"))
        if digest(samples) != then.samples:
            largest = np.max(np.abs(samples[::SAMPLE_STEP] - then.some_samples), initial=0)
            found.append(("sound", f"by up to {largest:.2g}" if largest else "in none of the samples that were kept"))
        return [Difference(then.unit, *difference) for difference in found]

    def show(self, then: Shown) -> tuple[pace.Shown, list[Difference]]:
        """The unit of output time, filled as it was then.

        Raises:
            KeyError: a reply is shown or missed that there is not.
        """
        for _ in range(then.n_missed - self._n_missed):
            self._screen = pace.miss(self._screen, self._waiting.pop(self._oldest(then.unit)))
        self._n_missed = then.n_missed
        if then.concealed:
            shown, self._screen = pace.conceal(self._screen, then.unit)
        else:
            shown, self._screen = pace.show(self._screen, then.unit, self._waiting.pop(then.unit))
        text = self._said.push(shown.text[0])
        same = sha256_shown(shown.frames[0], shown.samples[0], text) == then.sha256
        return shown, [] if same else [Difference(then.unit, "shown", "is not what the user was given")]

    def _oldest(self, before: int) -> int:
        """The oldest reply to a unit whose time is over."""
        unit = next(iter(self._waiting), before)
        if unit >= before:
            raise KeyError(f"a reply missed by unit {before}")
        return unit

    def _other_text(self, then: list[int], now: list[int]) -> str:
        decode = self._agent.tokenizer.decode
        known = [i for i in then if type(i) is int and 0 <= i < LARGEST_ID]
        return f"{decode(now)!r} in place of {decode(known)!r}"
