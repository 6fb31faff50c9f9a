"""An agent's own sessions: it thinks and performs unit after unit, and what it makes is its history. No gradient.

B sessions, U units, T tokens, D width.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from wanstreamer_jax.cache import init_history, pin_world
from wanstreamer_jax.config import Config
from wanstreamer_jax.model import Latents, Packed, Params, wan_streamer
from wanstreamer_jax.session import Session
from wanstreamer_jax.stream.steps import draw_noise, perform, think
from wanstreamer_jax.stream.types import Beat, Observed
from wanstreamer_jax.stream.world import prefill

Tree = TypeVar("Tree")


class RolledOut(NamedTuple):
    """What the agent wrote and made."""

    text: Int[Array, "B U T"]
    n_text: Int[Array, "B U"]
    latents: Latents  # [B, U, ..]


def roll_out(config: Config, params: Params, world: Packed, session: Session, key: Key[Array, ""]) -> RolledOut:
    """Live through a session: its user's streams and place in time are taken, its agent's are made anew."""
    # Constants first: or the whole loop is traced for its gradient, which nobody asks for.
    params, world, session = jax.lax.stop_gradient((params, world, session))
    n_sessions, n_units = session.n_user_text.shape
    _, pinned = prefill(wan_streamer(config, params), world)
    keys = jax.random.split(key, n_sessions)
    silence = jax.tree.map(jnp.zeros_like, draw_noise(config, keys))

    def live(state: tuple, unit: tuple) -> tuple[tuple, RolledOut]:
        history, response = state
        k, observed, start = unit
        number = jnp.full(n_sessions, k)
        beat = Beat(number, number > 0, start, keys)
        thought = think(config, params, history, observed, response, beat)
        noise = draw_noise(config, jax.vmap(jax.random.fold_in)(keys, number))
        response, history = perform(config, params, history, thought.new, noise, beat)
        return (history, response), RolledOut(thought.text, thought.n_text, response)

    observed = Observed(session.user_text, session.n_user_text, session.user_media)
    units = jnp.arange(n_units), *(_by_unit(x) for x in (observed, session.start))
    state = pin_world(init_history(config, n_sessions), pinned), silence
    _, lived = jax.lax.scan(live, state, units)
    return _by_unit(lived)


def _by_unit(tree: Tree) -> Tree:
    """Sessions and units exchanged."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1), tree)
