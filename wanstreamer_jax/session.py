"""A whole session in one forward: the clean stream and, beside it, noisy copies of the agent's latents.

    world | commit 0 | commit 1 | ... | commit U-1 || noisy 0 | noisy 1 | ... | noisy U-1 || padding
    commit k = [ latents y_{k-1} | user text | user video + audio | agent text ]
    noisy k  = [ copy 0 of latents y_k | copy 1 | ... | copy n-1 ]

Every stream has fixed slots, padded where a unit holds fewer text tokens, so that `session_attention` can cut out
commits with static slices.

A unit may have several noisy copies, each with noise and times of its own: they share what they see, which costs most.

B sessions, U units, T tokens, S slots, N heads, K key/value heads, H head size, D width, V vocabulary, n noisy copies.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Bool, Float, Int

from wanstreamer_jax.attention import Tokens
from wanstreamer_jax.config import Config
from wanstreamer_jax.model import Latents, Packed, WanStreamer
from wanstreamer_jax.session_attention import HERE, Spans, Spread, session_attention
from wanstreamer_jax.timeline import Group
from wanstreamer_jax.transformer import NOT_LATENT, Conditioning, FlowTime


class Session(NamedTuple):
    """Six streams over U units; latents are [B, U, ..]. `start` are the angles of each unit's position."""

    user_text: Int[Array, "B U T"]
    n_user_text: Int[Array, "B U"]
    user_media: Float[Array, "B U m D"]  # perception tokens
    agent_text: Int[Array, "B U t"]
    n_agent_text: Int[Array, "B U"]
    clean: Latents
    start: Float[Array, "B U G"]


class Predicted(NamedTuple):
    """Velocities of each noisy copy [B, U n, ..], and scores of each agent text token."""

    velocities: Latents
    text_logits: Float[Array, "B U T V"]


class Noisy(NamedTuple):
    """What the solver would move: the agent's latents [B, U n, ..] on their way to noise, copies of a unit in a row.

    Copies of `alone` are predicted without condition, for guidance: they see the world and themselves.
    """

    latents: Latents
    tau: FlowTime  # [B, U n]
    alone: Bool[Array, "B Un"]


def forward(
    model: WanStreamer,
    world: tuple[Packed, Tokens],
    session: Session,
    noisy: Noisy,
    spread: Spread = HERE,
    *,
    remat: bool = False,
    cut: bool = False,
) -> Predicted:
    """Predict every text token and every velocity of a session in one pass; `world` comes from `stream.world`.

    For gradients, `remat` computes every layer again, but for its attention, instead of keeping what is inside it, and
    `cut` takes keys and values of clean tokens as constants.
    """
    packed, world_rule = world
    layout, U = model.config.layout, session.n_user_text.shape[1]
    copies = noisy.alone.shape[1] // U
    spans = Spans(packed.x.shape[1], layout.n_slice, copies * layout.n_agent_media, U)
    rule = session_tokens(model.config, world_rule, session, copies)
    x = jnp.concatenate([packed.x, _clean_stream(model, session), _noisy_stream(model, noisy.latents)], axis=1)
    angles = jnp.concatenate([packed.angles, *_unit_angles(model, session, copies)], axis=1)
    conditioning = _conditioning(model, packed, noisy.tau, U)
    room = -spans.n_slots % spread.ranks
    x, angles = (spread.share(jnp.pad(a, ((0, 0), (0, room), (0, 0)))) for a in (x, angles))
    conditioning = conditioning._replace(kind=jnp.pad(conditioning.kind, ((0, 0), (0, room))))
    alone = jnp.repeat(noisy.alone, layout.n_agent_media, axis=1)
    alone = jnp.pad(alone, ((0, 0), (spans.start_of_noisy(0), 0)))
    see = session_attention(spans, rule, alone, model.config, spread, cut)
    hidden, _ = model.transformer(x, angles, conditioning, see, remat)
    return Predicted(*_unembed(model, spans, hidden))


