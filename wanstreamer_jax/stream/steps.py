"""The steps of a unit: observe, think, perform, render. Pure functions over (params, state), of fixed shapes.

    observe   u_k                           -> perception tokens
    think     perception, latents y_{k-1}   -> agent text of unit k, slice
    perform   slice, noise                  -> latents y_k; the slice is committed first
    render    latents y_k                   -> 4 frames, 3,840 samples

B sessions.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from wanstreamer_jax.attention import attend, attend_slots, merge
from wanstreamer_jax.cache import History, Slice, append, init_history, n_valid, pin_world
from wanstreamer_jax.config import Config
from wanstreamer_jax.flow import guided, solve
from wanstreamer_jax.model import Latents, Params, Patches, WanStreamer, part, token_kinds, wan_streamer
from wanstreamer_jax.parallel.ulysses import Whole
from wanstreamer_jax.stream.think import think
from wanstreamer_jax.stream.types import Beat, Observation, Observed, Rendered, SessionState
from wanstreamer_jax.stream.world import World, encode_world, pack_world, prefill, to_float
from wanstreamer_jax.timeline import frames_seen
from wanstreamer_jax.transformer import Conditioning, FlowTime

WHOLE = Whole()

__all__ = ["begin", "observe", "perform", "render", "think", "unit_noise"]


def begin(config: Config, params: Params, world: World) -> SessionState:
    """Prefill the world: sessions before unit 0."""
    batch = world.n_text.shape[0]
    latents = encode_world(config, params, world)
    model = wan_streamer(config, params)
    _, pinned = prefill(model, pack_world(model, world, latents))
    decoder = part(config, params, "video_vae").decoder
    _, face = decoder.first(latents.video[:, None], decoder.init_state(batch))
    return SessionState(
        history=pin_world(init_history(config, batch), pinned),
        hearing=part(config, params, "perception").hearing.init_state(batch),
        voice=part(config, params, "audio_vae").decoder.init_state(batch),
        face=face,
        response=jax.tree.map(jnp.zeros_like, draw_noise(config, jax.random.split(jax.random.key(0), batch))),
    )


def observe(config: Config, params: Params, hearing: Any, seen: Observation) -> tuple[Observed, Any]:
    """Perceive the user's sound and picture."""
    perception = part(config, params, "perception")
    sound, hearing = perception.hearing.step(seen.samples, hearing)
    picture = perception.vision(to_float(seen.frames[:, frames_seen(config.vision.frames_per_unit)]))
    media = jnp.concatenate([picture, sound], axis=1).astype(config.transformer.dtype)
    return Observed(seen.text, seen.n_text, media), hearing


def unit_noise(config: Config, beat: Beat) -> Latents:
    """The noise of a unit: each session's own, the same whoever else is on the device."""
    return draw_noise(config, jax.vmap(jax.random.fold_in)(beat.key, beat.unit))


def draw_noise(config: Config, keys: Key[Array, " B"]) -> Latents:
    """Standard normal latents of a unit, a key a session."""
    layout, (h, w) = config.layout, config.picture.latent_grid

    def draw(key: jax.Array) -> Latents:
        audio, video = jax.random.split(key)
        return Latents(
            jax.random.normal(audio, (layout.n_agent_audio, config.audio_vae.latent_channels)),
            jax.random.normal(video, (h, w, config.video_vae.latent_channels)),
        )

    return jax.vmap(draw)(keys)


def perform(
    config: Config,
    params: Params,
    history: History,
    new: Slice,
    noise: Latents,
    beat: Beat,
    split: Whole = WHOLE,
) -> tuple[Latents, History]:
    """Commit the unit's slice, then solve from noise to the unit's latents against a history that stands still.

    `split` says which tokens and heads of this work are here: all of them, or inside a `shard_map` a rank's.
    """
    model = wan_streamer(config, params)
    history = append(history, new, config.history.n_tokens)
    everything = n_valid(history, config.history.n_tokens)
    start = model.patchify(noise)
    layout = config.layout
    positions = model.angles(layout.agent_media_positions())[None]
    sound, picture = positions[:, : layout.n_agent_audio], positions[:, layout.n_agent_audio :]
    angles = beat.start[:, None] + jnp.concatenate([sound, split.local(picture)], axis=1)

    def velocity_at(z: Patches, tau: FlowTime) -> Patches:
        conditional = latent_velocity(model, history, everything, z, tau, angles, split)
        if config.flow.guidance == 1:
            return conditional
        unconditional = latent_velocity(model, history, history.world, z, tau, angles, split)
        return guided(conditional, unconditional, config.flow.guidance)

    solved = solve(velocity_at, start._replace(video=split.local(start.video)), config.flow)
    return model.unpatchify(solved._replace(video=split.whole(solved.video))), history


def latent_velocity(
    model: WanStreamer,
    history: History,
    length: jax.Array,
    z: Patches,
    tau: FlowTime,
    angles: jax.Array,
    split: Whole,
) -> Patches:
    """The velocity of noisy latents that see the first `length` slots of the history, and each other."""
    batch, n_audio, n_video = z.audio.shape[0], z.audio.shape[1], z.video.shape[1]
    rows = Conditioning(model.transformer.flow_rows(tau), token_kinds(batch, n_audio, n_video))

    def attend_layer(layer: int, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        def see(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            past = attend_slots(q, history.k[layer], history.v[layer], length)
            return merge(past, attend(q, k, v, split.real())).values

        return split.attend(see, q, k, v)

    hidden, _ = model.transformer(model.embed_patches(z), angles, rows, attend_layer)
    return model.unembed_patches(hidden, n_audio)


def render(config: Config, params: Params, voice: Any, face: Any, response: Latents) -> tuple[Rendered, Any, Any]:
    """Decode a unit's latents; `voice` and `face` are what the two decoders remember."""
    samples, voice = part(config, params, "audio_vae").decoder.step(response.audio, voice)
    frames, face = part(config, params, "video_vae").decoder.step(response.video[:, None], face)
    pixels = jnp.round((jnp.clip(frames, -1, 1) + 1) * 127.5).astype(jnp.uint8)
    return Rendered(pixels, jnp.clip(samples, -1, 1)), voice, face
