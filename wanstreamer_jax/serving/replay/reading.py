"""A replay file as it is read, by somebody who does not know who wrote it: nothing is used before it is looked at.

No size is taken from the file: those of pictures and sound are the agent's.
"""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.media.picture import black
from wanstreamer_jax.serving.replay.arrays import UnpackError, unpack_frames, unpack_samples
from wanstreamer_jax.serving.replay.lines import Line, ReplayError, read_lines
from wanstreamer_jax.serving.replay.records import (
    SAMPLE_STEP,
    End,
    Record,
    Replied,
    Seen,
    Shown,
    some_pixels,
)
from wanstreamer_jax.serving.world_file import Setting
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT

MOST_SOLVER_STEPS, MOST_SKIPPED = 1000, 100_000  # what a file may ask for
MOST_LIVING = 2  # units at once: the next one is observed while one is performed
LARGEST_SEED = 2**63 - 1
REMEDY = "ask for the file again"

Kinds = dict[str, tuple[type, ...]]
TEXT, WHOLE, OBJECT, LIST, FLAG, NOTHING = (str,), (int,), (dict,), (list,), (bool,), type(None)
HEADER: Kinds = {"format": TEXT, "version": WHOLE, "source": TEXT, "began": TEXT, "seed": WHOLE}
HEADER |= {"agent": OBJECT, "machine": OBJECT, "world": OBJECT}
AGENT: Kinds = {"trained": FLAG, "config": OBJECT, "tokenizer": TEXT, "weights": TEXT}
WORLD: Kinds = {"persona": TEXT, "portrait": (str, NOTHING), "voice": (dict, NOTHING)}
SEEN: Kinds = {"seen": WHOLE, "skipped": WHOLE, "solver_steps": WHOLE, "text": LIST, "frames": TEXT, "samples": OBJECT}
REPLY: Kinds = {"reply": WHOLE, "text": LIST, "frames": TEXT, "samples": TEXT}
REPLY |= {"some_pixels": TEXT, "some_samples": OBJECT}
SHOWN: Kinds = {"shown": WHOLE, "concealed": FLAG, "missed": WHOLE, "sha256": TEXT}
END: Kinds = {"end": FLAG}


class Recording(NamedTuple):
    """A replay file whose every line is whole."""

    path: Path
    header: dict[str, Any]
    n_units: int  # that were lived, or at least begun
    n_replies: int  # of these
    is_cut_off: bool  # there may have been more


def open_recording(path: Path) -> Recording:
    """Look through a replay file.

    Raises:
        ReplayError: it cannot be replayed.
    """
    header: dict[str, Any] = {}
    counts = {"seen": 0, "reply": 0, "end": 0}
    for line in read_lines(path):
        if line.number == 1:
            header = _checked(path, line.number, line.fields, HEADER)
            _checked(path, line.number, header["world"], WORLD)
            _checked(path, line.number, header["agent"], AGENT)
            _checked(path, line.number, header["machine"], dict.fromkeys(header["machine"], (str, int)))
            continue
        if counts["end"]:
            raise ReplayError(path, "comes after the end", REMEDY, line.number)
        for name in counts.keys() & line.fields.keys():
            counts[name] += 1
    if not counts["seen"]:
        raise ReplayError(path, "holds no unit: it was cut off before the first", REMEDY)
    if not -LARGEST_SEED <= header["seed"] <= LARGEST_SEED:
        raise ReplayError(path, "its seed has more than 64 bits", REMEDY, 1)
    return Recording(path, header, counts["seen"], counts["reply"], not counts["end"])


def setting_of(recording: Recording, config: Config) -> Setting:
    """The world that the conversation began with; ReplayError where it is not of the agent's sizes."""
    world, portrait, voice = recording.header["world"], None, None
    try:
        if world["portrait"] is not None:
            portrait = unpack_frames(world["portrait"], black(config.picture), 1)[0]
        if world["voice"] is not None:
            voice = unpack_samples(world["voice"], config.world.n_voice_samples)
    except UnpackError as error:
        raise ReplayError(recording.path, f"its world: {error}", REMEDY, 1) from error
    return Setting(world["persona"], portrait, voice)


