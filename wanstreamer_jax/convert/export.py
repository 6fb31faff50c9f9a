"""Back to a public layout: what came in, bit for bit; what was trained since, in the same files, names and dtypes."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wanstreamer_jax.agent import CONFIG, TOKENIZER, verify
from wanstreamer_jax.config import from_json
from wanstreamer_jax.convert.assemble import FAMILY_OF, PIECES
from wanstreamer_jax.convert.checkpoint import Source
from wanstreamer_jax.convert.container import (
    CheckpointError,
    Shaped,
    StoredTensor,
    describe,
    parse_header,
    read_header,
)
from wanstreamer_jax.convert.family import Family
from wanstreamer_jax.convert.part import PART, read_part
from wanstreamer_jax.convert.progress import write_tensors
from wanstreamer_jax.convert.siglip2 import POSITIONS_PATH
from wanstreamer_jax.convert.table import Entry, Tensor, give
from wanstreamer_jax.files import check_replaceable, pending_directory

SINGLE, INDEX_SUFFIX = "model.safetensors", ".index.json"
PART_OF = {family: part for part, family in FAMILY_OF.items()}


class Model(NamedTuple):
    """A part, or the same out of an agent."""

    config: Any
    source: Source | None  # None: it never was a public checkpoint
    tensors: dict[str, StoredTensor]
    tokenizer: Path


class Plan(NamedTuple):
    """A file to write: its header, and where each of its tensors comes from."""

    header: str
    tensors: dict[str, Shaped]
    origins: dict[str, Entry | Tensor]  # an entry of the table, or a tensor of the original checkpoint


class Exported(NamedTuple):
    """What was written."""

    n_tensors: int
    left_behind: list[str]  # tensors of the original that were never taken, and so are not written


def export(
    directory: Path, family: Family, output: Path, rest: Mapping[str, Tensor], *, overwrite: bool = False
) -> Exported:
    """Write a public checkpoint from a part or an agent; `rest`: the original's tensors, for those left behind.

    Raises ValueError when `directory` is neither, and when a tensor no longer has its public shape.
    """
    check_replaceable(output, CONFIG, overwrite=overwrite)
    model = _open_part(directory, family) if (directory / PART).is_file() else _open_agent(directory, family)
    headers = model.source.headers if model.source else {SINGLE: _fresh_header(model, family)}
    names = [name for header in headers.values() for name in parse_header(header)[0]]
    table = {entry.theirs: entry for entry in family.table(model.config, names)}
    plans = {file: _plan(header, table, model, rest) for file, header in headers.items()}
    written = {name for plan in plans.values() for name in plan.tensors}
    with pending_directory(output) as fresh:
        for file, plan in plans.items():
            write_tensors(fresh / file, plan.header, plan.tensors, _arrays(plan, model))
        for file, text in _notes(model, family, written).items():
            (fresh / file).write_bytes(text.encode())
        if model.tokenizer.is_file() and PART_OF[family.name] == "transformer":
            shutil.copyfile(model.tokenizer, fresh / TOKENIZER)
    return Exported(len(written), [name for name in names if name not in written])


def _open_part(directory: Path, family: Family) -> Model:
    part = read_part(directory, family)
    return Model(part.config, part.source, part.tensors, directory / TOKENIZER)


def _open_agent(directory: Path, family: Family) -> Model:
    sources = verify(directory)["sources"]
    config = from_json((directory / CONFIG).read_text(encoding="utf-8"))
    piece = next(piece for piece in PIECES if piece.part == PART_OF[family.name] and not piece.theirs)  # all of it
    stored = read_header(directory / f"{piece.file}.safetensors").tensors
    tensors = {name.removeprefix(piece.ours): x for name, x in stored.items() if name.startswith(piece.ours)}
    if config.vision.picture.width != config.vision.picture.height:
        tensors.pop(POSITIONS_PATH, None)  # the public layout has no such grid, though perhaps as many positions
    source = Source(**sources[family.name]) if family.name in sources else None
    return Model(getattr(config, PART_OF[family.name]), source, tensors, directory / TOKENIZER)


def _fresh_header(model: Model, family: Family) -> str:
    """For a model that never was a public checkpoint: every tensor of the table, in one file."""
    entries = family.table(model.config, ())
    missing = [entry.theirs for entry in entries if entry.ours not in model.tensors]
    if missing:
        raise CheckpointError(f"{', '.join(missing)}: not as the public layout has it: no square picture")
    shaped = {e.theirs: Shaped(_public_shape(e, model), model.tensors[e.ours].dtype) for e in entries}
    return describe(shaped, {"format": "pt"})


def _blank(x: StoredTensor) -> np.ndarray:
    """An array of its shape that takes no memory."""
    return np.broadcast_to(np.zeros((), x.dtype), x.shape)


def _plan(header: str, table: Mapping[str, Entry], model: Model, rest: Mapping[str, Tensor]) -> Plan:
    """Where the tensors of a file come from; the header as it was, unless some were left behind."""
    described, metadata = parse_header(header)
    origins: dict[str, Entry | Tensor] = {}
    for name, x in described.items():
        ours = table.get(name)
        if ours and ours.ours in model.tensors and _public_shape(ours, model) == x.shape:
            origins[name] = ours
        elif name in rest and tuple(rest[name].shape) == x.shape:
            origins[name] = rest[name]
        elif ours:
            reason = f"no longer {x.shape} as in the original"
            raise CheckpointError(f"{name}: {reason}; give the original with --rest to take this tensor from it")
    tensors = {name: described[name] for name in origins}
    return Plan(header if tensors == described else describe(tensors, metadata), tensors, origins)


def _public_shape(entry: Entry, model: Model) -> tuple[int, ...]:
    return entry.layout.to_theirs(_blank(model.tensors[entry.ours])).shape


def _arrays(plan: Plan, model: Model) -> Iterator[np.ndarray]:
    """The tensors of a file in their public dtypes: bit for bit, where they were not trained in another."""
    for name, origin in plan.origins.items():
        x = give(origin, model.tensors[origin.ours]) if isinstance(origin, Entry) else np.asarray(origin)
        yield x.astype(plan.tensors[name].dtype, copy=False)


def _notes(model: Model, family: Family, written: set[str]) -> dict[str, str]:
    """The JSON files beside the weights; an index without the tensors that were left behind."""
    if model.source is None:
        return {CONFIG: json.dumps(family.write_config(model.config), indent=2) + "\n"}
    notes = model.source.notes.items()
    return {file: _prune_index(text, written) if file.endswith(INDEX_SUFFIX) else text for file, text in notes}


def _prune_index(text: str, written: set[str]) -> str:
    index = json.loads(text)
    kept = {name: file for name, file in index["weight_map"].items() if name in written}
    return text if kept == index["weight_map"] else json.dumps(index | {"weight_map": kept}, indent=2) + "\n"
