"""A part: one public checkpoint in our names and layouts, in the dtypes in which it came.

part.json             the family, our sizes, and the source: all that is needed to write the checkpoint again
weights.safetensors   the tensors; a name is a dotted path in our parameters
tokenizer.json        the language model's, as it came
"""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from wanstreamer_jax.config import AudioVAEConfig, TransformerConfig, VideoVAEConfig, VisionConfig, build
from wanstreamer_jax.convert.checkpoint import TOKENIZER, Checkpoint, Source, read_json
from wanstreamer_jax.convert.container import CheckpointError, Shaped, StoredTensor, describe, read_header
from wanstreamer_jax.convert.families import FAMILIES
from wanstreamer_jax.convert.family import Family
from wanstreamer_jax.convert.progress import write_tensors
from wanstreamer_jax.convert.table import check, shapes_of, take
from wanstreamer_jax.files import check_replaceable, pending_directory

FORMAT = 1
PART, WEIGHTS = "part.json", "weights.safetensors"
SIZES = {"qwen3": TransformerConfig, "wan-vae": VideoVAEConfig, "mimi": AudioVAEConfig, "siglip2": VisionConfig}


class Part(NamedTuple):
    """An opened part; its tensors are read when they are asked for."""

    family: Family
    config: Any
    source: Source
    tensors: dict[str, StoredTensor]
    tokenizer: Path | None

    @property
    def n_params(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(x.shape) for x in self.tensors.values())


def write_part(checkpoint: Checkpoint, family: Family, output: Path, *, overwrite: bool = False) -> Part:
    """Convert a checkpoint, tensor by tensor, to a directory that appears when it is complete.

    Raises ValueError that lists every tensor or setting that does not belong to the family.
    """
    check_replaceable(output, PART, overwrite=overwrite)
    config = family.read_config(checkpoint.config, checkpoint)
    entries = family.table(config, checkpoint.keys())
    shapes = shapes_of(lambda: family.init(config))
    check(entries, checkpoint, shapes, family.unused, checkpoint.duplicates)
    kept = sorted((e for e in entries if not e.copy), key=lambda e: _place(checkpoint[e.theirs]))
    shaped = {e.ours: Shaped(shapes[e.ours], checkpoint[e.theirs].dtype) for e in kept}
    with pending_directory(output) as fresh:
        arrays = (x for _, x in take(kept, checkpoint))
        write_tensors(fresh / WEIGHTS, describe(shaped, {}), shaped, arrays)
        if checkpoint.tokenizer:
            shutil.copyfile(checkpoint.tokenizer, fresh / TOKENIZER)
        (fresh / PART).write_text(_described(family, config, checkpoint.source), encoding="utf-8")
    return read_part(output, family)


def read_part(directory: Path, family: Family) -> Part:
    """Open a part; CheckpointError when it is none, or one of another family."""
    if not (directory / PART).is_file():
        raise CheckpointError(
            f"{directory}: no {PART}: make one with `python -m wanstreamer_jax.convert {family.name}`"
        )
    described = read_json(directory / PART)
    if described.get("format") != FORMAT or described.get("family") not in FAMILIES:
        raise CheckpointError(f"{directory / PART}: no part that this version reads (format {FORMAT})")
    if described["family"] != family.name:
        raise CheckpointError(f"{directory}: a part of {described['family']}, not of {family.name}")
    try:
        config = build(SIZES[family.name], described["config"], "config")
        source = Source(**described["source"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory / PART}: damaged: {error}") from error
    tokenizer = directory / TOKENIZER
    tensors = read_header(directory / WEIGHTS).tensors
    return Part(family, config, source, tensors, tokenizer if tokenizer.is_file() else None)


def _described(family: Family, config: Any, source: Source) -> str:
    fields = {"config": dataclasses.asdict(config), "source": source._asdict()}
    return json.dumps({"format": FORMAT, "family": family.name} | fields, indent=2) + "\n"


def _place(x: StoredTensor) -> tuple[Path, int]:
    """Where a tensor lies: read in this order, a disk need not seek."""
    return x.path, x.offset
