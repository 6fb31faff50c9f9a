"""The world: what is prefilled before unit 0. Persona text, and if wanted a voice sample and a portrait.

Its tokens stand before those of unit 0, as text and audio + video of the agent in a unit of their own:

    [ persona text ][ voice sample + portrait ]      text alone is position for position what Qwen3 reads
      0 .. n-1        n .. n + voice; portrait at n

B sessions, T tokens, D width, G rotary angles (half a head), C channels, h, w rows and columns.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from wanstreamer_jax.attention import Tokens, attend, visible
from wanstreamer_jax.cache import Slice
from wanstreamer_jax.config import Config
from wanstreamer_jax.model import Latents, Packed, Params, WanStreamer, pack, part
from wanstreamer_jax.timeline import Group
from wanstreamer_jax.transformer import NOT_LATENT, Conditioning, FlowTime, KeysValues


class World(NamedTuple):
    """What a session begins with, padded to fixed sizes; `start` holds the angles of the position after the text."""

    text: Int[Array, "B T"]
    n_text: Int[Array, " B"]
    voice: Float[Array, "B n"]  # samples at 24 kHz
    n_voice: Int[Array, " B"]  # latents of it
    portrait: UInt8[Array, "B H W 3"]
    has_portrait: Bool[Array, " B"]
    start: Float[Array, "B G"]


def encode_world(config: Config, params: Params, world: World) -> Latents:
    """The latents of the voice sample [B, max_voice, C] and of the portrait [B, h, w, C]."""
    audio = part(config, params, "audio_vae").encoder(world.voice).mean
    encoder = part(config, params, "video_vae").encoder
    frame = to_float(world.portrait)[:, None]
    video, _ = encoder.first(frame, encoder.init_state(frame.shape[0]))
    # Without a portrait the first frame is the mean picture: a latent of zeros.
    video = jnp.where(world.has_portrait[:, None, None, None], video.mean[:, 0], 0.0)
    return Latents(audio, video)


def pack_world(model: WanStreamer, world: World, latents: Latents) -> Packed:
    """The world's tokens, those that are there first."""
    batch, max_text = world.text.shape
    max_voice = latents.audio.shape[1]
    x = jnp.concatenate([model.transformer.embed_text(world.text), model.embed_latents(latents)], axis=1)
    valid = jnp.concatenate(
        [
            jnp.arange(max_text) < world.n_text[:, None],
            jnp.arange(max_voice) < world.n_voice[:, None],
            jnp.broadcast_to(world.has_portrait[:, None], (batch, x.shape[1] - max_text - max_voice)),
        ],
        axis=1,
    )
    kind = jnp.concatenate([jnp.full((batch, max_text), NOT_LATENT), model.latent_kinds(batch, max_voice)], axis=1)
    return pack(x, _angles(model, world, max_text, max_voice), kind, valid)


def _angles(model: WanStreamer, world: World, max_text: int, max_voice: int) -> jax.Array:
    """Angles [B, T, G]; those of sound and picture are counted from the end of the text."""
    rows, columns = np.indices(model.config.picture.token_grid).reshape(2, -1)
    portrait = np.stack([np.zeros_like(rows), rows, columns], axis=-1)
    text = model.angles(np.repeat(np.arange(max_text)[:, None], 3, axis=1))
    media = model.angles(np.concatenate([np.repeat(np.arange(max_voice)[:, None], 3, axis=1), portrait]))
    text = jnp.broadcast_to(text, (world.start.shape[0], *text.shape))
    return jnp.concatenate([text, world.start[:, None] + media], axis=1)


def world_tokens(config: Config, packed: Packed) -> Tokens:
    """What the attention rule knows of packed world tokens, each field [B, T]."""
    slots = packed.slot
    group = jnp.where(slots < config.world.max_text, Group.AGENT_TEXT, Group.AGENT_MEDIA)
    index = jnp.broadcast_to(jnp.arange(slots.shape[1]), slots.shape)
    valid = index < packed.n_tokens[:, None]
    before_unit_0 = index - packed.n_tokens[:, None]
    clean = jnp.zeros_like(slots)
    return Tokens(jnp.full_like(slots, -1), group, before_unit_0, clean, valid, jnp.zeros_like(slots))


def prefill(model: WanStreamer, packed: Packed) -> tuple[jax.Array, Slice]:
    """Run the world through the Transformer: hidden states [B, T, D] and the slice to pin."""
    tokens = world_tokens(model.config, packed)
    mask = visible(tokens, tokens)
    clean = Conditioning(model.transformer.flow_rows(clean_time(packed.x.shape[0])), packed.kind)
    hidden, kept = model.transformer(packed.x, packed.angles, clean, lambda _, q, k, v: attend(q, k, v, mask).values)
    return hidden, stack_slice(kept, packed.n_tokens)


def clean_time(batch: int) -> FlowTime:
    """The flow time of committed latents."""
    return FlowTime(jnp.zeros(batch), jnp.zeros(batch))


def stack_slice(layers: list[KeysValues], n_tokens: Int[Array, " B"]) -> Slice:
    """Keys and values of every layer as one array."""
    return Slice(jnp.stack([jnp.stack(layer, axis=1) for layer in layers], axis=1), n_tokens)


def to_float(frames: UInt8[Array, "*B H W 3"]) -> Float[Array, "*B H W 3"]:
    """Pixels 0 .. 255 as -1 .. 1."""
    return frames.astype(jnp.float32) / 127.5 - 1.0
