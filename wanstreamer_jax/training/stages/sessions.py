"""What the stages over sessions share: a batch of windows as the one forward reads it, and where windows come from.

A window begins like a session: its world, then its first unit without a response before it, at the place in time at
which it stands in its session, or later, as if the two had talked before. Streams that a session has not are black or
silent, and their losses have no weight.

B samples, U units, f frames, n samples of sound, C channels, D width, G rotary angles.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from wanstreamer_jax.attention import Tokens
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.clips import Sample, session_window
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.record import Record
from wanstreamer_jax.data.samples import RecordSource, Samples
from wanstreamer_jax.data.world_source import WorldSource
from wanstreamer_jax.model import Latents, Packed, Params, WanStreamer, part, wan_streamer
from wanstreamer_jax.session import Session
from wanstreamer_jax.stream import world as prefix
from wanstreamer_jax.stream.placement import start_angles
from wanstreamer_jax.stream.world import encode_world, pack_world, to_float, world_tokens
from wanstreamer_jax.timeline import UNIT_MS, frames_seen, n_units
from wanstreamer_jax.tokens import Tokenizer, own_tokenizer
from wanstreamer_jax.training.clips import HELDOUT_SEED, synthetic_world
from wanstreamer_jax.training.config import DistillWeights, SessionWeights, Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.recordings import PER_RECORD, open_dataset
from wanstreamer_jax.training.stage import Batch

LOSSES = ("text", "audio", "video")
LONGEST_S = 3600.0  # how late in a conversation a window may stand


class Windows(NamedTuple):
    """A batch as the forward reads it."""

    model: WanStreamer
    world: tuple[Packed, Tokens]
    session: Session
    portrait: Float[Array, "B h w C"]  # latents that the agent's picture begins with


def windows(config: Config, params: Params, batch: Batch) -> Windows:
    """Embed a batch; what the VAEs say of it is constant."""
    model = wan_streamer(config, params)
    world, latents = world_of(config, params, batch)
    packed = pack_world(model, world, latents)
    session = Session(
        user_text=batch["user_text"],
        n_user_text=batch["n_user_text"],
        user_media=user_media(config, params, batch),
        agent_text=batch["agent_text"],
        n_agent_text=batch["n_agent_text"],
        clean=agent_latents(config, params, batch),
        start=batch["start"].astype(jnp.float32),
    )
    return Windows(model, (packed, world_tokens(config, packed)), session, latents.video)


def world_of(config: Config, params: Params, batch: Batch) -> tuple[prefix.World, Latents]:
    """What sessions begin with, and the latents of voice and portrait."""
    world = prefix.World(
        text=batch["persona"],
        n_text=batch["n_persona"],
        voice=batch["voice"],
        n_voice=batch["n_voice"],
        portrait=batch["portrait"],
        has_portrait=batch["has_portrait"],
        start=batch["world_end"].astype(jnp.float32),
    )
    if "portrait_mean" not in batch:
        return world, jax.lax.stop_gradient(encode_world(config, params, world))
    there = world.has_portrait[:, None, None, None]
    return world, Latents(batch["voice_mean"], jnp.where(there, batch["portrait_mean"], 0.0))


def agent_latents(config: Config, params: Params, batch: Batch) -> Latents:
    """Clean latents of every unit, [B, U, ..]: as prepared, or encoded here."""
    if "video_mean" in batch:
        return Latents(batch["audio_mean"], batch["video_mean"])
    encoder = part(config, params, "video_vae").encoder
    before = to_float(batch["frame_before"])[:, None]
    _, state = encoder.first(before, encoder.init_state(len(before)))
    video, _ = encoder.step(to_float(rearrange(batch["agent_frames"], "B U f h w c -> B (U f) h w c")), state)
    audio = part(config, params, "audio_vae").encoder(rearrange(batch["agent_samples"], "B U n -> B (U n)"))
    n_units = batch["agent_samples"].shape[1]
    latents = Latents(rearrange(audio.mean, "B (U T) C -> B U T C", U=n_units), video.mean)
    return jax.lax.stop_gradient(latents)


def user_media(config: Config, params: Params, batch: Batch) -> jax.Array:
    """Perception tokens of every unit, [B, U, T, D]: the frames that are looked at, then sound."""
    perception = part(config, params, "perception")
    frames = batch["user_frames"]
    n_units = frames.shape[1]
    sound = perception.hearing(rearrange(batch["user_samples"], "B U n -> B (U n)"))
    picture = perception.vision(to_float(rearrange(frames, "B U f H W c -> B (U f) H W c")))
    parts = (rearrange(x, "B (U T) D -> B U T D", U=n_units) for x in (picture, sound))
    return jnp.concatenate(list(parts), axis=2).astype(config.transformer.dtype)


# ---- Data


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of so many units of a record; a pure function of (record, rng)."""

    config: Config
    layout: Layout
    n_units: int

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        """Give the arrays that `windows` reads, and the weight of each unit's losses."""
        cut = session_window(self.n_units, self.layout, latents=record.latents is not None)
        sample = cut(record, rng)
        sample["first_unit"] = sample["first_unit"] + _units_before(rng)
        return on_timeline(self.config, sample) | loss_weights(sample)


