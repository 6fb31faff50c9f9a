"""One safetensors file, read tensor by tensor and written tensor by tensor, so that a model need not fit in memory.

    8 bytes: N, little endian | N bytes: JSON, name -> dtype, shape, [begin, end] | the tensors' bytes, end to end

Everything that the header says is checked against itself and against the file before the first tensor is read.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from wanstreamer_jax.files import is_pickle

MAX_HEADER = 100_000_000  # bytes; the format's own limit
WRITE = 2**20  # bytes at a time: what the page cache takes from a core's own cache, twice as fast as all at once
METADATA = "__metadata__"

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}
WORDS = {dtype: word for word, dtype in DTYPES.items()}


Entry = tuple[tuple[int, ...], np.dtype, int, int]  # shape, dtype, first and last byte


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: the message names the file, the reason and what to do."""


@dataclasses.dataclass(frozen=True)
class Shaped:
    """A tensor that is not there yet."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def n_bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class StoredTensor(Shaped):
    """A tensor of a file; `np.asarray` maps it into memory, read-only, for as long as the array lives."""

    path: Path
    offset: int  # bytes from the start of the file

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Its elements; CheckpointError when the file is no longer what its header said."""
        del copy
        if self.path.stat().st_size < self.offset + self.n_bytes:
            raise CheckpointError(f"{self.path}: became shorter while it was read")
        if self.n_bytes == 0:
            x = np.empty(self.shape, self.dtype)
        else:
            x = np.memmap(self.path, np.uint8, "r", self.offset, (self.n_bytes,)).view(np.ndarray)
            x = x.view(self.dtype).reshape(self.shape)
        return x if dtype is None else x.astype(dtype)


class Header(NamedTuple):
    """What a file says that it holds."""

    text: str
    tensors: dict[str, StoredTensor]  # in the order of their bytes
    duplicates: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises CheckpointError: a pickle, no safetensors, cut short, tensors that overlap or leave gaps.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        n = int.from_bytes(file.read(8), "little")
        if not 2 <= n <= min(MAX_HEADER, size - 8):
            raise CheckpointError(f"{path}: {_why_no_header(path, n, size)}")
        raw = file.read(n)
    try:
        text = raw.decode()
        described, duplicates = _parse(text)
        tensors = dict(_place(path, described, 8 + n, size))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged header: {error}") from error
    return Header(text, tensors, duplicates)


def parse_header(text: str) -> tuple[dict[str, Shaped], dict[str, str]]:
    """Tensors in the order of their bytes, and metadata, of a header that `read_header` has checked."""
    described, _ = _parse(text)
    metadata = json.loads(text).get(METADATA, {})
    return {name: Shaped(shape, dtype) for name, (shape, dtype, _, _) in _in_order(described)}, metadata


def describe(tensors: Mapping[str, Shaped], metadata: Mapping[str, str]) -> str:
    """The header of a file that will hold tensors of these shapes and dtypes, in this order."""
    described: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    begin = 0
    for name, x in tensors.items():
        end = begin + x.n_bytes
        described[name] = {"dtype": WORDS[x.dtype], "shape": list(x.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False)
    return text + " " * (-len(text.encode()) % 8)  # the tensors begin at a multiple of 8


def write_file(path: Path, header: str, arrays: Iterable[np.ndarray]) -> None:
    """Write a file: the header, then arrays in the order of the header, one at a time."""
    raw = header.encode()
    with path.open("wb", buffering=0) as file:
        for data in (len(raw).to_bytes(8, "little"), raw):
            _write_all(file, memoryview(data))
        for x in arrays:
            _write_all(file, np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def _why_no_header(path: Path, n: int, size: int) -> str:
    if is_pickle(path):
        return "a pickle, which can run code when it is opened; refused, whatever its name"
    if n > MAX_HEADER:
        return f"no safetensors file: its header would be {n:,} bytes"
    return f"cut short: {size:,} bytes, and its header alone has {n:,}"


def _parse(text: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Descriptions of tensors by name, and names that occur twice."""
    duplicates: list[str] = []

    def keep_first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, value in pairs:
            if key in kept:
                duplicates.append(key)
            kept.setdefault(key, value)
        return kept

    described = json.loads(text, object_pairs_hook=keep_first)
    if not isinstance(described, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 (of a file, not of a caller)
    metadata = described.pop(METADATA, {})
    if not (isinstance(metadata, dict) and all(isinstance(x, str) for x in metadata.values())):
        raise ValueError(f"{METADATA} must map names to texts")
    return described, tuple(duplicates)


def _place(path: Path, described: dict[str, Any], start: int, size: int) -> Iterator[tuple[str, StoredTensor]]:
    """Tensors by their place in the file, which they must fill, one after the other."""
    end = 0
    for name, (shape, dtype, begin, stop) in _in_order(described):
        if begin != end:
            raise ValueError(f"{name} begins at byte {begin}, the tensor before it ends at {end}")
        yield name, StoredTensor(shape, dtype, path, start + begin)
        end = stop
    if start + end != size:
        raise ValueError(f"tensors end at byte {start + end:,}, but the file has {size:,}: cut short or overlong")


def _in_order(described: dict[str, Any]) -> list[tuple[str, Entry]]:
    read = {name: _read_entry(name, entry) for name, entry in described.items()}
    return sorted(read.items(), key=lambda item: item[1][2:])


def _read_entry(name: str, entry: Any) -> Entry:
    """Shape, dtype, first and last byte of a tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name}: needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name}: unknown dtype {dtype!r}")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise ValueError(f"{name}: shape and data_offsets must be lists of sizes")
    n_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != n_bytes:
        raise ValueError(f"{name}: {dtype} {shape} takes {n_bytes} bytes, but data_offsets are {offsets}")
    return tuple(shape), DTYPES[dtype], offsets[0], offsets[1]


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and len(values) <= 32 and all(type(x) is int and 0 <= x < 2**63 for x in values)


def _write_all(file: Any, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        done += file.write(buffer[done : done + WRITE])
