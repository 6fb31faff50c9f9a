"""Tasks whose answer is seen or heard: a typed text becomes speech, a sound, a picture, a movement, or a talking face.

What is asked for begins in the unit after the one in which the last of the text arrived.
"""

import dataclasses

import numpy as np

from wanstreamer_jax.data.tasks.example import Content, DoesNotFitError, Setting, typed
from wanstreamer_jax.data.tasks.poses import make_command, make_likeness
from wanstreamer_jax.data.tasks.sentences import make_answer, make_sentence
from wanstreamer_jax.data.tasks.sounds import make_sound, place
from wanstreamer_jax.data.world import Composition, Identity, Who
from wanstreamer_jax.data.world.character import portray
from wanstreamer_jax.data.world.identity import Pose
from wanstreamer_jax.data.world.lexicon import AGENT_VOICE, Either, make_voice, pick
from wanstreamer_jax.data.world.performance import behave, pose
from wanstreamer_jax.data.world.script import Line, Script
from wanstreamer_jax.data.world.sound import agent_sound
from wanstreamer_jax.data.world.speech import Voice
from wanstreamer_jax.timeline import SAMPLES_PER_UNIT, UNIT_MS

_SENTENCES = 12  # that are tried after those that fit
_ANSWERS = 0.75  # share of what is said in the agent's voice
PLAY = Either(train=("Play {sound}.", "I want to hear {sound}."), heldout=("Let me hear {sound}.",))


def tts(rng: np.random.Generator, setting: Setting) -> Content:
    """A typed sentence is said in the voice of the world's sample, and each word written as it begins."""
    voice = AGENT_VOICE if rng.random() < 0.5 else make_voice(rng, setting.split)
    line = _said(rng, setting, voice)
    return Content(
        words=[*typed(line.text), *line.words],
        agent_samples=agent_sound(_script(line, setting), setting.n_samples),
        voice=voice,
        labels={"voice": dataclasses.asdict(voice), "sentence": line.text},
    )


def joint_generation(rng: np.random.Generator, setting: Setting) -> Content:
    """A typed sentence is said by the agent that is seen, which otherwise lives as it always does."""
    line = _said(rng, setting, AGENT_VOICE)
    script, composition = _script(line, setting), pick(rng, tuple(Composition))
    poses, _ = pose(rng, script, behave(rng, script, setting.last_ms), setting.n_frames)
    return Content(
        words=[*typed(line.text), *line.words],
        agent_frames=portray(Identity(), composition, setting.layout.agent_picture, poses),
        agent_samples=agent_sound(script, setting.n_samples),
        portrait=_at_rest(composition, setting),
        voice=AGENT_VOICE,
        labels={"sentence": line.text, "composition": composition},
    )


def audio_generation(rng: np.random.Generator, setting: Setting) -> Content:
    """A sound, by its name."""
    sound = make_sound(rng, setting.split)
    text = PLAY.pick(rng, setting.split).format(sound=sound.name)
    start = (setting.unit_typed(text) + 1) * SAMPLES_PER_UNIT
    if start + len(sound.samples) > setting.n_samples:
        raise DoesNotFitError(f"{text!r} ends late")
    return Content(words=typed(text), agent_samples=place(sound.samples, start, setting.n_samples))


def image_generation(rng: np.random.Generator, setting: Setting) -> Content:
    """A still picture of the agent, by its description; before it there is nothing to see, and nothing counts."""
    likeness = make_likeness(rng, setting.split, setting.layout.agent_picture)
    first = setting.unit_typed(likeness.text) + 1
    if first >= setting.n_units:
        raise DoesNotFitError(f"{likeness.text!r} ends late")
    frames = np.repeat(likeness.picture[None], setting.n_frames, axis=0)
    frames[: first * UNIT_MS * len(frames) // setting.last_ms] = 0
    return Content(words=typed(likeness.text), agent_frames=frames, picture_from=first)


def video_generation(rng: np.random.Generator, setting: Setting) -> Content:
    """The agent, at rest as in its portrait, does what it is told."""
    told = make_command(rng, setting.split)
    start_ms = (setting.unit_typed(told.text) + 1) * UNIT_MS
    if start_ms + told.length_ms > setting.last_ms:
        raise DoesNotFitError(f"{told.text!r} ends late")
    poses = told.pose(start_ms, setting.n_frames)
    return Content(
        words=typed(told.text),
        agent_frames=portray(Identity(), told.composition, setting.layout.agent_picture, poses),
        portrait=_at_rest(told.composition, setting),
        labels={"action": told.action.name, "times": told.n_times},
    )


def _said(rng: np.random.Generator, setting: Setting, voice: Voice) -> Line:
    """A sentence that is said when it has been typed.

    In the agent's voice, which is the one to be learned, about as many as there is room for, most of them answers.
    """
    said: Line | None = None
    for _ in range(_SENTENCES if voice == AGENT_VOICE else 1):  # a word of the agent's is spoken once and kept
        sentence = _sentence(rng, setting, voice)
        line = _line(f"{said.text} {sentence}" if said else sentence, setting, voice)
        said = line if line.end_ms <= setting.last_ms else said
    if said is None:
        raise DoesNotFitError(f"{sentence!r} ends late")
    return said


def _sentence(rng: np.random.Generator, setting: Setting, voice: Voice) -> str:
    is_answer = voice == AGENT_VOICE and rng.random() < _ANSWERS
    return (make_answer if is_answer else make_sentence)(rng, setting.split)


def _line(text: str, setting: Setting, voice: Voice) -> Line:
    return Line.whole(Who.AGENT, text, (setting.unit_typed(text) + 1) * UNIT_MS, voice)


def _script(line: Line, setting: Setting) -> Script:
    return Script(setting.split, line.voice, (line,), (), (), ())


def _at_rest(composition: Composition, setting: Setting) -> np.ndarray:
    return portray(Identity(), composition, setting.layout.agent_picture, Pose.rest(1))[0]
