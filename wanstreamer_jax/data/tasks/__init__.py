"""Tasks of pretraining, each an example of the one timeline, made from a seed and pieces of the synthetic world.

    setting = Setting(layout, tokenizer, Split.TRAIN, n_units=32)
    example = make_example("asr", 7, setting)          a record, and which units of it count

The world's text says what is to be done; its phrasings, like voices, cards and all else, are of two splits.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from wanstreamer_jax.data.tasks import conversation, generation, understanding
from wanstreamer_jax.data.tasks.example import Content, Counts, DoesNotFitError, Example, Setting, compose
from wanstreamer_jax.data.world.lexicon import Either

__all__ = ["TASKS", "Counts", "DoesNotFitError", "Example", "Setting", "Task", "make_example"]

_TRIES = 20  # to draw what fits


class Task(NamedTuple):
    """How its examples are made, what the agent is told at the start, and which of its streams count."""

    make: Callable[[np.random.Generator, Setting], Content]
    streams: tuple[str, ...]
    instructions: Either[str]


TASKS = {
    "image_captioning": Task(
        understanding.image_captioning,
        ("text",),
        Either(train=("Write what the picture shows.", "Describe the picture."), heldout=("What is in the picture?",)),
    ),
    "audio_captioning": Task(
        understanding.audio_captioning,
        ("text",),
        Either(train=("Write what kind of sound this is.", "Describe the sound."), heldout=("What is that sound?",)),
    ),
    "video_captioning": Task(
        understanding.video_captioning,
        ("text",),
        Either(train=("Write what happens.", "Describe what you see happen."), heldout=("What is happening?",)),
    ),
    "asr": Task(
        understanding.asr,
        ("text",),
        Either(train=("Write what is said.", "Transcribe the speech."), heldout=("Write down every word you hear.",)),
    ),
    "tts": Task(
        generation.tts,
        ("text", "audio"),
        Either(train=("Read the text aloud.", "Say what is typed."), heldout=("Speak the text.",)),
    ),
    "dialogue": Task(
        conversation.dialogue,
        ("text",),
        Either(train=("Answer in writing.", "Reply to what is typed."), heldout=("Write your answers.",)),
    ),
    "image_generation": Task(
        generation.image_generation,
        ("video",),
        Either(train=("Draw what is typed.", "Show a picture of it."), heldout=("Make this picture.",)),
    ),
    "audio_generation": Task(
        generation.audio_generation,
        ("audio",),
        Either(train=("Make the sound.", "Play what is typed."), heldout=("Let it be heard.",)),
    ),
    "video_generation": Task(
        generation.video_generation,
        ("video",),
        Either(train=("Do what is typed.", "Move as you are told."), heldout=("Follow the command.",)),
    ),
    "joint_generation": Task(
        generation.joint_generation,
        ("text", "audio", "video"),
        Either(train=("Say it, and be seen.", "Speak the text on camera."), heldout=("Say the text to my face.",)),
    ),
    "spoken_dialogue": Task(
        conversation.spoken_dialogue,
        ("text", "audio"),
        Either(train=("Answer aloud.", "Reply to what is said."), heldout=("Speak your answers.",)),
    ),
}


def make_example(task: str, seed: int, setting: Setting) -> Example:
    """The example of a task and a seed: the same to the bit wherever, whenever and after whatever it is made.

    Raises:
        DoesNotFitError: examples are too short for what the task draws.
        RuntimeError: espeak-ng is not installed.
    """
    rng = np.random.default_rng((seed, *task.encode()))
    name, found = f"{task}-{setting.split}-{seed:08d}", TASKS[task]
    for _ in range(_TRIES):
        try:
            content = found.make(rng, setting)
            return compose(name, found.instructions.pick(rng, setting.split), content, setting)
        except DoesNotFitError as error:
            reason = error
    raise DoesNotFitError(f"{task} does not fit into {setting.n_units} units (weights.units): {reason}")
