"""The stages of the recipe, one module each (`wanstreamer_jax.training.stage` is their contract)."""

import difflib
import importlib

from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.stage import Stage

STAGES = ("video_vae", "audio_vae", "hearing", "seeing", "pretrain", "interact", "distill")


def find_stage(name: str) -> Stage:
    """The stage of a name; TrainingError with the nearest one when there is none."""
    if name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=1)
        raise TrainingError(
            f"no stage {name!r}: {f'did you mean {near[0]!r}?' if near else 'one of ' + ', '.join(STAGES)}"
        )
    return importlib.import_module(f"{__name__}.{name}").stage
