"""A conversation kept as a session folder (docs/data.md): what can be validated, looked at and trained on.

Beside the folder, under its name with `.json`, lies what it takes to live the conversation again (`replay`).

Unit k of the user and unit k of the agent lie in the same 160 ms of both films, as in training; live, the agent's was
seen a unit and the agent's latency later.
"""

import itertools
import json
import secrets
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.data.folder import AGENT, SESSION, USER, WORDS
from wanstreamer_jax.data.world.script import Who
from wanstreamer_jax.files import pending_directory
from wanstreamer_jax.media.picture import write_png
from wanstreamer_jax.media.sound import write_wav
from wanstreamer_jax.media.writer import MediaWriter
from wanstreamer_jax.serving.conversation import UnitOut
from wanstreamer_jax.serving.inbox import Seen
from wanstreamer_jax.serving.log import say
from wanstreamer_jax.serving.replay.tape import Displayed, Tape
from wanstreamer_jax.serving.world_file import Setting
from wanstreamer_jax.serving.writing import Writing
from wanstreamer_jax.stream.pace import Session
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, UNIT_MS, VIDEO_FPS

MOST_WAITING = 512  # units of either side that a slow disk may be behind
PORTRAIT, VOICE = "portrait.png", "voice.wav"

Item = Seen | UnitOut | str  # a string was typed


class FolderRecorder:
    """Writes in a thread of its own; what cannot be written is logged, and leaves no folder behind."""

    def __init__(self, directory: Path, licence: str, agent: Agent, setting: Setting, seed: int):
        """Record into a folder of its own in `directory`, whose name nobody chooses."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.folder = directory / f"session-{stamp}-{secrets.token_hex(4)}"
        self._about: dict[str, Any] = {"licence": licence, "seed": seed}
        self._agent, self._setting = agent, setting
        self._tape = Tape(self.folder.with_name(f"{self.folder.name}.json"), agent, setting, seed)
        self._writing = Writing[Item]("recording", 2 * MOST_WAITING, self._keep, "a recording could not be written")
        self._writing.start()

    def watch(self, session: Session) -> Session:
        """The session that lives, of which everything is kept that it takes to live it again."""
        return self._tape.watch(session)

    def user(self, seen: Seen) -> None:
        """The user's next unit."""
        self._writing.put(seen)

    def agent(self, out: UnitOut) -> None:
        """The agent's next unit."""
        self._writing.put(out)
        shown = (out.unit, out.frames, out.samples, out.text, out.concealed, out.counters.missed)
        self._tape.put(Displayed(*shown))

    def typed(self, text: str) -> None:
        """What the user typed, in the unit that comes next."""
        self._writing.put(text)

    def finish(self) -> None:
        """Write the folder; returns when it is there."""
        self._writing.end()
        self._tape.finish()
        self._writing.join()

    def _keep(self, items: Iterator[Item]) -> None:
        with pending_directory(self.folder) as folder:
            self._write(folder, items)
        say("recorded", folder=self.folder.name)

    def _write(self, folder: Path, items: Iterator[Item]) -> None:
        config = self._agent.config
        sides = _Sides()
        with ExitStack() as stack:
            user = stack.enter_context(MediaWriter(folder / USER, config.vision.picture))
            agent = stack.enter_context(MediaWriter(folder / AGENT, config.picture))
            for item in items:
                sides.put(item)
                for seen, out in sides.pairs():
                    user.write(seen.frames, seen.samples)
                    agent.write(out.frames, out.samples)
        if sides.n_units == 0:
            raise ValueError("nothing was said or seen")
        self._write_about(folder, sides.n_units)
        lines = [json.dumps(word, ensure_ascii=False) for word in sides.words()]
        (folder / WORDS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def _write_about(self, folder: Path, n_units: int) -> None:
        world = {"persona": self._setting.persona}
        if self._setting.portrait is not None:
            write_png(folder / PORTRAIT, self._setting.portrait)
            world["portrait"] = PORTRAIT
        if self._setting.voice is not None:
            write_wav(folder / VOICE, self._setting.voice)
            world["voice"] = VOICE
        about = {
            "licence": self._about["licence"],
            "world": world,
            "rates": {"video_fps": VIDEO_FPS, "sample_rate_hz": SAMPLE_RATE_HZ, "unit_ms": UNIT_MS},
            "units": n_units,
            "source": "a conversation with the live server",
            "transcribed": [Who.AGENT],
            "labels": {"seed": self._about["seed"], "agent": self._agent.config.name},
        }
        (folder / SESSION).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class _Sides:
    """Both sides, unit by unit, and the words."""

    def __init__(self) -> None:
        self.n_units = 0
        self._seen: deque[Seen] = deque()
        self._out: deque[UnitOut] = deque()
        self._n_seen = 0
        self._said: list[tuple[int, str]] = []  # the unit of each character
        self._typed: list[tuple[int, str]] = []

    def put(self, item: Item) -> None:
        if isinstance(item, Seen):
            self._seen.append(item)
            self._n_seen += 1
        elif isinstance(item, UnitOut):
            self._out.append(item)
            self._said += [(item.unit, character) for character in item.text]
        else:
            self._typed += [(self._n_seen, word) for word in item.split()]

    def pairs(self) -> list[tuple[Seen, UnitOut]]:
        """Units of which both sides are there."""
        n = min(len(self._seen), len(self._out))
        self.n_units += n
        return [(self._seen.popleft(), self._out.popleft()) for _ in range(n)]

    def words(self) -> list[dict[str, Any]]:
        """The lines of `words.jsonl`, of units that both films have."""
        typed = [_word(Who.USER_TYPED, k * UNIT_MS, (k + 1) * UNIT_MS, text) for k, text in self._typed]
        words = [word for word in (*spoken(self._said), *typed) if word["end_ms"] <= self.n_units * UNIT_MS]
        return sorted(words, key=lambda word: word["start_ms"])


class Spoken(NamedTuple):
    """A word of the agent and the units of its first and last character."""

    first_unit: int
    last_unit: int
    text: str


def split_words(said: list[tuple[int, str]]) -> list[Spoken]:
    """Words, from characters and their units."""
    words, space = [], lambda item: item[1].isspace()
    for is_space, group in itertools.groupby(said, key=space):
        if not is_space:
            units, characters = zip(*group, strict=True)
            words.append(Spoken(units[0], units[-1], "".join(characters)))
    return words


def spoken(said: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """The agent's lines of `words.jsonl`: words that begin in one unit share it evenly, and none overlaps the next."""
    words = split_words(said)
    n_in, nth, starts_ms = Counter(word.first_unit for word in words), Counter[int](), []
    for word in words:
        unit = word.first_unit
        starts_ms.append(unit * UNIT_MS + nth[unit] * UNIT_MS // n_in[unit])
        nth[unit] += 1
    ends_ms = [(word.last_unit + 1) * UNIT_MS for word in words]
    ends_ms = [min(pair) for pair in zip(ends_ms, [*starts_ms[1:], *ends_ms[-1:]], strict=True)]
    return [_word(Who.AGENT, *word) for word in zip(starts_ms, ends_ms, [w.text for w in words], strict=True)]


def _word(who: Who, start_ms: int, end_ms: int, text: str) -> dict[str, Any]:
    return {"who": who, "start_ms": start_ms, "end_ms": end_ms, "text": text}