def records(recording: Recording, config: Config) -> Iterator[Record]:
    """What happened, in order.

    Raises:
        ReplayError: a line says what cannot have happened, or is not of the agent's sizes.
    """
    parse = _Parser(config)
    for line in read_lines(recording.path):
        if line.number == 1:
            continue
        try:
            yield parse(line)
        except (UnpackError, ValueError) as error:
            raise ReplayError(recording.path, str(error), REMEDY, line.number) from error


class _Parser:
    """Lines to records, each after the one before it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._frame = black(config.vision.picture)
        self._n_units = self._n_shown = self._n_missed = 0
        self._living: deque[int] = deque()  # units without a reply
        kinds: list[tuple[Kinds, Callable[..., Record]]] = [
            (SEEN, self._seen),
            (REPLY, self._reply),
            (SHOWN, self._shown),
            (END, lambda **_: End()),
        ]
        self._kinds = {next(iter(fields)): (fields, make) for fields, make in kinds}

    def __call__(self, line: Line) -> Record:
        name = next(iter(line.fields), "")
        if name not in self._kinds:
            raise ValueError(f"tells of {name[:20]!r}, which is none of {', '.join(self._kinds)}")
        kinds, make = self._kinds[name]
        _check_fields(line.fields, kinds)
        return make(**line.fields)

    def _seen(self, *, seen: int, skipped: int, solver_steps: int, text: list, frames: str, samples: dict) -> Seen:
        _check(0 <= skipped <= MOST_SKIPPED and seen == self._n_units + skipped, f"unit {seen} follows on no other")
        _check(len(self._living) < MOST_LIVING, f"unit {seen} is seen while {MOST_LIVING} others are lived")
        _check(1 <= solver_steps <= MOST_SOLVER_STEPS, f"{solver_steps} solver steps: 1 to {MOST_SOLVER_STEPS}")
        most, vocabulary = self._config.text.max_user, self._config.transformer.vocab
        known = all(type(i) is int and 0 <= i < vocabulary for i in text)
        _check(known and len(text) <= most, f"its text is not at most {most} tokens of the agent's {vocabulary}")
        pictures = unpack_frames(frames, self._frame, FRAMES_PER_UNIT)
        sound = unpack_samples(samples, SAMPLES_PER_UNIT)
        _check(len(sound) == SAMPLES_PER_UNIT, f"{len(sound)} samples, not the {SAMPLES_PER_UNIT} of a unit")
        self._frame, self._n_units = pictures[-1], seen + 1
        self._living.append(seen)
        return Seen(seen, skipped, solver_steps, text, pictures, sound)

    def _reply(
        self, *, reply: int, text: list, frames: str, samples: str, some_pixels: str, some_samples: dict
    ) -> Replied:
        _check(reply in self._living and reply == self._living.popleft(), f"unit {reply} is replied to out of turn")
        pixels = unpack_frames(some_pixels, _few(self._config), 1)[0]
        sound = unpack_samples(some_samples, SAMPLES_PER_UNIT // SAMPLE_STEP)
        _check(len(sound) == SAMPLES_PER_UNIT // SAMPLE_STEP, "samples are missing")
        return Replied(reply, text, frames, samples, pixels, sound)

    def _shown(self, *, shown: int, concealed: bool, missed: int, sha256: str) -> Shown:
        _check(shown == self._n_shown, f"unit {shown} is shown in place of {self._n_shown}")
        _check(self._n_missed <= missed <= self._n_units, f"{missed} replies missed of {self._n_units}")
        self._n_shown, self._n_missed = shown + 1, missed
        return Shown(shown, concealed, missed, sha256)


def _few(config: Config) -> np.ndarray:
    """Black in the size of the pixels that are kept of a reply."""
    return some_pixels(black(config.picture)[None])


def _checked(path: Path, line: int, fields: dict[str, Any], kinds: Kinds) -> dict[str, Any]:
    try:
        _check_fields(fields, kinds)
    except ValueError as error:
        raise ReplayError(path, str(error), REMEDY, line) from error
    return fields


def _check_fields(fields: dict[str, Any], kinds: Kinds) -> None:
    """Whether an object has just these fields, each of one of its types."""
    differing = sorted(fields.keys() ^ kinds.keys())
    _check(not differing, f"fields that are missing or unknown: {', '.join(name[:20] for name in differing[:5])!r}")
    for name, types in kinds.items():
        _check(type(fields[name]) in types, f"{name[:20]!r}: no {type(fields[name]).__name__} belongs there")


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
