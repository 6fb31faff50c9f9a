"""Compiled programs are kept between runs, so that only the first start of a program waits for them."""

import os
from pathlib import Path

import jax

WORTH_KEEPING_S = 0.2  # seconds of compiling: less is done again as fast as it is read


def remember_compilations() -> None:
    """Keep compiled programs in the user's cache directory, unless JAX was told where already."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "wanstreamer_jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING_S)
