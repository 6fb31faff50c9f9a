"""The step `think`: read the last response and the user's unit in one pass, then write text token by token.

The history is read and never written: keys and values of the unit leave as one slice of T tokens at most, of which
the first n are valid, and whoever holds a history appends it.

    [ latents y_{k-1} | user text | user audio + video | agent text ... <unit_end> | unused ]

B sessions, T tokens, D width, L layers, V vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from wanstreamer_jax.attention import Attended, Tokens, attend, attend_slots, merge, visible
from wanstreamer_jax.cache import History, n_valid, write_rows
from wanstreamer_jax.config import Config
from wanstreamer_jax.model import Latents, Packed, Params, WanStreamer, pack, wan_streamer
from wanstreamer_jax.stream.types import Beat, Observed, Thought
from wanstreamer_jax.stream.world import clean_time, stack_slice
from wanstreamer_jax.timeline import Group, UnitLayout
from wanstreamer_jax.transformer import NOT_LATENT, Conditioning, KeysValues


class _Writing(NamedTuple):
    """The state of writing text: the slice so far, and what has been written."""

    layers: tuple[KeysValues, ...]
    n_tokens: Int[Array, " B"]
    hidden: Float[Array, "B D"]
    text: Int[Array, "B T"]
    log_probs: Float[Array, "B T"]
    n_text: Int[Array, " B"]
    ended: jax.Array
    turn: jax.Array


def think(
    config: Config, params: Params, history: History, observed: Observed, response: Latents, beat: Beat
) -> Thought:
    """Read the last response and the user's unit in one pass, then write text token by token."""
    model = wan_streamer(config, params)
    length = n_valid(history, config.history.n_tokens)

    def recall(layer: int, q: jax.Array) -> Attended:
        return attend_slots(q, history.k[layer], history.v[layer], length)

    packed = pack_observed(model, observed, response, beat)
    tokens = observed_tokens(config.layout, packed)
    own = visible(tokens, tokens)
    clean = Conditioning(model.transformer.flow_rows(clean_time(own.shape[0])), packed.kind)
    hidden, kept = model.transformer(
        packed.x,
        packed.angles,
        clean,
        lambda layer, q, k, v: merge(recall(layer, q), attend(q, k, v, own)).values,
    )
    last = jnp.take_along_axis(hidden, packed.n_tokens[:, None, None] - 1, axis=1)[:, 0]
    return _write_text(model, recall, kept, last, packed.n_tokens, beat)


def pack_observed(model: WanStreamer, observed: Observed, response: Latents, beat: Beat) -> Packed:
    """The tokens of a commit: latents y_{k-1} (where there are), user text, user audio and video."""
    layout, batch = model.config.layout, observed.n_text.shape[0]
    before = layout.agent_media_positions() - np.array([layout.advance, layout.advance, layout.advance])
    positions = np.concatenate([before, layout.user_text_positions(), layout.user_media_positions()])
    text = model.transformer.embed_text(observed.text)
    x = jnp.concatenate([model.embed_latents(response), text, observed.media], axis=1)
    valid = jnp.concatenate(
        [
            jnp.broadcast_to(beat.answered[:, None], (batch, layout.n_agent_media)),
            jnp.arange(layout.max_user_text) < observed.n_text[:, None],
            jnp.ones((batch, layout.n_user_media), bool),
        ],
        axis=1,
    )
    others = jnp.full((batch, x.shape[1] - layout.n_agent_media), NOT_LATENT)
    kind = jnp.concatenate([model.latent_kinds(batch), others], axis=1)
    return pack(x, beat.start[:, None] + model.angles(positions), kind, valid)


def observed_tokens(layout: UnitLayout, packed: Packed) -> Tokens:
    """What the attention rule knows of a commit's packed tokens, each field [B, T]; the last unit is 0, this one 1."""
    counts = (layout.n_agent_media, layout.max_user_text, layout.n_user_media)
    unit = jnp.asarray(np.repeat([0, 1, 1], counts))[packed.slot]
    group = jnp.asarray(np.repeat([Group.AGENT_MEDIA, Group.USER_TEXT, Group.USER_MEDIA], counts))[packed.slot]
    index = jnp.broadcast_to(jnp.arange(unit.shape[1]), unit.shape)
    valid = index < packed.n_tokens[:, None]
    return Tokens(unit, group, index, jnp.zeros_like(index), valid, jnp.zeros_like(index))


