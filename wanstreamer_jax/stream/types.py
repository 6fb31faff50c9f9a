"""What passes between the steps of a unit: NamedTuples of arrays, sessions on axis 0.

B sessions, T tokens, D width, G rotary angles (half a head).
"""

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from wanstreamer_jax.cache import History, Slice
from wanstreamer_jax.model import Latents


class Observation(NamedTuple):
    """u_k: what the user did in a unit. Frames are at the size of `config.vision.picture`."""

    text: Int[Array, "B T"]
    n_text: Int[Array, " B"]
    samples: Float[Array, "B n"]
    frames: UInt8[Array, "B f H W 3"]


class Observed(NamedTuple):
    """u_k as the Transformer reads it."""

    text: Int[Array, "B T"]
    n_text: Int[Array, " B"]
    media: Float[Array, "B T D"]


class Beat(NamedTuple):
    """Which unit it is, for each session: its number, the angles of its position, the session's random key.

    `answered`: whether the unit before has a response; not before unit 0, nor after a unit that was skipped.
    """

    unit: Int[Array, " B"]
    answered: Bool[Array, " B"]
    start: Float[Array, "B G"]
    key: Key[Array, " B"]


class Thought(NamedTuple):
    """What the agent writes in a unit, up to <unit_end>, how likely it held each token, and the unit's slice."""

    text: Int[Array, "B T"]
    n_text: Int[Array, " B"]
    log_probs: Float[Array, "B T"]
    new: Slice


class Rendered(NamedTuple):
    """4 frames and 3,840 samples."""

    frames: UInt8[Array, "B f H W 3"]
    samples: Float[Array, "B n"]


class SessionState(NamedTuple):
    """All that a session remembers."""

    history: History
    hearing: Any
    voice: Any
    face: Any
    response: Latents  # y_{k-1}
