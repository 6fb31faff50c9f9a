"""A whole session in one forward: the clean stream and, beside it, noisy copies of the agent's latents.

    world | commit 0 | commit 1 | ... | commit U-1 || noisy 0 | noisy 1 | ... | noisy U-1
    commit k = [ latents y_{k-1} | user text | user audio + video | agent text ]

Every stream has fixed slots, padded where a unit holds fewer text tokens, so that commits can be cut out with static
slices: the queries of a commit meet only the keys up to its own end, never what comes later.

B sessions, U units, T tokens, S slots, N heads, K key/value heads, H head size, D width, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Float, Int

from wanstreamer_jax.attention import Tokens, attend, visible
from wanstreamer_jax.config import Config
from wanstreamer_jax.model import Latents, Packed, WanStreamer
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
    """Velocities of each unit's noisy latents [B, U, ..], and scores of each agent text token."""

    velocities: Latents
    text_logits: Float[Array, "B U T V"]


def forward(
    model: WanStreamer, world: Packed, world_rule: Tokens, session: Session, noisy: Latents, tau: FlowTime
) -> Predicted:
    """Predict every text token and every velocity of a session in one pass; `tau` holds [B, U] flow times.

    `world` and `world_rule` come from `stream.world`.
    """
    config = model.config
    U = session.n_user_text.shape[1]
    rule, noisy_rule = session_tokens(config, world_rule, session)
    x = jnp.concatenate([world.x, _clean_stream(model, session), _noisy_stream(model, noisy)], axis=1)
    angles = jnp.concatenate([world.angles, *_unit_angles(model, session)], axis=1)
    conditioning = _conditioning(model, world, tau, x.shape[1])
    spans = Spans(world.x.shape[1], config.layout.n_slice, config.layout.n_agent_media, U)

    def see(_layer: int, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attend_session(spans, (rule, noisy_rule), config.history.n_tokens, q, k, v)

    hidden, _ = model.transformer(x, angles, conditioning, see)
    return Predicted(*_unembed(model, spans, hidden))


class Spans(NamedTuple):
    """Where things lie in the sequence of the drawing, in slots."""

    world: int
    commit: int
    noisy: int
    units: int

    def end_of_commit(self, k: int) -> int:
        """The first slot after commit k."""
        return self.world + (k + 1) * self.commit

    def start_of_noisy(self, k: int) -> int:
        """The first slot of the noisy latents of unit k."""
        return self.world + self.units * self.commit + k * self.noisy


def attend_session(
    spans: Spans,
    rules: tuple[Tokens, Tokens],
    window: int,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B K T H"],
    v: Float[Array, "B K T H"],
) -> Float[Array, "B T N H"]:
    """Attention over a session, commit by commit; `rules` describe the clean and the noisy tokens."""
    clean, noisy = rules
    out, out_noisy = [], []
    for unit in range(-1, spans.units):
        start, end = (0, spans.world) if unit < 0 else (spans.end_of_commit(unit - 1), spans.end_of_commit(unit))
        mask = visible(_span(clean, start, end), _span(clean, 0, end), window)
        out.append(attend(q[:, start:end], k[:, :, :end], v[:, :, :end], mask).values)
        if unit < 0:
            continue
        first = spans.start_of_noisy(unit)
        last = first + spans.noisy
        own = _span(noisy, unit * spans.noisy, (unit + 1) * spans.noisy)
        keys, values = (jnp.concatenate([x[:, :, :end], x[:, :, first:last]], axis=2) for x in (k, v))
        everyone = Tokens(*(jnp.concatenate([a[:, :end], b], axis=1) for a, b in zip(clean, own, strict=True)))
        out_noisy.append(attend(q[:, first:last], keys, values, visible(own, everyone, window)).values)
    return jnp.concatenate(out + out_noisy, axis=1)


def session_tokens(config: Config, world: Tokens, session: Session) -> tuple[Tokens, Tokens]:
    """What the attention rule knows of the clean stream [B, world + U commits] and of the noisy one [B, U noisy]."""
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
        noisy=jnp.zeros_like(valid),
        valid=valid,
        commit=repeat(ends - n_tokens, "B U -> B (U T)", T=layout.n_slice),
    )
    clean = Tokens(*(jnp.concatenate([a, b], axis=1) for a, b in zip(world, clean, strict=True)))
    place = rearrange(ends[..., None] + jnp.arange(layout.n_agent_media), "B U T -> B (U T)")
    noisy = Tokens(
        unit=_all_sessions(np.repeat(np.arange(U), layout.n_agent_media), B),
        group=jnp.full_like(place, Group.AGENT_MEDIA),
        place=place,
        noisy=jnp.ones_like(place, bool),
        valid=jnp.ones_like(place, bool),
        commit=repeat(ends, "B U -> B (U T)", T=layout.n_agent_media),
    )
    return clean, noisy


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


def _unit_angles(model: WanStreamer, session: Session) -> tuple[jax.Array, jax.Array]:
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
    noisy = start + model.angles(media)
    return rearrange(clean, "B U T G -> B (U T) G"), rearrange(noisy, "B U T G -> B (U T) G")


def _conditioning(model: WanStreamer, world: Packed, tau: FlowTime, n_slots: int) -> Conditioning:
    """Rows for adaLN: those of clean latents, then two a unit for its noisy ones."""
    layout = model.config.layout
    B, U = tau.audio.shape
    kinds = model.latent_kinds(B)
    others = jnp.full((B, layout.n_slice - layout.n_agent_media), NOT_LATENT)
    commit = jnp.concatenate([kinds, others], axis=1)
    clean = FlowTime(*(jnp.zeros((B, 1)) for _ in FlowTime._fields))
    times = FlowTime(*(jnp.concatenate([a, b], axis=1) for a, b in zip(clean, tau, strict=True)))
    rows = jax.vmap(model.transformer.flow_rows, in_axes=1, out_axes=1)(times)  # [B, 1 + U, M, 6, D]
    row = [world.kind, jnp.tile(commit, (1, U)), *(kinds + rows.shape[2] * (k + 1) for k in range(U))]
    kind = jnp.concatenate(row, axis=1)
    assert kind.shape[1] == n_slots
    return Conditioning(rearrange(rows, "B U M n D -> B (U M) n D"), kind)


def _unembed(model: WanStreamer, spans: Spans, hidden: jax.Array) -> tuple[Latents, jax.Array]:
    """Velocities of the noisy tokens; text scores from the hidden state before each agent text token."""
    layout = model.config.layout
    n_text = layout.max_agent_text
    noisy = rearrange(hidden[:, spans.start_of_noisy(0) :], "B (U T) D -> B U T D", T=spans.noisy)
    commits = rearrange(hidden[:, spans.world : spans.start_of_noisy(0)], "B (U T) D -> B U T D", T=spans.commit)
    before = commits[:, :, layout.n_observed - 1 : layout.n_observed - 1 + n_text]
    velocities = jax.vmap(model.unembed_latents, in_axes=1, out_axes=1)(noisy)
    return velocities, model.transformer.text_logits(before)


def _span(tokens: Tokens, start: int, end: int) -> Tokens:
    return Tokens(*(x[:, start:end] for x in tokens))


def _all_sessions(x: np.ndarray, batch: int) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(x), (batch, len(x)))