def _write_text(
    model: WanStreamer, recall: Any, kept: list[KeysValues], last: jax.Array, n_tokens: jax.Array, beat: Beat
) -> Thought:
    """Write tokens until every session has written <unit_end>; `last` [B, D] is the hidden state before the first."""
    layout, batch = model.config.layout, last.shape[0]
    room = ((0, 0), (0, 0), (0, layout.max_agent_text), (0, 0))
    nothing = jnp.zeros((batch, layout.max_agent_text))
    zero = jnp.zeros(batch, jnp.int32)
    state = _Writing(
        layers=tuple(KeysValues(jnp.pad(k, room), jnp.pad(v, room)) for k, v in kept),
        n_tokens=n_tokens,
        hidden=last,
        text=nothing.astype(jnp.int32),
        log_probs=nothing,
        n_text=zero,
        ended=zero > 0,
        turn=jnp.int32(0),
    )
    offsets = model.angles(layout.agent_text_positions())
    state = jax.lax.while_loop(
        lambda s: ~jnp.all(s.ended), lambda s: _write_token(model, recall, offsets, beat, s), state
    )
    return Thought(state.text, state.n_text, state.log_probs, stack_slice(list(state.layers), state.n_tokens))


def _write_token(model: WanStreamer, recall: Any, offsets: jax.Array, beat: Beat, s: _Writing) -> _Writing:
    """One token of every session that has not ended; it sees the history, the slice so far, and itself."""
    token, log_prob = _choose(model, s.hidden, beat, s.turn)
    so_far = (jnp.arange(s.layers[0].k.shape[2]) < s.n_tokens[:, None])[:, None]
    itself = jnp.ones((1, 1, 1), bool)

    def see(layer: int, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        written = attend(q, *s.layers[layer], so_far)
        return merge(recall(layer, q), merge(written, attend(q, k, v, itself))).values

    x = model.transformer.embed_text(token)[:, None]
    hidden, kept = model.transformer(x, (beat.start + offsets[s.turn])[:, None], None, see)
    new = jnp.where(s.ended, 0, 1)
    row = jnp.zeros_like(new)
    return _Writing(
        layers=tuple(
            KeysValues(*(write_rows(slots, rows, s.n_tokens, row, new) for slots, rows in zip(old, own, strict=True)))
            for old, own in zip(s.layers, kept, strict=True)
        ),
        n_tokens=s.n_tokens + new,
        hidden=hidden[:, 0],
        text=s.text.at[:, s.turn].set(jnp.where(s.ended, 0, token)),
        log_probs=s.log_probs.at[:, s.turn].set(jnp.where(s.ended, 0.0, log_prob)),
        n_text=s.n_text + new,
        ended=s.ended | (token == model.config.text.unit_end),
        turn=s.turn + 1,
    )


def _choose(model: WanStreamer, hidden: jax.Array, beat: Beat, turn: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The next token of each session and its log-probability; the last one a unit may hold is <unit_end>."""
    text = model.config.text
    logits = model.transformer.text_logits(hidden)  # [B, V]
    logits = jnp.where(jnp.arange(logits.shape[1]) <= text.unit_end, logits, -jnp.inf)
    if text.temperature == 0:
        token = jnp.argmax(logits, axis=-1)
    else:
        keys = jax.vmap(lambda key, unit: jax.random.fold_in(jax.random.fold_in(key, unit), 1 + turn))
        token = jax.vmap(jax.random.categorical)(keys(beat.key, beat.unit), logits / text.temperature)
    token = jnp.where(turn == text.max_agent - 1, text.unit_end, token).astype(jnp.int32)
    return token, jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]
