"""`tests/small_preset.py` with room for the persona of the synthetic world."""

import dataclasses

from tests.small_preset import config as _base

config = dataclasses.replace(_base, world=dataclasses.replace(_base.world, max_text=128))
