"""How a session becomes records: at which sizes, with which text limits, by which tokenizer."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from wanstreamer_jax.config import Config, build
from wanstreamer_jax.data.text import Due, UnitText, lay_out, tokenise, unit_of_end, unit_of_start, unit_of_told
from wanstreamer_jax.data.world import Who, Word
from wanstreamer_jax.timeline import SAMPLES_PER_AUDIO_LATENT, Picture
from wanstreamer_jax.tokens import Tokenizer


@dataclasses.dataclass(frozen=True)
class Layout:
    """All of a configuration that records depend on: records of one layout fit every agent of that layout."""

    agent_picture: Picture
    user_picture: Picture
    max_user_text: int
    max_agent_text: int  # with <unit_end>
    unit_end: int
    max_persona: int  # tokens
    max_voice: int  # latents
    tokenizer: str  # sha256 of its entries

    @classmethod
    def of(cls, config: Config, tokenizer: Tokenizer) -> "Layout":
        """The layout for an agent."""
        text, world = config.text, config.world
        return cls(
            agent_picture=config.picture,
            user_picture=config.vision.picture,
            max_user_text=text.max_user,
            max_agent_text=text.max_agent,
            unit_end=text.unit_end,
            max_persona=world.max_text,
            max_voice=world.max_voice,
            tokenizer=fingerprint(tokenizer),
        )

    @classmethod
    def from_json(cls, fields: Any, where: str) -> "Layout":
        """What `dataclasses.asdict` made of one; ValueError names what does not fit."""
        return build(cls, fields, where)

    @property
    def n_voice_samples(self) -> int:
        """Most samples of a voice."""
        return self.max_voice * SAMPLES_PER_AUDIO_LATENT

    def differences(self, other: "Layout") -> list[str]:
        """In words, field by field."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        return [f"{name} is {ours}, not {theirs}" for name, ours, theirs in pairs if ours != theirs]


def fingerprint(tokenizer: Tokenizer) -> str:
    """The same for tokenizers that have the same entries."""
    entries = hashlib.sha256()
    for i in range(tokenizer.n_entries):
        entries.update(tokenizer.bytes_of(i) + b"\n")
    return entries.hexdigest()


@dataclasses.dataclass(frozen=True)
class SessionText:
    """The three streams of text of a session."""

    user: UnitText
    agent: UnitText
    heard: UnitText

    @property
    def n_moved(self) -> Int32[np.ndarray, " U"]:
        """Words that end in each unit and were due in an earlier one."""
        return self.user.n_moved + self.agent.n_moved + self.heard.n_moved

    @property
    def n_left_over(self) -> int:
        """Tokens for which the session was too short."""
        return len(self.user.left_over) + len(self.agent.left_over) + len(self.heard.left_over)


def lay_out_words(words: Sequence[Word], tokenizer: Tokenizer, layout: Layout, n_units: int) -> SessionText:
    """A session's words in units.

    The agent writes a word in the unit in which it begins to say it. What the user types is known in the unit in which
    it ends, what the user says a little later.
    """

    def due(who: Who, unit: Callable[[Word], int]) -> list[Due]:
        spoken = [word for word in words if word.who is who]
        units = [unit(word) for word in spoken]
        ids = tokenise(tokenizer, [word.text for word in spoken])
        return sorted((Due(*pair) for pair in zip(units, ids, strict=True)), key=lambda d: d.unit)

    return SessionText(
        user=lay_out(due(Who.USER_TYPED, lambda w: unit_of_end(w.end_ms)), n_units, layout.max_user_text),
        agent=lay_out(
            due(Who.AGENT, lambda w: unit_of_start(w.start_ms)), n_units, layout.max_agent_text, layout.unit_end
        ),
        heard=lay_out(due(Who.USER, lambda w: unit_of_told(w.end_ms)), n_units, layout.max_agent_text, layout.unit_end),
    )


def encode_persona(persona: str, tokenizer: Tokenizer, layout: Layout) -> Int32[np.ndarray, " P"]:
    """Tokens of a persona.

    Raises:
        ValueError: a world has no room for so many.
    """
    ids = tokenizer.encode(persona)
    if len(ids) > layout.max_persona:
        raise ValueError(f"persona of {len(ids)} tokens: a world holds {layout.max_persona} (world.max_text)")
    return np.array(ids, np.int32)
