"""An agent directory from four parts; the layers that none of them has begin fresh, from a seed.

file of the agent    parts                                          fresh
transformer          qwen3                                          latent projections, adaLN
perception           siglip2 as vision, mimi's encoder as hearing   projectors
video_vae            wan-vae                                        nothing
audio_vae            mimi                                           the bottleneck, the identity on its latents
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from wanstreamer_jax.agent import MANIFEST, PARTS, Agent, complete
from wanstreamer_jax.config import Config
from wanstreamer_jax.convert.container import CheckpointError, Shaped, describe
from wanstreamer_jax.convert.part import Part
from wanstreamer_jax.convert.progress import write_tensors
from wanstreamer_jax.convert.siglip2 import POSITIONS_PATH, resample
from wanstreamer_jax.convert.table import Tensor, draw, flatten
from wanstreamer_jax.files import check_replaceable, pending_directory
from wanstreamer_jax.model import init_params
from wanstreamer_jax.tokens import Tokenizer


class Parts(NamedTuple):
    """What an agent is made of."""

    transformer: Part
    video_vae: Part
    audio_vae: Part
    vision: Part


FAMILY_OF = {"transformer": "qwen3", "video_vae": "wan-vae", "audio_vae": "mimi", "vision": "siglip2"}  # of Parts


class Piece(NamedTuple):
    """Where the tensors of a part go: those that begin with `theirs` to `ours` in a file of the agent."""

    file: str
    part: str
    theirs: str = ""
    ours: str = ""


PIECES = (
    Piece("transformer", "transformer"),
    Piece("perception", "vision", ours="vision."),
    Piece("perception", "audio_vae", theirs="encoder.trunk.", ours="hearing.trunk."),
    Piece("video_vae", "video_vae"),
    Piece("audio_vae", "audio_vae"),
)


class Row(NamedTuple):
    """A line of the summary."""

    layers: str
    source: str
    n_tensors: int
    n_params: int


def assemble(parts: Parts, preset: Config, seed: int, output: Path, *, overwrite: bool = False) -> list[Row]:
    """Write an agent with the preset's picture, history and clock and the sizes of its parts; returns what is in it.

    Raises ValueError when parts and preset do not fit each other. The agent is untrained: its new layers are.
    """
    check_replaceable(output, MANIFEST, overwrite=overwrite)
    tokenizer = _tokenizer(parts.transformer)
    config = agent_config(parts, preset, tokenizer)
    tokenizer.check_fits(config)
    init = functools.partial(init_params, config, seed)
    names = {file: list(flatten(tree)) for file, tree in jax.eval_shape(init).items()}
    taken = {file: _taken(config, parts, file) for file in PARTS}
    missing = {file: [name for name in names[file] if name not in taken[file]] for file in PARTS}
    drawn = draw(init, (f"{file}.{name}" for file in PARTS for name in missing[file]))
    fresh = {file: {name: drawn[f"{file}.{name}"] for name in missing[file]} for file in PARTS}
    with pending_directory(output) as directory:
        for file in PARTS:
            _write(directory / f"{file}.safetensors", names[file], taken[file], fresh[file])
        sources = {part.family.name: part.source._asdict() for part in parts}
        complete(directory, Agent(config, {}, tokenizer, trained=False, sources=sources))
    return [row for file in PARTS for row in _rows(parts, file, taken[file], fresh[file])]


def agent_config(parts: Parts, preset: Config, tokenizer: Tokenizer) -> Config:
    """The preset over the sizes of the parts; the first id that the tokenizer leaves free is <unit_end>."""
    sections = preset.transformer.rope_sections
    if sum(sections) != parts.transformer.config.head_size // 2:
        sections = parts.transformer.config.rope_sections
    vision, ours = parts.vision.config, preset.vision
    return dataclasses.replace(
        preset,
        transformer=dataclasses.replace(parts.transformer.config, rope_sections=sections),
        video_vae=parts.video_vae.config,
        audio_vae=parts.audio_vae.config,
        hearing=parts.audio_vae.config,
        vision=dataclasses.replace(vision, picture=ours.picture, frames_per_unit=ours.frames_per_unit),
        text=dataclasses.replace(preset.text, unit_end=tokenizer.n_entries),
    )


def _tokenizer(part: Part) -> Tokenizer:
    if part.tokenizer is None:
        raise CheckpointError("the transformer's part has no tokenizer.json; convert it with the one that it came with")
    return Tokenizer.load(part.tokenizer)


def _taken(config: Config, parts: Parts, file: str) -> dict[str, Tensor]:
    """Tensors of a file of the agent that come from parts; position embeddings on our grid."""
    taken: dict[str, Tensor] = {}
    for piece in _pieces(file):
        for name, x in getattr(parts, piece.part).tensors.items():
            if name.startswith(piece.theirs):
                taken[piece.ours + name.removeprefix(piece.theirs)] = x
    positions = f"vision.{POSITIONS_PATH}"
    if positions in taken:
        taken[positions] = resample(np.asarray(taken[positions]), config.vision)
    return taken


def _pieces(file: str) -> Iterator[Piece]:
    return (piece for piece in PIECES if piece.file == file)


def _write(path: Path, names: list[str], taken: Mapping[str, Tensor], fresh: Mapping[str, np.ndarray]) -> None:
    tensors = {name: taken[name] if name in taken else fresh[name] for name in names}
    shaped = {name: Shaped(tuple(x.shape), x.dtype) for name, x in tensors.items()}
    write_tensors(path, describe(shaped, {}), shaped, (np.asarray(x) for x in tensors.values()))


def _rows(parts: Parts, file: str, taken: Mapping[str, Tensor], fresh: Mapping[str, np.ndarray]) -> Iterator[Row]:
    """What came from where, and what is new, one line for each kind of layer."""
    for piece in _pieces(file):
        part = getattr(parts, piece.part)
        shapes = [x.shape for name, x in taken.items() if name.startswith(piece.ours)]
        source = f"{part.family.name}: {part.source.origin} {part.source.revision}".rstrip()
        yield Row(piece.ours.rstrip(".") or file, source, len(shapes), sum(map(math.prod, shapes)))
    kinds: dict[str, list[np.ndarray]] = {}
    for name, x in fresh.items():
        kinds.setdefault(_layer(name), []).append(x)
    for kind, arrays in kinds.items():
        yield Row(f"{file}: {kind}", "new", len(arrays), sum(x.size for x in arrays))


def _layer(path: str) -> str:
    """The layer of a tensor, without its number: "layers.3.mlp.up.kernel" is of "layers.mlp.up"."""
    return ".".join(key for key in path.split(".") if not key.isdigit() and key not in ("kernel", "bias"))
