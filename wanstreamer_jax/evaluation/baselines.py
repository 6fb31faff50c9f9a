"""Agents that know nothing, and the one that knows everything: what a figure is worth beside them.

world     the world's own agent, as recorded: the most that can be reached
silent    its portrait, and silence
copying   the user's picture and sound and words, a unit later
rule      a detector of voices: when the user has been quiet for 400 ms, the same recorded answer
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8

from wanstreamer_jax.data.text import unit_of_end, unit_of_start
from wanstreamer_jax.data.world import Session, Who
from wanstreamer_jax.data.world.lexicon import AGENT_VOICE
from wanstreamer_jax.data.world.speech import speak
from wanstreamer_jax.evaluation.lived import Lived, Written
from wanstreamer_jax.evaluation.voice import speech
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_MS, SAMPLES_PER_UNIT, UNIT_MS, Picture

QUIET_MS = 400
RULE_ANSWER = "It is red."
RULE_VOICE = dataclasses.replace(AGENT_VOICE, word_ms=0)  # fluent: who speaks for longer is late more often


def world(session: Session) -> Lived:
    """What the world's own agent did."""
    words = [w for w in session.labels.words if w.who is Who.AGENT]
    written = tuple(Written(unit_of_start(w.start_ms), f" {w.text}") for w in words)
    return Lived(session.agent_frames, session.agent_samples, written)


def silent(session: Session) -> Lived:
    """Nothing."""
    return Lived(_still(session), np.zeros_like(session.agent_samples), ())


def copying(session: Session) -> Lived:
    """All that the user did, a unit later."""
    height, width = session.agent_frames.shape[1:3]
    shown = _resized(session.user_frames, Picture(width, height))
    frames = np.concatenate([_still(session)[:FRAMES_PER_UNIT], shown[:-FRAMES_PER_UNIT]])
    silence = np.zeros(SAMPLES_PER_UNIT, np.float32)
    samples = np.concatenate([silence, session.user_samples[:-SAMPLES_PER_UNIT]])
    words = [w for w in session.labels.words if w.who in (Who.USER, Who.USER_TYPED)]
    written = tuple(Written(unit_of_end(w.end_ms) + 1, f" {w.text}") for w in words)
    return Lived(frames, samples, written)


def rule(session: Session) -> Lived:
    """One answer to everything."""
    answer = speak(RULE_ANSWER, RULE_VOICE).samples
    samples, written = np.zeros_like(session.agent_samples), []
    for heard in speech(session.user_samples, QUIET_MS):
        first = (heard.end_ms + QUIET_MS) * SAMPLES_PER_MS
        if first + len(answer) > len(samples):
            break
        samples[first : first + len(answer)] = answer
        written.append(Written((heard.end_ms + QUIET_MS) // UNIT_MS, f" {RULE_ANSWER}"))
    return Lived(_still(session), samples, tuple(written))


BASELINES: Mapping[str, Callable[[Session], Lived]] = {
    "world": world,
    "silent": silent,
    "copying": copying,
    "rule": rule,
}


def _still(session: Session) -> UInt8[np.ndarray, "T h w 3"]:
    return np.repeat(session.portrait[None], len(session.agent_frames), axis=0)


def _resized(frames: UInt8[np.ndarray, "T H W 3"], picture: Picture) -> UInt8[np.ndarray, "T h w 3"]:
    """The nearest pixel of each."""
    rows = np.arange(picture.height) * frames.shape[1] // picture.height
    columns = np.arange(picture.width) * frames.shape[2] // picture.width
    return frames[:, rows[:, None], columns]
