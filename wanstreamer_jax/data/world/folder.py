"""A session on disk (docs/design.md, section 7): two films, the words, session.json; there as a whole or not at all."""

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from wanstreamer_jax.data.world.lexicon import AGENT_NAME, AGENT_VOICE, PERSONA
from wanstreamer_jax.data.world.session import Session, World, in_processes, make_session
from wanstreamer_jax.data.world.speech import speak
from wanstreamer_jax.files import pending_directory
from wanstreamer_jax.media.picture import write_png
from wanstreamer_jax.media.sound import write_wav
from wanstreamer_jax.media.writer import write_film
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, UNIT_MS, VIDEO_FPS

LICENCE = "CC0-1.0"
VOICE_SAMPLE = f"Hello, I am {AGENT_NAME}. I am listening."


def write_session(session: Session, folder: Path) -> None:
    """Write `user.mp4`, `agent.mp4`, `words.jsonl`, `session.json`, and the world's `portrait.png` and `voice.wav`.

    Words are those of `script.Who`: also what the user typed (a word is there at its `end_ms`), and what somebody
    said further away.

    Raises:
        FileExistsError: there is something at `folder` already.
        MediaError: a film cannot be written. Nothing is left behind.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: remove it, or name another folder")
    with pending_directory(folder) as fresh:
        write_film(fresh / "user.mp4", session.user_frames, session.user_samples)
        write_film(fresh / "agent.mp4", session.agent_frames, session.agent_samples)
        world = write_world(session.portrait, fresh)
        labels = session.labels.to_json()
        words = [json.dumps(_in_order(word, "who", "start_ms", "end_ms", "text")) for word in labels.pop("words")]
        (fresh / "words.jsonl").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
        (fresh / "session.json").write_text(json.dumps(_about(session, world, labels), indent=1), encoding="utf-8")


def write_world(portrait: UInt8[np.ndarray, "h w 3"], folder: Path) -> dict[str, str]:
    """Write `portrait.png` and `voice.wav`; what sessions begin with, by their names."""
    write_png(folder / "portrait.png", portrait)
    write_wav(folder / "voice.wav", voice_sample())
    return {"persona": PERSONA, "portrait": "portrait.png", "voice": "voice.wav"}


def voice_sample() -> Float32[np.ndarray, " n"]:
    """The agent's voice, as it is given to the agent."""
    return speak(VOICE_SAMPLE, AGENT_VOICE).samples


def write_sessions(folder: Path, seeds: Iterable[int], world: World, workers: int = 1) -> Iterator[Path]:
    """Make and write the sessions of seeds, one folder each, by so many processes; those that are there are kept."""
    return in_processes(functools.partial(_make_and_write, parent=folder, world=world), seeds, workers)


def _make_and_write(seed: int, parent: Path, world: World) -> Path:
    folder = parent / f"{world.split}-{seed:08d}"
    if not folder.exists():
        write_session(make_session(seed, world), folder)
    return folder


def _about(session: Session, world: dict[str, str], labels: dict[str, Any]) -> dict[str, Any]:
    return {
        "world": world,
        "licence": LICENCE,
        "rates": {"video_fps": VIDEO_FPS, "sample_rate_hz": SAMPLE_RATE_HZ, "unit_ms": UNIT_MS},
        "units": session.n_units,
        "source": "wanstreamer_jax.data.world",
        "labels": labels,
    }


def _in_order(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names}
