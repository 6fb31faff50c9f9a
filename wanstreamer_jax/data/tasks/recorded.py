"""Tasks from prepared recordings: a stretch of a session laid out as an example, as far as it has what a task needs.

| task | needs |
|---|---|
| `asr` | the user's sound and all that the user says |
| `tts`, `joint_generation` | the agent's sound (and picture) and all that it says |
| `image_`, `audio_`, `video_captioning` | `"captions"` in the labels of `session.json`: a list of
  `{"of": "image" or "audio" or "video", "start_ms", "end_ms", "text"}`, of the user's side |

Latents that were prepared are of whole sessions, so none is kept.

U units, N text tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from wanstreamer_jax.data.layout import encode_persona
from wanstreamer_jax.data.record import Record, Streams, to_float32
from wanstreamer_jax.data.tasks import TASKS
from wanstreamer_jax.data.tasks.example import (
    Content,
    DoesNotFitError,
    Example,
    Setting,
    compose,
    counts_of,
    written,
)
from wanstreamer_jax.data.tasks.understanding import OVER_MS
from wanstreamer_jax.data.text import unit_of_end, unit_of_start, unit_of_told
from wanstreamer_jax.data.world import Who
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, UNIT_MS

_NOTHING = Streams(*[False] * len(Streams._fields))


def example_of(task: str, record: Record, rng: np.random.Generator, setting: Setting) -> Example | None:
    """An example of a task from somewhere in a record, of at most so many units; none when it has no material."""
    return _MAKERS[task](task, record, rng, setting) if task in _MAKERS else None


def _transcribe(task: str, record: Record, rng: np.random.Generator, setting: Setting) -> Example | None:
    if not (record.streams.user_audio and record.streams.heard):
        return None
    is_free = _free(record, record.n_heard, Who.USER)
    said = record.n_heard > 1
    starts = [s for s in np.flatnonzero(is_free[:-1]) if said[s : s + setting.n_units].any()]
    if not starts:
        return None
    start = int(rng.choice(starts))
    units = slice(start, min(start + setting.n_units, record.n_units))
    has = _NOTHING._replace(user_audio=True, heard=True, agent_text=True)
    blank = _blank(record, units.stop - units.start, setting)
    taken = blank._replace(
        name=f"{record.name} + {start}, {task}",
        streams=has,
        persona=_instruction(task, rng, setting),
        user_samples=record.user_samples[units],
        agent_text=record.heard[units],
        n_agent_text=record.n_heard[units],
        heard=record.heard[units],
        n_heard=record.n_heard[units],
    )
    return Example(taken, counts_of(has, taken.n_units))


def _speak(task: str, record: Record, rng: np.random.Generator, setting: Setting) -> Example | None:
    """What the agent says is typed first, then it is said as it was."""
    is_seen = task == "joint_generation"
    there = record.streams
    if not (there.agent_audio and there.agent_text and (there.agent_video or not is_seen)):
        return None
    spans = list(_utterances(record, setting))
    if not spans:
        return None
    start, stop = spans[int(rng.integers(len(spans)))]
    typed = _typed(record, slice(start, stop), setting)
    lead, n = len(typed), len(typed) + stop - start
    has = _NOTHING._replace(agent_audio=True, agent_text=True, agent_video=is_seen, portrait=is_seen and there.portrait)
    taken = _blank(record, n, setting)
    taken.user_text[:lead], taken.n_user_text[:lead] = _rows(typed, setting.layout.max_user_text)
    taken.agent_text[lead:], taken.n_agent_text[lead:] = record.agent_text[start:stop], record.n_agent_text[start:stop]
    taken.agent_samples[lead:] = record.agent_samples[start:stop]
    if is_seen:
        frames = record.agent_frames[start:stop]
        still = np.broadcast_to(frames[0, 0], (lead, *frames.shape[1:]))  # while it is typed
        taken = taken._replace(agent_frames=np.concatenate([still, frames]), frame_before=frames[0, 0])
    taken = taken._replace(
        name=f"{record.name} + {start}, {task}",
        streams=has,
        persona=_instruction(task, rng, setting),
        portrait=record.portrait if has.portrait else taken.portrait,
        voice=record.voice,
    )
    return Example(taken, counts_of(has, n, picture_from=lead))


def _utterances(record: Record, setting: Setting) -> Iterator[tuple[int, int]]:
    """Stretches of units in which the agent says something whole, each as long as there is room for it."""
    is_free = _free(record, record.n_agent_text, Who.AGENT)
    for start in np.flatnonzero(is_free[:-1] & (record.n_agent_text > 1)).tolist():
        for stop in range(min(start + setting.n_units, record.n_units), start, -1):
            units = slice(start, stop)
            if is_free[stop] and len(_typed(record, units, setting)) + stop - start <= setting.n_units:
                yield start, stop
                break


def _typed(record: Record, units: slice, setting: Setting) -> list[list[int]]:
    """The agent's text of some units as it is typed, unit by unit."""
    rows = zip(record.agent_text[units], record.n_agent_text[units], strict=True)
    ids = [i for row, n in rows for i in row[: n - 1].tolist()]  # without <unit_end>
    most = max(1, setting.layout.max_user_text)
    return [ids[at : at + most] for at in range(0, len(ids), most)]


