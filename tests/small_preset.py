"""The small agent of `tests/small.py` as a preset file for `serve.py --preset`, with an id for every byte."""

import dataclasses

from tests.small import small_config

_base = small_config()
config = dataclasses.replace(
    _base,
    transformer=dataclasses.replace(_base.transformer, vocab=257),
    text=dataclasses.replace(_base.text, unit_end=256),
)
