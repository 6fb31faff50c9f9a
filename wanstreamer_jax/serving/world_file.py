"""A world for a session: from nothing, or from a JSON file {"persona", "portrait", "voice"} with media beside it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from wanstreamer_jax.config import Config
from wanstreamer_jax.media.picture import black
from wanstreamer_jax.media.reader import open_media
from wanstreamer_jax.stream.pace import Screen, first_screen
from wanstreamer_jax.stream.placement import Start, start_angles
from wanstreamer_jax.stream.world import World
from wanstreamer_jax.timeline import SAMPLES_PER_AUDIO_LATENT, SAMPLES_PER_UNIT
from wanstreamer_jax.tokens import Tokenizer

FIELDS = {"persona", "portrait", "voice"}


class Setting(NamedTuple):
    """A world in people's terms: persona text; a portrait at the agent's picture size; voice samples at 24 kHz."""

    persona: str = ""
    portrait: UInt8[np.ndarray, "H W 3"] | None = None
    voice: Float[np.ndarray, " n"] | None = None


def read_setting(path: Path, config: Config) -> Setting:
    """Read a world file; paths in it are relative to it.

    Raises:
        ValueError: it is no JSON object of these fields; the message names the file and the reason.
        MediaError: a portrait or voice sample cannot be read.
    """
    fields = _fields(path)
    portrait = voice = None
    if "portrait" in fields:
        with open_media(path.parent / fields["portrait"], config.picture) as media:
            portrait = next(iter(media)).frames[0]
    if "voice" in fields:
        n_units = -(-config.world.n_voice_samples // SAMPLES_PER_UNIT)
        with open_media(path.parent / fields["voice"], config.picture) as media:
            units = [unit.samples[: unit.n_samples] for _, unit in zip(range(n_units), media, strict=False)]
        voice = np.concatenate(units)
    return Setting(fields.get("persona", ""), portrait, voice)


def _fields(path: Path) -> dict[str, str]:
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
        raise ValueError(f"{path}: expected an object of texts, with any of {', '.join(sorted(FIELDS))}")
    if unknown := sorted(fields.keys() - FIELDS):
        raise ValueError(f"{path}: unknown field {', '.join(unknown)}; there are {', '.join(sorted(FIELDS))}")
    return fields


def opening_screen(config: Config, setting: Setting) -> Screen:
    """What is shown of a session before it has replied: the portrait, or darkness."""
    portrait = setting.portrait
    return first_screen((black(config.picture) if portrait is None else portrait)[None])


def make_start(config: Config, tokenizer: Tokenizer, settings: list[Setting], seeds: list[int]) -> Start:
    """How B sessions begin: their worlds padded to fixed sizes, and where in time each one ends.

    Raises:
        ValueError: a persona has more tokens than a world may hold. A voice sample that is too long is cut.
    """
    limit, B, picture = config.world, len(settings), config.picture
    text = np.zeros((B, limit.max_text), np.int32)
    voice = np.zeros((B, limit.n_voice_samples), np.float32)
    portrait = np.zeros((B, picture.height, picture.width, 3), np.uint8)
    n_text, n_voice = np.zeros(B, np.int32), np.zeros(B, np.int32)
    for b, setting in enumerate(settings):
        ids = tokenizer.encode(setting.persona)
        if len(ids) > limit.max_text:
            raise ValueError(f"persona of {len(ids)} tokens: a world holds {limit.max_text} (world.max_text)")
        text[b, : len(ids)], n_text[b] = ids, len(ids)
        if setting.voice is not None:
            n_voice[b] = min(len(setting.voice) // SAMPLES_PER_AUDIO_LATENT, limit.max_voice)
            n_samples = n_voice[b] * SAMPLES_PER_AUDIO_LATENT
            voice[b, :n_samples] = setting.voice[:n_samples]
        if setting.portrait is not None:
            portrait[b] = setting.portrait
    has_portrait = np.array([s.portrait is not None for s in settings])
    arrays = (text, n_text, voice, n_voice, portrait, has_portrait, start_angles(config, n_text))
    return Start(World(*(jnp.asarray(x) for x in arrays)), n_text + np.maximum(n_voice, 1), seeds)
