"""`tests/small_preset.py` with the vision tower's picture as `tests/public.py` makes it."""

import dataclasses

from tests.small_preset import config as _base
from wanstreamer_jax.timeline import Picture

config = dataclasses.replace(_base, vision=dataclasses.replace(_base.vision, picture=Picture(64, 64)))
