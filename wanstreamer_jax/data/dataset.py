"""Prepared data: ArrayRecord shards of records, and `dataset.json`, which says what is in them.

    dataset/
      data-00000.array_record     items of records, each compressed and hashed by itself, read in any order
      tokenizer.json              with which its text was made: more can be, as for instructions and captions
      dataset.json                layout, what the latents are of, counts, licences; of each shard its size, its
                                  sha256 and its records: name, length, first item

ArrayRecord (an extra, imported here alone) keeps a hash of every item, so that a flipped bit is found when the item
is read, and costs that record only.
"""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.layout import Layout, fingerprint
from wanstreamer_jax.data.record import Record, decode, encode
from wanstreamer_jax.files import file_sha256s
from wanstreamer_jax.timeline import UNIT_MS
from wanstreamer_jax.tokens import Tokenizer

FORMAT = 1  # raised when an older reader could not understand a newer dataset
MANIFEST, TOKENIZER = "dataset.json", "tokenizer.json"
_OPTIONS = "group_size:1,zstd:1"  # items are read one by one; more effort hardly makes frames smaller
_MISSING = "prepared data needs array_record: pip install 'wanstreamer-jax[train]'"


class DamagedRecordError(ValueError):
    """A record that cannot be read; the message names it, its shard and the reason."""


@dataclasses.dataclass
class Counts:
    """What is in a dataset."""

    sessions: int = 0
    records: int = 0
    units: int = 0
    words: int = 0
    words_moved: int = 0  # whose text stands in a later unit than they were said in
    tokens_left_over: int = 0  # for which a session was too short

    @property
    def seconds(self) -> float:
        """How long it all is."""
        return self.units * UNIT_MS / 1000