def _units_before(rng: np.random.Generator) -> int:
    """How long the two have talked before a session: every other time not at all, else up to an hour.

    The world stays where it was while a conversation goes on, so it is seen from every distance.
    """
    return int(rng.integers(n_units(LONGEST_S))) if rng.random() < 0.5 else 0


def on_timeline(config: Config, sample: Sample) -> Sample:
    """A window without what is not read, and with the angles of where it stands in time."""
    seen = frames_seen(config.vision.frames_per_unit)
    world_end = sample["n_persona"] + max(int(sample["n_voice"]), 1)
    units = int(sample["first_unit"]) + np.arange(len(sample["unit_mask"]))
    kept = {name: x for name, x in sample.items() if name not in ("heard", "n_heard", "first_unit")}
    return kept | {
        "user_frames": sample["user_frames"][:, seen],
        "world_end": start_angles(config, sample["n_persona"][None])[0],
        "start": start_angles(config, world_end + units * config.layout.advance),
    }


def loss_weights(sample: Sample) -> Sample:
    """Every unit that is there, of every stream that the session has."""
    mask = sample["unit_mask"].astype(np.float32)
    has = {"text": "has_agent_text", "audio": "has_agent_audio", "video": "has_agent_video"}
    return {f"loss_{name}": mask * np.float32(sample[has[name]]) for name in LOSSES}


def window_source(config: Config, training: Training, heldout: bool, data: Path | None) -> Samples:
    """Windows of prepared sessions, or of the synthetic world's."""
    weights: SessionWeights | DistillWeights = training.weights
    records, layout = records_of(config, training, heldout, data)
    per_record = 1 if data is None else PER_RECORD
    return Samples(records, Window(config, layout, weights.units), training.seed, per_record)


def seconds_of_window(_config: Config, training: Training) -> float:
    """How long a window is."""
    return training.weights.units * UNIT_MS / 1000


def records_of(config: Config, training: Training, heldout: bool, data: Path | None) -> tuple[RecordSource, Layout]:
    """Sessions, and the layout that they have.

    Raises:
        TrainingError: they were prepared for another agent, or the world cannot speak to this one.
    """
    if data is not None:
        dataset = open_dataset(config, data, heldout)
        return dataset, dataset.layout
    tokenizer = world_tokenizer(config)
    layout = Layout.of(config, tokenizer)
    world = synthetic_world(training.weights, heldout)
    first_seed = HELDOUT_SEED if heldout else 0
    return WorldSource(world, tokenizer, layout, training.samples, first_seed), layout


def world_tokenizer(config: Config) -> Tokenizer:
    """What the synthetic world writes with for an agent; TrainingError when that has a tokenizer of its own."""
    tokenizer = own_tokenizer(config.text.unit_end)
    if tokenizer is None:
        raise TrainingError(
            "the synthetic world writes words or bytes; prepare a dataset with this agent's tokenizer (--data)"
        )
    return tokenizer
