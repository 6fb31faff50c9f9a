"""Tasks of questions and answers: typed and answered in writing, or spoken and answered aloud."""

import dataclasses

import numpy as np

from wanstreamer_jax.data.tasks.example import Content, DoesNotFitError, Setting, typed, written
from wanstreamer_jax.data.tasks.sentences import make_dialogue, make_spoken_dialogue
from wanstreamer_jax.data.world import Word
from wanstreamer_jax.data.world.lexicon import AGENT_VOICE
from wanstreamer_jax.data.world.sound import Room, agent_sound, user_sound
from wanstreamer_jax.data.world.stage import Stage
from wanstreamer_jax.timeline import UNIT_MS

_MOST_TURNS, _TURN_GAP = 3, 2  # of what is typed; units
_PAUSE_MS = (400, 1200)  # between an answer and the next question
_BEGUN_MS = 5 * UNIT_MS  # of an answer that may be cut: its first words, on which the others depend


def dialogue(rng: np.random.Generator, setting: Setting) -> Content:
    """Lines that are typed, each answered when it is there; as many as there is time for."""
    words: list[Word] = []
    unit = int(rng.integers(0, 3))
    for turn in range(_MOST_TURNS):
        question, answer = make_dialogue(rng, setting.split)
        asked = setting.unit_typed(question, unit, follows=turn > 0)
        answered = setting.unit_written(answer.text, asked, follows=turn > 0)
        if turn and answered >= setting.n_units:
            break
        words += [*typed(question, unit), *written(answer.text, asked * UNIT_MS + 1)]
        unit = answered + _TURN_GAP
    return Content(words=words)


def spoken_dialogue(rng: np.random.Generator, setting: Setting) -> Content:
    """Questions for ears alone, as many as there is time for, answered as in a session; the last answer may be cut."""
    stage = _acted(rng, setting)
    lines = [dataclasses.replace(line, end_ms=min(line.end_ms, setting.last_ms)) for line in stage.lines]
    script = dataclasses.replace(stage.script(), lines=tuple(lines))
    return Content(
        words=[word for line in lines for word in line.words],
        user_samples=user_sound(script, Room.draw(rng), setting.n_samples),
        agent_samples=agent_sound(script, setting.n_samples),
        voice=AGENT_VOICE,
        labels={"voice": dataclasses.asdict(stage.voice), "expected": [turn.expected for turn in stage.turns]},
    )


def _acted(rng: np.random.Generator, setting: Setting) -> Stage:
    stage = Stage.empty(rng, setting.split, setting.last_ms)
    while True:
        trial = stage.copy()
        kind, question, answer = make_spoken_dialogue(rng, setting.split)
        line = trial.reply(kind, trial.ask(question), answer)
        if line.start_ms + _BEGUN_MS > setting.last_ms:
            break
        stage = trial
        stage.wait(_PAUSE_MS)
    if not stage.turns:
        raise DoesNotFitError(f"{question!r} ends late")
    return stage
