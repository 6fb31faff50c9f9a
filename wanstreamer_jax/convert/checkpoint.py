"""A public checkpoint on disk: one safetensors file, or a directory with one file or with shards and their index."""

import collections
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wanstreamer_jax.convert.container import CheckpointError, Header, StoredTensor, read_header
from wanstreamer_jax.convert.family import Family
from wanstreamer_jax.files import is_pickle

CONFIG, INDEX, TOKENIZER = "config.json", "*.safetensors.index.json", "tokenizer.json"
MAX_JSON = 100_000_000  # bytes
MAX_NOTE = 1_000_000  # bytes; larger files beside the weights are vocabularies, which tokenizer.json holds too


class Source(NamedTuple):
    """Where a checkpoint came from, and all that is needed to write it again besides its tensors; plain JSON."""

    origin: str  # a repository, or the name of a directory or file
    revision: str  # of the repository; empty for what lay on disk
    notes: dict[str, str]  # file name -> text of every small JSON file: configuration, index of shards ..
    headers: dict[str, str]  # safetensors file name -> its header


class Checkpoint(Mapping[str, StoredTensor]):
    """Tensors by name, read when they are asked for."""

    def __init__(self, path: Path, family: Family, origin: str = "", revision: str = "") -> None:
        """Open a file or directory and check all headers, and that its config.json is of the family.

        Raises CheckpointError with the file, the reason and what to do.
        """
        self.directory = path if path.is_dir() else path.parent
        files, index = _weight_files(path, family)
        headers = {file.name: read_header(file) for file in files}
        if index:
            _check_index(index, headers)
        self._tensors = {name: x for header in headers.values() for name, x in header.tensors.items()}
        self.duplicates = _duplicates(headers)
        self.config = _read_config(self.directory / CONFIG, family)
        notes = _read_notes(self.directory, "*.json" if path.is_dir() else CONFIG)
        self.source = Source(origin or path.resolve().name, revision, notes, {n: h.text for n, h in headers.items()})

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def tokenizer(self) -> Path | None:
        """Its tokenizer.json, where it has one."""
        path = self.directory / TOKENIZER
        return path if path.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file; CheckpointError when it holds none."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError(f"{path}: {path.stat().st_size:,} bytes of JSON are more than any model has")
        value = json.loads(path.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: no JSON object")
    return value


class Index(NamedTuple):
    """Which file holds each tensor."""

    path: Path
    weight_map: dict[str, str]


def _weight_files(path: Path, family: Family) -> tuple[list[Path], Index | None]:
    """Every file with tensors, and the index where there is one."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    if not path.is_dir():
        _refuse_pickles([path], family)
        return ([path], None) if not path.match("*.json") else _shards(path, family)
    indexes, files = sorted(path.glob(INDEX)), sorted(path.glob("*.safetensors"))
    if len(indexes) == 1:
        return _shards(indexes[0], family)
    if len(files) == 1 and not indexes:
        _refuse_pickles(files, family)
        return files, None
    _refuse_pickles(sorted(path.iterdir()), family)
    found = f"{len(files)} safetensors files and {len(indexes)} indexes"
    raise CheckpointError(f"{path}: {found}; needs one file, or one index of shards. Name the file itself")


def _refuse_pickles(paths: list[Path], family: Family) -> None:
    pickles = [path.name for path in paths if is_pickle(path)]
    if pickles:
        reason = "a pickle, which can run code when it is opened; refused, whatever its name"
        raise CheckpointError(
            f"{paths[0].parent}: {', '.join(pickles)}: {reason}. The safetensors version is at {family.safetensors}"
        )


def _shards(index: Path, family: Family) -> tuple[list[Path], Index]:
    """The files that an index names, which lie beside it, and what it says."""
    weight_map = read_json(index).get("weight_map")
    if not (isinstance(weight_map, dict) and weight_map and all(isinstance(x, str) for x in weight_map.values())):
        raise CheckpointError(f"{index}: no index: `weight_map` must map tensors to files")
    names = sorted(set(weight_map.values()))
    outside = [repr(name) for name in names if Path(name).name != name or name in ("", ".", "..")]
    if outside:
        raise CheckpointError(f"{index}: names files outside its directory: {', '.join(outside)}; refused")
    paths = [index.parent / name for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(f"{index}: missing shards {', '.join(missing)}; download them again")
    _refuse_pickles(paths, family)
    return paths, Index(index, weight_map)


def _check_index(index: Index, headers: Mapping[str, Header]) -> None:
    """Every tensor lies where the index says, and the index knows every tensor."""
    weight_map = index.weight_map
    wrong = [f"{name}: not in {file}" for name, file in weight_map.items() if name not in headers[file].tensors]
    for file, header in headers.items():
        wrong += [f"{name}: in {file}, but not in the index" for name in header.tensors if name not in weight_map]
    if wrong:
        raise CheckpointError(f"{index.path}: does not fit its shards:\n  " + "\n  ".join(wrong))


def _duplicates(headers: Mapping[str, Header]) -> list[str]:
    """Tensors that a header, or two of them, hold more than once."""
    within = [name for header in headers.values() for name in header.duplicates]
    times = collections.Counter(name for header in headers.values() for name in header.tensors)
    return sorted({*within, *(name for name, n in times.items() if n > 1)})


def _read_config(path: Path, family: Family) -> dict[str, Any]:
    """What config.json says; nothing where there is none."""
    if not path.is_file():
        return {}
    config = read_json(path)
    kind = config.get("model_type", config.get("_class_name"))
    if kind not in family.model_types:
        wanted = " or ".join(family.model_types)
        raise CheckpointError(f"{path}: of a model of type {kind!r}; {family.name} reads {wanted}")
    return config


def _read_notes(directory: Path, pattern: str) -> dict[str, str]:
    """Small JSON files, as they are."""
    paths = [path for path in sorted(directory.glob(pattern)) if path.name != TOKENIZER]
    try:
        return {path.name: path.read_bytes().decode() for path in paths if path.stat().st_size <= MAX_NOTE}
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{directory}: a JSON file that is no UTF-8: {error}") from error
