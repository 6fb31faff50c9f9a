"""Records of the synthetic world, made when they are asked for: training without preparing anything."""

import dataclasses
import functools
import json

import numpy as np
from jaxtyping import Int16

from wanstreamer_jax.data.assemble import Piece, Whole, assemble, in_units
from wanstreamer_jax.data.layout import Layout, encode_persona, lay_out_words
from wanstreamer_jax.data.record import Record, Streams, to_int16
from wanstreamer_jax.data.world import Session, World, make_session
from wanstreamer_jax.data.world.folder import LICENCE, voice_sample
from wanstreamer_jax.data.world.lexicon import PERSONA
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_AUDIO_LATENT
from wanstreamer_jax.tokens import Tokenizer


def from_world(session: Session, tokenizer: Tokenizer, layout: Layout) -> Record:
    """The record of a session of the world: what `prepare` makes of its folder, without what codecs round."""
    labels = json.loads(json.dumps(session.labels.to_json()))  # lists, as in a file, where it has tuples
    del labels["words"]
    whole = Whole(
        name=f"{session.labels.split}-{session.labels.seed:08d}",
        licence=LICENCE,
        words=session.labels.words,
        labels=labels,
        streams=Streams(*[True] * len(Streams._fields)),
        text=lay_out_words(session.labels.words, tokenizer, layout, session.n_units),
        persona=encode_persona(PERSONA, tokenizer, layout),
        portrait=session.portrait,
        voice=_voice(layout.n_voice_samples),
    )
    sides = (session.user_frames, session.agent_frames)
    user_frames, agent_frames = (x.reshape(-1, FRAMES_PER_UNIT, *x.shape[1:]) for x in sides)
    piece = Piece(user_frames, in_units(session.user_samples), agent_frames, in_units(session.agent_samples))
    return next(assemble(whole, [piece]))


@functools.cache
def _voice(n_most: int) -> Int16[np.ndarray, " m"]:
    samples = voice_sample()[:n_most]
    return to_int16(samples[: len(samples) // SAMPLES_PER_AUDIO_LATENT * SAMPLES_PER_AUDIO_LATENT])


class WorldSource:
    """The sessions of so many seeds, from `first_seed` on, as records; a seed is the same record for ever."""

    def __init__(self, world: World, tokenizer: Tokenizer, layout: Layout, n_sessions: int, first_seed: int = 0):
        self.layout = layout
        self._world = dataclasses.replace(world, user_picture=layout.user_picture, agent_picture=layout.agent_picture)
        self._tokenizer = tokenizer
        self._n_sessions = n_sessions
        self._first_seed = first_seed

    def __len__(self) -> int:
        return self._n_sessions

    def __getitem__(self, index: int) -> Record:
        """Make a session."""
        return from_world(make_session(self._first_seed + int(index), self._world), self._tokenizer, self.layout)