class DatasetWriter(AbstractContextManager["DatasetWriter"]):
    """Writes records as they come, a shard after the other, into a directory that is there."""

    def __init__(
        self,
        directory: Path,
        layout: Layout,
        tokenizer: Tokenizer,
        encoders: Mapping[str, str] | None,
        shard_bytes: int,
    ) -> None:
        """Begin; `encoders` are the sha256 of the VAEs that the latents are of, None without latents."""
        self._directory, self._tokenizer = directory, tokenizer
        self._shard_bytes = shard_bytes
        self._manifest: dict[str, Any] = {
            "format": FORMAT,
            "layout": dataclasses.asdict(layout),
            "layout_sha256": _sha256(json.dumps(dataclasses.asdict(layout), sort_keys=True).encode()),
            "encoders": encoders,
        }
        self._shards: list[dict[str, Any]] = []
        self._licences: collections.Counter[str] = collections.Counter()
        self._writer: Any = None
        self._room = self._n_items = 0  # of the shard
        self.counts = Counts()

    def add(self, record: Record) -> None:
        """Append a record."""
        items = list(encode(record))
        n_bytes = sum(map(len, items))
        if self._writer is None or self._room < n_bytes:
            self._open_shard()
        for item in items:
            self._writer.write(item)
        shard = self._shards[-1]
        shard["records"].append({"name": record.name, "units": record.n_units, "item": self._n_items})
        self._n_items += len(items)
        self._room -= n_bytes
        self._licences[record.licence] += record.n_units
        self.counts.records += 1
        self.counts.units += record.n_units
        self.counts.words += len(record.words)
        self.counts.words_moved += record.words_moved

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Close the last shard and write the tokenizer and `dataset.json`, with whatever `notes` say besides."""
        self._close_shard()
        self._tokenizer.save(self._directory / TOKENIZER)
        for shard in self._shards:
            path = self._directory / shard["file"]
            shard |= {"bytes": path.stat().st_size, "sha256": file_sha256s([path])[0]}
        said = self._manifest | {
            "counts": dataclasses.asdict(self.counts) | {"seconds": self.counts.seconds},
            "licences": {name: units * UNIT_MS / 1000 for name, units in sorted(self._licences.items())},
            "shards": self._shards,
        }
        (self._directory / MANIFEST).write_text(json.dumps(said | dict(notes), indent=1) + "\n", encoding="utf-8")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_shard()

    def _open_shard(self) -> None:
        self._close_shard()
        name = f"data-{len(self._shards):05d}.array_record"
        self._writer = _array_record().ArrayRecordWriter(str(self._directory / name), _OPTIONS)
        self._shards.append({"file": name, "records": []})
        self._room, self._n_items = self._shard_bytes, 0

    def _close_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Dataset:
    """A prepared dataset, whose records can be read in any order."""

    def __init__(self, directory: Path | str) -> None:
        """Open it.

        Raises:
            DataError: it is no dataset, one of a newer format, or a shard is missing or cut short.
        """
        self.directory = Path(directory)
        self.manifest = _read_manifest(self.directory / MANIFEST)
        self.layout = Layout.from_json(self.manifest["layout"], f"{self.directory / MANIFEST}: layout")
        self._places = [
            (shard["file"], record["item"], record["name"])
            for shard in self.manifest["shards"]
            for record in shard["records"]
        ]
        self._readers: dict[str, Any] = {}
        self._check_sizes()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        """Read a record, without its frames.

        Raises:
            DamagedRecordError: it is damaged; also when its frames are asked for.
        """
        file, first_item, name = self._places[index]

        def read(item: int) -> bytes:
            try:
                return self._reader(file).read([first_item + item])[0]
            except (RuntimeError, IndexError) as error:
                raise DamagedRecordError(f"{self.directory / file}: record {name}, item {item}: {error}") from error

        try:
            return decode(read)
        except DamagedRecordError:
            raise
        except ValueError as error:
            raise DamagedRecordError(f"{self.directory / file}: record {name}: {error}") from error

    @property
    def has_latents(self) -> bool:
        """Whether records carry the latents of an agent's VAEs."""
        return self.manifest["encoders"] is not None

    def tokenizer(self) -> Tokenizer:
        """Read the tokenizer with which the records' text was made.

        Raises:
            DataError: it is missing, or another one.
        """
        path = self.directory / TOKENIZER
        try:
            tokenizer = Tokenizer.load(path)
        except ValueError as error:
            raise DataError(Problem(path, f"{str(error).removeprefix(f'{path}: ')}; prepare it again")) from error
        if fingerprint(tokenizer) != self.layout.tokenizer:
            raise DataError(Problem(path, "is not the tokenizer with which the records were made; prepare it again"))
        return tokenizer

    def check_fits(self, layout: Layout) -> None:
        """Raise DataError unless the records are of this layout, with what differs."""
        reasons = self.layout.differences(layout)
        if reasons:
            reason = f"was prepared for another configuration: {'; '.join(reasons)}; prepare it again"
            raise DataError(Problem(self.directory / MANIFEST, reason))

    def check_encoders(self, fingerprints: Mapping[str, str]) -> None:
        """Raise DataError when there are latents, but of other VAEs than those of `latents.encoder_fingerprints`."""
        ours = self.manifest["encoders"] or {}
        others = [name for name in ours if ours[name] != fingerprints.get(name)]
        if others:
            reason = f"latents are of another {' and '.join(others)}; prepare it again with --agent"
            raise DataError(Problem(self.directory / MANIFEST, reason))

    def verify(self) -> None:
        """Raise DataError, with their names, when shards are not the files that were written."""
        shards = self.manifest["shards"]
        changed = [
            Problem(self.directory / shard["file"], "its sha256 is not the one that dataset.json has: it has changed")
            for shard, sha256 in zip(shards, file_sha256s(self.directory / x["file"] for x in shards), strict=True)
            if sha256 != shard["sha256"]
        ]
        if changed:
            raise DataError(*changed)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which opens the files itself."""
        return self.__dict__ | {"_readers": {}}

    def _reader(self, file: str) -> Any:
        if file not in self._readers:
            options = "readahead_buffer_size:0"
            self._readers[file] = _array_record().ArrayRecordReader(str(self.directory / file), options=options)
        return self._readers[file]

    def _check_sizes(self) -> None:
        """That shards are there and as long as they were; what is in them is checked when it is read."""
        problems = []
        for shard in self.manifest["shards"]:
            path = self.directory / shard["file"]
            n_bytes = path.stat().st_size if path.is_file() else None
            if n_bytes is None:
                problems.append(Problem(path, "is missing"))
            elif n_bytes != shard["bytes"]:
                problems.append(Problem(path, f"has {n_bytes} bytes, not {shard['bytes']}: copy it again"))
        if problems:
            raise DataError(*problems)


def _array_record() -> Any:
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise RuntimeError(_MISSING) from error
    return array_record_module


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(Problem(path, "is missing: this is no dataset; make one with `prepare`")) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(Problem(path, f"cannot be read: {error}")) from error
    needed = {"format", "layout", "encoders", "shards", "counts", "licences"}
    if not isinstance(manifest, dict) or not needed <= manifest.keys():
        raise DataError(Problem(path, f"is no manifest of a dataset: needs {', '.join(sorted(needed))}"))
    if manifest["format"] != FORMAT:
        raise DataError(Problem(path, f"is of format {manifest['format']}; this program reads {FORMAT}"))
    return manifest


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
