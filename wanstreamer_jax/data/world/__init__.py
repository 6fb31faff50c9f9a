"""A synthetic duplex world: an agent and a user who talk about cards, made from a seed, with exact labels.

    world = World(split=Split.HELDOUT, seconds=30)
    session = make_session(7, world)               frames, samples, labels
    for path in write_sessions(Path("data"), range(1000), world, workers=8): ...

Pictures are drawn, speech is synthesised (espeak-ng, an extra), nothing is downloaded. See docs/world.md.
"""

from wanstreamer_jax.data.world.character import PixelBox, face_box, measure_nod, measure_opening, mouth_box
from wanstreamer_jax.data.world.folder import write_session, write_sessions
from wanstreamer_jax.data.world.identity import Composition, Identity
from wanstreamer_jax.data.world.labels import Labels
from wanstreamer_jax.data.world.lexicon import Card, Kind, Split
from wanstreamer_jax.data.world.script import Turn, Who, Word
from wanstreamer_jax.data.world.session import EVEN_MIXTURE, Session, World, make_session, make_sessions
from wanstreamer_jax.data.world.visemes import Viseme

__all__ = [
    "EVEN_MIXTURE",
    "Card",
    "Composition",
    "Identity",
    "Kind",
    "Labels",
    "PixelBox",
    "Session",
    "Split",
    "Turn",
    "Viseme",
    "Who",
    "Word",
    "World",
    "face_box",
    "make_session",
    "make_sessions",
    "measure_nod",
    "measure_opening",
    "mouth_box",
    "write_session",
    "write_sessions",
]
