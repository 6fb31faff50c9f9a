"""The agent's side as its VAEs see it, prepared once: what training would otherwise encode at every step."""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.clips import world_fields
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.record import AgentLatents, Record, to_float32
from wanstreamer_jax.model import Latents, Params, part
from wanstreamer_jax.stream.world import World, encode_world, to_float
from wanstreamer_jax.timeline import AUDIO_LATENTS_PER_UNIT
from wanstreamer_jax.vae.causal import Gaussian

UNITS_AT_ONCE = 8
PARTS = ("video_vae", "audio_vae")


class EncoderState(NamedTuple):
    """What both encoders remember."""

    video: Any
    audio: Any


class Encoded(NamedTuple):
    """What both encoders say of some units."""

    audio: Gaussian
    video: Gaussian


class AgentEncoder:
    """Encodes the agent's side as it is lived: the portrait first, then unit after unit, each knowing those before."""

    def __init__(self, agent: Agent, layout: Layout) -> None:
        self._layout = layout
        self._params = jax.device_put({name: agent.params[name] for name in PARTS})
        self._begin = jax.jit(functools.partial(_begin, agent.config))
        self._step = jax.jit(functools.partial(_step, agent.config))

    def encode(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records of one session, in their order and from its start, with latents."""
        begun: tuple[Latents, EncoderState] | None = None
        for record in records:
            world, state = begun or self._begin(self._params, _world(record, self._layout))
            units = []
            for frames, samples in _stretches(record):
                encoded, state = self._step(self._params, state, frames, samples)
                units.append(encoded)
            begun = world, state
            yield record._replace(latents=_latents(units, world))


def encoder_fingerprints(config: Config, params: Params) -> dict[str, str]:
    """Sha256 of each VAE's encoder: what prepared latents depend on."""
    return {name: _fingerprint(params[name]["encoder"], getattr(config, name)) for name in PARTS}


def _fingerprint(params: Params, part_config: Any) -> str:
    total = hashlib.sha256(repr(part_config).encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        total.update(jax.tree_util.keystr(path).encode())
        total.update(np.asarray(leaf, np.float32).tobytes())
    return total.hexdigest()


def _begin(config: Config, params: Params, world: World) -> tuple[Latents, EncoderState]:
    """The world's latents, and the encoders after the portrait."""
    encoder = part(config, params, "video_vae").encoder
    _, video = encoder.first(to_float(world.portrait)[:, None], encoder.init_state(1))
    audio = part(config, params, "audio_vae").encoder.init_state(1)
    return encode_world(config, params, world), EncoderState(video, audio)


def _step(
    config: Config,
    params: Params,
    state: EncoderState,
    frames: UInt8[Array, "B T H W 3"],
    samples: Float[Array, "B n"],
) -> tuple[Encoded, EncoderState]:
    seen, video = part(config, params, "video_vae").encoder.step(to_float(frames), state.video)
    said, audio = part(config, params, "audio_vae").encoder.step(samples, state.audio)
    return Encoded(said, seen), EncoderState(video, audio)


def _world(record: Record, layout: Layout) -> World:
    """A record's world, a batch of one; positions are of no use to encoders."""
    fields = {name: jnp.asarray(x)[None] for name, x in world_fields(record, layout).items()}
    return World(
        text=fields["persona"],
        n_text=fields["n_persona"],
        voice=fields["voice"],
        n_voice=fields["n_voice"],
        portrait=fields["portrait"],
        has_portrait=jnp.array([record.streams.portrait]),
        start=jnp.zeros((1, 1)),
    )


def _stretches(record: Record) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames and samples of several units at once, of those that are left one by one: two programs do for all."""
    n_even = record.n_units // UNITS_AT_ONCE * UNITS_AT_ONCE
    starts = [*range(0, n_even, UNITS_AT_ONCE), *range(n_even, record.n_units)]
    for start, end in zip(starts, [*starts[1:], record.n_units], strict=True):
        frames = record.agent_frames[start:end]
        samples = to_float32(record.agent_samples[start:end])
        yield frames.reshape(1, -1, *frames.shape[2:]), samples.reshape(1, -1)


def _latents(units: Sequence[Encoded], world: Latents) -> AgentLatents:
    whole = jax.tree.map(lambda *x: np.concatenate(x, axis=1)[0].astype(np.float16), *units)
    audio = jax.tree.map(lambda x: x.reshape(-1, AUDIO_LATENTS_PER_UNIT, x.shape[-1]), whole.audio)
    portrait_mean, voice_mean = (np.asarray(x[0], np.float16) for x in (world.video, world.audio))
    return AgentLatents(
        audio_mean=audio.mean,
        audio_log_variance=audio.log_variance,
        video_mean=whole.video.mean,
        video_log_variance=whole.video.log_variance,
        portrait_mean=portrait_mean,
        voice_mean=voice_mean,
    )
