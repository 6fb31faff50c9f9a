"""Which machine a table was made on."""

import os

from wanstreamer_jax.cpu import processor_name


def machine() -> str:
    """The processor's name and how many cores this process may use."""
    return f"{processor_name()}, {len(os.sched_getaffinity(0))} cores"
