"""An agent lives sessions of the world: what it made is its history, and it hears and sees what the world's user does.

Several sessions run beside each other in one placement, as fast as the machine goes. The steps are those of serving.

B sessions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from types import TracebackType

import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.data.layout import Layout, lay_out_words
from wanstreamer_jax.data.world import Session
from wanstreamer_jax.data.world.folder import voice_sample
from wanstreamer_jax.data.world.lexicon import PERSONA
from wanstreamer_jax.evaluation.lived import Lived, Written
from wanstreamer_jax.serving.placing import place_agent
from wanstreamer_jax.serving.world_file import Setting, make_start
from wanstreamer_jax.stream.placement import Reply
from wanstreamer_jax.stream.types import Observation
from wanstreamer_jax.stream.worker import StepError
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT
from wanstreamer_jax.tokens import TextStream

OnUnit = Callable[[int], object]  # is told how many sessions have lived another unit


class ClosedLoop(AbstractContextManager["ClosedLoop"]):
    """B sessions of an agent. `begin` them, then `live` through what their users do, in one piece or several."""

    def __init__(self, agent: Agent, batch: int, on_unit: OnUnit):
        """`batch` is B."""
        self._agent, self._batch, self._on_unit = agent, batch, on_unit
        self._layout = Layout.of(agent.config, agent.tokenizer)
        self._placement = place_agent(agent, None)
        self._streams: list[TextStream] = []

    def begin(self, sessions: Sequence[Session], first_seed: int) -> None:
        """Begin at most B sessions with their worlds; noise is drawn from `first_seed` on.

        Raises:
            ValueError: the world's persona does not fit the agent.
            StepError: a step raised or stalled.
        """
        settings = [setting_of(session) for session in self._filled(sessions)]
        seeds = [first_seed + b for b in range(self._batch)]
        self._placement.begin(make_start(self._agent.config, self._agent.tokenizer, settings, seeds))
        self._streams = [TextStream(self._agent.tokenizer) for _ in settings]

    def live(self, sessions: Sequence[Session]) -> list[Lived]:
        """Live through sessions of one length from where the agent stands; what it did in each.

        Raises:
            StepError: a step raised or stalled.
            HistoryFullError: the agent keeps everything, and has no room for so much.
        """
        replies: list[Reply] = []
        for reply in self._placement.stream(self.observations(sessions)):
            replies.append(reply)
            self._on_unit(len(sessions))
        said = [[self._streams[b].push(r.text[b]) for r in replies] for b in range(len(sessions))]
        return [_lived(replies, said[b], b) for b in range(len(sessions))]

    def observations(self, sessions: Sequence[Session]) -> Iterator[Observation]:
        """What the users of sessions do in each unit; a typed word is there in the unit in which it ends."""
        sessions, tokenizer = self._filled(sessions), self._agent.tokenizer
        texts = [lay_out_words(s.labels.words, tokenizer, self._layout, s.n_units).user for s in sessions]
        streams = (
            [text.ids for text in texts],
            [text.n for text in texts],
            [s.user_samples.reshape(-1, SAMPLES_PER_UNIT) for s in sessions],
            [_by_unit(s.user_frames) for s in sessions],
        )
        for unit in range(sessions[0].n_units):
            yield Observation(*(jnp.asarray(np.stack([x[unit] for x in stream])) for stream in streams))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is under way, and end the threads."""
        with suppress(StepError):
            self._placement.settle()
        self._placement.close()

    def _filled(self, sessions: Sequence[Session]) -> list[Session]:
        """As many as are compiled for: the last one again where there are fewer."""
        return [*sessions, *[sessions[-1]] * (self._batch - len(sessions))]


def setting_of(session: Session) -> Setting:
    """The world in which the agent finds itself, as it was trained in."""
    return Setting(PERSONA, session.portrait, voice_sample())


def _by_unit(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(-1, FRAMES_PER_UNIT, *frames.shape[1:])


def _lived(replies: Sequence[Reply], said: Sequence[str], b: int) -> Lived:
    return Lived(
        frames=np.concatenate([reply.frames[b] for reply in replies]),
        samples=np.concatenate([reply.samples[b] for reply in replies]).astype(np.float32),
        written=tuple(Written(k, text) for k, text in enumerate(said) if text),
    )