def _rows(units: Sequence[Sequence[int]], most: int) -> tuple[np.ndarray, np.ndarray]:
    rows = [[*unit, *[0] * (most - len(unit))] for unit in units]
    return np.array(rows, np.int32), np.array([len(unit) for unit in units], np.int32)


def _free(record: Record, n_text: Int32[np.ndarray, " U"], who: Who) -> np.ndarray:
    """Before which units, and whether after the last one, nobody is in the middle of a word or behind in its text.

    What goes on when a record begins is known of a session's first only. What the user says is written a little after.
    """
    unit_of_written = unit_of_told if who is Who.USER else unit_of_end
    is_free = np.append(record.first_unit == 0, n_text == 1)
    for word in record.words:
        if word["who"] == who:
            first = unit_of_start(word["start_ms"]) - record.first_unit + 1
            is_free[first : unit_of_written(word["end_ms"]) - record.first_unit + 1] = False
    return is_free


def _blank(record: Record, n_units: int, setting: Setting) -> Record:
    """So many units in which nothing happens."""
    layout = setting.layout
    agent_text = np.zeros((n_units, layout.max_agent_text), np.int32)
    agent_text[:, 0] = layout.unit_end
    user_size, agent_size = (record.user_frames.shape[2:], record.agent_frames.shape[2:])
    return record._replace(
        first_unit=0,
        words=[],
        labels={},
        streams=_NOTHING,
        user_frames=np.zeros((n_units, FRAMES_PER_UNIT, *user_size), np.uint8),
        user_samples=np.zeros((n_units, SAMPLES_PER_UNIT), np.int16),
        agent_frames=np.zeros((n_units, FRAMES_PER_UNIT, *agent_size), np.uint8),
        agent_samples=np.zeros((n_units, SAMPLES_PER_UNIT), np.int16),
        frame_before=np.zeros(agent_size, np.uint8),
        user_text=np.zeros((n_units, layout.max_user_text), np.int32),
        n_user_text=np.zeros(n_units, np.int32),
        agent_text=agent_text,
        n_agent_text=np.ones(n_units, np.int32),
        heard=agent_text.copy(),
        n_heard=np.ones(n_units, np.int32),
        portrait=np.zeros(agent_size, np.uint8),
        voice=np.zeros(0, np.int16),
        latents=None,
    )


def _instruction(task: str, rng: np.random.Generator, setting: Setting) -> Int32[np.ndarray, " P"]:
    """Tokens of what the agent is told."""
    return encode_persona(TASKS[task].instructions.pick(rng, setting.split), setting.tokenizer, setting.layout)


def _caption(task: str, record: Record, rng: np.random.Generator, setting: Setting) -> Example | None:
    kind = task.removesuffix("_captioning")
    captions = [c for c in record.labels.get("captions", ()) if c["of"] == kind and _is_within(c, record, setting)]
    if not captions:
        return None
    caption = captions[int(rng.integers(len(captions)))]
    instruction = TASKS[task].instructions.pick(rng, setting.split)
    try:
        made = compose(f"{record.name}, {task}", instruction, _CAPTIONED[kind](caption, record, setting), setting)
    except DoesNotFitError:
        return None
    return made._replace(record=made.record._replace(licence=record.licence))


def _units(caption: Mapping[str, Any], record: Record) -> slice:
    """The units of a record that a caption is of."""
    first, last = unit_of_start(caption["start_ms"]), unit_of_end(caption["end_ms"])
    return slice(first - record.first_unit, last + 1 - record.first_unit)


def _is_within(caption: Mapping[str, Any], record: Record, setting: Setting) -> bool:
    units = _units(caption, record)
    return 0 <= units.start < units.stop <= record.n_units and units.stop - units.start <= setting.n_units


def _of_image(caption: Mapping[str, Any], record: Record, setting: Setting) -> Content:
    """The last picture, still."""
    picture = record.user_frames[_units(caption, record)][-1, -1]
    return Content(written(caption["text"], 0), user_frames=np.repeat(picture[None], setting.n_frames, axis=0))


def _of_video(caption: Mapping[str, Any], record: Record, setting: Setting) -> Content:
    """All pictures, the last one until the end."""
    frames = record.user_frames[_units(caption, record)]
    known_ms, frames = len(frames) * UNIT_MS, frames.reshape(-1, *frames.shape[2:])
    still = np.repeat(frames[-1:], setting.n_frames - len(frames), axis=0)
    return Content(written(caption["text"], known_ms), user_frames=np.concatenate([frames, still]))


def _of_audio(caption: Mapping[str, Any], record: Record, setting: Setting) -> Content:
    """The sound, then silence."""
    sound = to_float32(record.user_samples[_units(caption, record)])
    samples = np.zeros(setting.n_samples, np.float32)
    samples[: sound.size] = sound.reshape(-1)
    return Content(written(caption["text"], len(sound) * UNIT_MS + OVER_MS), user_samples=samples)


_CAPTIONED: dict[str, Callable[[Mapping[str, Any], Record, Setting], Content]] = {
    "image": _of_image,
    "audio": _of_audio,
    "video": _of_video,
}
_MAKERS: dict[str, Callable[[str, Record, np.random.Generator, Setting], Example | None]] = {
    "asr": _transcribe,
    "tts": _speak,
    "joint_generation": _speak,
    **dict.fromkeys(("image_captioning", "audio_captioning", "video_captioning"), _caption),
}
