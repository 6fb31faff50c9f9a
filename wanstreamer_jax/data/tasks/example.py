"""An example of a task: what happens in a few units, as the record of any session, and which units count.

A stream that an example does not have is black, silent or empty, and counts nowhere.

U units, T frames, n samples, H W the user's picture, h w the agent's.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.data.assemble import Piece, Whole, assemble, in_units
from wanstreamer_jax.data.layout import Layout, encode_persona, lay_out_words
from wanstreamer_jax.data.record import Record, Streams, to_int16
from wanstreamer_jax.data.text import tokenise
from wanstreamer_jax.data.world import Split, Who, Word
from wanstreamer_jax.data.world.folder import LICENCE
from wanstreamer_jax.data.world.speech import Voice, speak
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_AUDIO_LATENT, SAMPLES_PER_UNIT, UNIT_MS
from wanstreamer_jax.tokens import Tokenizer

Frames = UInt8[np.ndarray, "T _ _ 3"]
Samples = Float32[np.ndarray, " n"]

VOICE_SAMPLE = "Hello. Listen to me. This is how I speak."


class DoesNotFitError(ValueError):
    """What was drawn needs more units than an example has."""


class Counts(NamedTuple):
    """The weight of each unit's text, sound and picture."""

    text: Float32[np.ndarray, " U"]
    audio: Float32[np.ndarray, " U"]
    video: Float32[np.ndarray, " U"]


class Example(NamedTuple):
    """A record, and what of it counts."""

    record: Record
    counts: Counts


@dataclasses.dataclass(frozen=True)
class Setting:
    """What examples are made for: an agent's layout and tokenizer, a split, and their length."""

    layout: Layout
    tokenizer: Tokenizer
    split: Split
    n_units: int

    @property
    def n_frames(self) -> int:
        """Of a picture."""
        return self.n_units * FRAMES_PER_UNIT

    @property
    def n_samples(self) -> int:
        """Of a sound."""
        return self.n_units * SAMPLES_PER_UNIT

    @property
    def last_ms(self) -> int:
        """When it ends."""
        return self.n_units * UNIT_MS

    def unit_typed(self, text: str, unit: int = 0, *, follows: bool = False) -> int:
        """The unit in which the last of a text arrives that is sent at once in `unit`, first or after another."""
        return unit + self._n_units(text, self.layout.max_user_text, follows) - 1

    def unit_written(self, text: str, unit: int, *, follows: bool) -> int:
        """The unit in which the agent has written a text that it begins to write in `unit`."""
        return unit + self._n_units(text, self.layout.max_agent_text - 1, follows) - 1

    def _n_units(self, text: str, most: int, follows: bool) -> int:
        words = tokenise(self.tokenizer, ["", *text.split()] if follows else text.split())
        return -(-sum(map(len, words)) // max(1, most))


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """What happens in an example. What the user typed is there at its words' end, what the agent writes at their start.

    None: there is no such stream.
    """

    words: Sequence[Word] = ()
    user_frames: Frames | None = None
    user_samples: Samples | None = None
    agent_frames: Frames | None = None
    agent_samples: Samples | None = None
    portrait: UInt8[np.ndarray, "h w 3"] | None = None
    voice: Voice | None = None  # whose sample the world has
    picture_from: int = 0  # the unit from which the agent's picture counts
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what a test wants to know


def typed(text: str, unit: int = 0) -> list[Word]:
    """A text that the user sends at once in a unit; as much of it arrives in each as there is room for."""
    return [Word(Who.USER_TYPED, unit * UNIT_MS, unit * UNIT_MS + 1, word) for word in text.split()]


def written(text: str, known_ms: int) -> list[Word]:
    """A text that the agent begins to write in the unit in which what it says is known: at `known_ms` it is."""
    return [Word(Who.AGENT, max(0, known_ms - 1), known_ms, word) for word in text.split()]


def compose(name: str, instruction: str, content: Content, setting: Setting) -> Example:
    """The example of a content.

    Raises:
        DoesNotFitError: its text needs more units.
        ValueError: the instruction is longer than a world's text may be.
    """
    layout, has = setting.layout, _streams(content)
    text = lay_out_words(content.words, setting.tokenizer, layout, setting.n_units)
    if text.n_left_over:
        raise DoesNotFitError(f"{name}: {text.n_left_over} tokens are left over after {setting.n_units} units")
    user, agent = layout.user_picture, layout.agent_picture
    black = np.zeros((agent.height, agent.width, 3), np.uint8)
    whole = Whole(
        name=name,
        licence=LICENCE,
        words=content.words,
        labels={"instruction": instruction, **content.labels},
        streams=has,
        text=text,
        persona=encode_persona(instruction, setting.tokenizer, layout),
        portrait=black if content.portrait is None else content.portrait,
        voice=np.zeros(0, np.int16) if content.voice is None else _voice_sample(content.voice, layout),
    )
    piece = Piece(
        user_frames=_frames(content.user_frames, setting, (user.height, user.width)),
        user_samples=_sound(content.user_samples, setting),
        agent_frames=_frames(content.agent_frames, setting, (agent.height, agent.width)),
        agent_samples=_sound(content.agent_samples, setting),
    )
    return Example(next(assemble(whole, [piece])), counts_of(has, setting.n_units, content.picture_from))


def counts_of(has: Streams, n_units: int, picture_from: int = 0) -> Counts:
    """Every unit of the agent's streams that are there; the picture from one unit on."""
    ones = np.ones(n_units, np.float32)
    seen = (np.arange(n_units) >= picture_from).astype(np.float32)
    return Counts(has.agent_text * ones, has.agent_audio * ones, has.agent_video * seen)


def _streams(content: Content) -> Streams:
    who = {word.who for word in content.words}
    return Streams(
        user_video=content.user_frames is not None,
        user_audio=content.user_samples is not None,
        agent_video=content.agent_frames is not None,
        agent_audio=content.agent_samples is not None,
        agent_text=Who.AGENT in who,
        heard=Who.USER in who,
        portrait=content.portrait is not None,
    )


def _frames(frames: Frames | None, setting: Setting, size: tuple[int, int]) -> UInt8[np.ndarray, "U f _ _ 3"]:
    if frames is None:
        return np.zeros((setting.n_units, FRAMES_PER_UNIT, *size, 3), np.uint8)
    return frames.reshape(setting.n_units, FRAMES_PER_UNIT, *size, 3)


def _sound(samples: Samples | None, setting: Setting) -> Float32[np.ndarray, "U n_unit"]:
    return in_units(np.zeros(setting.n_samples, np.float32) if samples is None else samples)


def _voice_sample(voice: Voice, layout: Layout) -> np.ndarray:
    samples = speak(VOICE_SAMPLE, voice).samples[: layout.n_voice_samples]
    return to_int16(samples[: len(samples) // SAMPLES_PER_AUDIO_LATENT * SAMPLES_PER_AUDIO_LATENT])
