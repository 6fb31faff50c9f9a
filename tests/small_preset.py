"""The small agent of `tests/small.py` as a preset file, for `serve.py --preset`."""

from tests.small import small_config

config = small_config()