def session_tokens(config: Config, world: Tokens, session: Session, copies: int) -> Tokens:
    """What the attention rule knows of world, clean stream and noisy latents."""
    layout = config.layout
    B, U = session.n_user_text.shape
    counts = (layout.n_agent_media, layout.max_user_text, layout.n_user_media, layout.max_agent_text)
    groups = np.repeat([Group.AGENT_MEDIA, Group.USER_TEXT, Group.USER_MEDIA, Group.AGENT_TEXT], counts)
    units = np.arange(U)[:, None] - np.repeat([1, 0, 0, 0], counts)
    streams = [
        jnp.broadcast_to((jnp.arange(U) > 0)[:, None], (B, U, layout.n_agent_media)),
        jnp.arange(layout.max_user_text) < session.n_user_text[..., None],
        jnp.ones((B, U, layout.n_user_media), bool),
        jnp.arange(layout.max_agent_text) < session.n_agent_text[..., None],
    ]
    n_tokens = sum(jnp.sum(v, axis=-1) for v in streams)  # [B, U] of each commit
    ends = jnp.cumsum(n_tokens, axis=1)
    valid = rearrange(jnp.concatenate(streams, axis=-1), "B U T -> B (U T)")
    clean = Tokens(
        unit=_all_sessions(units.reshape(-1), B),
        group=_all_sessions(np.tile(groups, U), B),
        place=jnp.cumsum(valid, axis=1) - 1,
        noisy=jnp.zeros(valid.shape, jnp.int32),
        valid=valid,
        commit=repeat(ends - n_tokens, "B U -> B (U T)", T=layout.n_slice),
    )
    n_noisy = copies * layout.n_agent_media
    place = ends[..., None] + jnp.tile(jnp.arange(layout.n_agent_media), copies)
    place = rearrange(place, "B U T -> B (U T)")
    copy = np.tile(np.repeat(np.arange(copies), layout.n_agent_media), U)
    noisy = Tokens(
        unit=_all_sessions(np.repeat(np.arange(U), n_noisy), B),
        group=jnp.full_like(place, Group.AGENT_MEDIA),
        place=place,
        noisy=_all_sessions(1 + copy, B),
        valid=jnp.ones_like(place, bool),
        commit=repeat(ends, "B U -> B (U T)", T=n_noisy),
    )
    return Tokens(*(jnp.concatenate(parts, axis=1) for parts in zip(world, clean, noisy, strict=True)))


def _clean_stream(model: WanStreamer, session: Session) -> jax.Array:
    """The tokens of every commit, [B, U commits, D]."""
    before = jax.tree.map(lambda z: jnp.concatenate([jnp.zeros_like(z[:, :1]), z[:, :-1]], axis=1), session.clean)
    embed = jax.vmap(model.embed_latents, in_axes=1, out_axes=1)
    text = model.transformer.embed_text
    streams = [embed(before), text(session.user_text), session.user_media, text(session.agent_text)]
    return rearrange(jnp.concatenate(streams, axis=2), "B U T D -> B (U T) D")


def _noisy_stream(model: WanStreamer, noisy: Latents) -> jax.Array:
    embed = jax.vmap(model.embed_latents, in_axes=1, out_axes=1)
    return rearrange(embed(noisy), "B U T D -> B (U T) D")


def _unit_angles(model: WanStreamer, session: Session, copies: int) -> tuple[jax.Array, jax.Array]:
    """Angles of the clean and of the noisy stream."""
    layout = model.config.layout
    media = layout.agent_media_positions()
    positions = [
        media - layout.advance,
        layout.user_text_positions(),
        layout.user_media_positions(),
        layout.agent_text_positions(),
    ]
    start = session.start[:, :, None]
    clean = start + model.angles(np.concatenate(positions))
    noisy = start + model.angles(np.tile(media, (copies, 1)))
    return rearrange(clean, "B U T G -> B (U T) G"), rearrange(noisy, "B U T G -> B (U T) G")


def _conditioning(model: WanStreamer, world: Packed, tau: FlowTime, U: int) -> Conditioning:
    """Rows for adaLN: those of clean latents, then two for each noisy copy."""
    layout = model.config.layout
    B, n_copies = tau.audio.shape
    kinds = model.latent_kinds(B)
    others = jnp.full((B, layout.n_slice - layout.n_agent_media), NOT_LATENT)
    commit = jnp.concatenate([kinds, others], axis=1)
    clean = FlowTime(*(jnp.zeros((B, 1)) for _ in FlowTime._fields))
    times = FlowTime(*(jnp.concatenate([a, b], axis=1) for a, b in zip(clean, tau, strict=True)))
    rows = jax.vmap(model.transformer.flow_rows, in_axes=1, out_axes=1)(times)  # [B, 1 + U n, M, 6, D]
    noisy = kinds[:, None] + rows.shape[2] * (1 + jnp.arange(n_copies)[:, None])
    row = [world.kind, jnp.tile(commit, (1, U)), rearrange(noisy, "B U T -> B (U T)")]
    return Conditioning(rearrange(rows, "B U M n D -> B (U M) n D"), jnp.concatenate(row, axis=1))


def _unembed(model: WanStreamer, spans: Spans, hidden: jax.Array) -> tuple[Latents, jax.Array]:
    """Velocities of the noisy tokens; text scores from the hidden state before each agent text token."""
    layout = model.config.layout
    n_text = layout.max_agent_text
    noisy = hidden[:, spans.start_of_noisy(0) : spans.n_slots]
    noisy = rearrange(noisy, "B (U T) D -> B U T D", T=layout.n_agent_media)
    commits = rearrange(hidden[:, spans.world : spans.start_of_noisy(0)], "B (U T) D -> B U T D", T=spans.commit)
    before = commits[:, :, layout.n_observed - 1 : layout.n_observed - 1 + n_text]
    velocities = jax.vmap(model.unembed_latents, in_axes=1, out_axes=1)(noisy)
    return velocities, model.transformer.text_logits(before)


def _all_sessions(x: np.ndarray, batch: int) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(x), (batch, len(x)))
