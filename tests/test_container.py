"""Safetensors files: what is written is read, by us and by the library; what is damaged is one clear error."""

import json
import random
import tracemalloc

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from wanstreamer_jax.convert.container import (
    DTYPES,
    CheckpointError,
    Shaped,
    describe,
    parse_header,
    read_header,
    write_file,
)

N_MUTANTS = 2500


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "model.embed.weight": rng.normal(size=(7, 4)).astype(np.float32),
        "model.layers.0.scale": rng.normal(size=5).astype(DTYPES["BF16"]),
        "steps": np.arange(3),
        "nothing": np.zeros((0, 4), np.float16),
        "scalar": np.float32(3.0).reshape(()),
    }


def write(path, tensors, metadata=None):
    shaped = {name: Shaped(x.shape, x.dtype) for name, x in tensors.items()}
    write_file(path, describe(shaped, metadata or {}), iter(tensors.values()))
    return path


def raw_file(path, header: bytes, data: bytes = b""):
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


SHAPES = st.lists(st.integers(0, 4), max_size=4)
KINDS = st.sampled_from(sorted(DTYPES.keys() - {"BOOL"}))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=12), st.tuples(KINDS, SHAPES), max_size=6))
def test_what_is_written_is_read(tmp_path_factory, described):
    described.pop("__metadata__", None)
    rng = np.random.default_rng(0)
    tensors = {
        name: np.frombuffer(rng.bytes(int(np.prod(shape)) * DTYPES[kind].itemsize), DTYPES[kind]).reshape(shape)
        for name, (kind, shape) in described.items()
    }
    path = write(tmp_path_factory.mktemp("file") / "model.safetensors", tensors, {"format": "pt"})
    header = read_header(path)
    assert list(header.tensors) == list(tensors)
    assert all(same(np.asarray(header.tensors[name]), x) for name, x in tensors.items())
    assert parse_header(header.text) == ({n: Shaped(x.shape, x.dtype) for n, x in tensors.items()}, {"format": "pt"})
    with safetensors.safe_open(path, framework="numpy") as file:
        assert set(file.keys()) == set(tensors)


def test_the_library_reads_the_same(tmp_path):
    path = write(tmp_path / "model.safetensors", arrays())
    with safetensors.safe_open(path, framework="numpy") as file:
        assert all(same(file.get_tensor(name), x) for name, x in arrays().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["b"].update(data_offsets=[4, 12]), "begins at byte 4, the tensor before it ends at 8"),
        (lambda h: h["b"].update(data_offsets=[12, 20]), "begins at byte 12"),
        (lambda h: h["b"].update(shape=[3]), "takes 12 bytes, but data_offsets are"),
        (lambda h: h["b"].update(shape=[-2]), "must be lists of sizes"),
        (lambda h: h["b"].update(shape=[2**62, 2**62]), "takes"),
        (lambda h: h["b"].update(shape=[True, 2]), "must be lists of sizes"),
        (lambda h: h["b"].update(dtype="F31"), "unknown dtype 'F31'"),
        (lambda h: h["b"].pop("dtype"), "needs exactly dtype, shape and data_offsets"),
        (lambda h: h["b"].update(data_offsets=[8, 8 + 2**40], shape=[2**38]), "cut short or overlong"),
        (lambda h: h.update(__metadata__={"n": 1}), "must map names to texts"),
    ],
)
def test_a_header_that_contradicts_itself_or_the_file(tmp_path, change, message):
    header = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
    }
    change(header)
    with pytest.raises(CheckpointError, match=f"model.safetensors: damaged header: .*{message}"):
        read_header(raw_file(tmp_path / "model.safetensors", json.dumps(header).encode(), b"\0" * 16))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short"),
        (b"\x10\0\0\0\0\0\0\0{}", "cut short"),
        ((2**40).to_bytes(8, "little") + b"{}", "its header would be 1,099,511,627,776 bytes"),
        (b"\2\0\0\0\0\0\0\0[]", "no JSON object"),
        (b"\4\0\0\0\0\0\0\0\xff\xfe{}", "damaged header"),
        ((200_000).to_bytes(8, "little") + b"[" * 200_000, "damaged header"),
        (b"\x80\x02}q\0.            ", "a pickle"),
        (b"PK\x03\x04 an archive as torch.save writes it", "a pickle"),
    ],
)
def test_what_is_no_safetensors_file(tmp_path, content, message):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_header(path)


def test_a_header_larger_than_the_format_allows_is_not_read(tmp_path):
    path = raw_file(tmp_path / "m.safetensors", b"")
    with path.open("r+b") as file:
        file.write((150_000_000).to_bytes(8, "little"))
        file.truncate(200_000_000)  # a hole: it takes no room
    with pytest.raises(CheckpointError, match="its header would be 150,000,000 bytes"):
        read_header(path)
    assert read_and_weigh(path)[1] < 1e6


def test_tensors_come_in_the_order_of_their_bytes(tmp_path):
    second = '"a":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}'
    first = '"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}'
    path = raw_file(tmp_path / "m.safetensors", f"{{{second},{first}}}".encode(), bytes(range(5)))
    tensors = read_header(path).tensors
    assert [(name, bytes(np.asarray(x))) for name, x in tensors.items()] == [("b", b"\0\1\2"), ("a", b"\3\4")]


def test_a_name_given_twice_is_told(tmp_path):
    entry = '{"dtype":"F32","shape":[],"data_offsets":[0,4]}'
    path = raw_file(tmp_path / "m.safetensors", f'{{"a":{entry},"a":{entry}}}'.encode(), b"\0" * 4)
    assert read_header(path).duplicates == ("a",)


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = write(tmp_path / "m.safetensors", arrays())
    tensors = read_header(path).tensors
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="became shorter"):
        np.asarray(tensors["scalar"])


def test_mutated_files_are_read_as_the_library_reads_them_or_refused(tmp_path):
    rng = random.Random(0)
    original = write(tmp_path / "original", arrays(), {"format": "pt"}).read_bytes()
    path = tmp_path / "mutant.safetensors"
    n_refused = 0
    for _ in range(N_MUTANTS):
        path.write_bytes(mutate(original, rng))
        header, n_bytes = read_and_weigh(path)
        assert n_bytes < 1e6  # no damaged number makes anything large
        if header is None:
            n_refused += 1
            continue
        with safetensors.safe_open(path, framework="numpy") as file:  # it accepts whatever we accept
            assert set(file.keys()) == set(header.tensors)
            for name, x in header.tensors.items():
                assert same(np.asarray(x), file.get_tensor(name))
    assert n_refused > N_MUTANTS / 2


def read_and_weigh(path):
    """A file's header, None when it is refused, and the bytes that reading it took at most."""
    tracemalloc.start()
    try:
        header = read_header(path)
    except CheckpointError:
        header = None
    n_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return header, n_bytes


def mutate(original: bytes, rng: random.Random) -> bytes:
    """A file with damaged bytes, a damaged length, or hostile values in its header."""
    kind = rng.randrange(4)
    if kind == 0:
        return original[: rng.randrange(len(original))]
    if kind == 1:
        damaged = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged) if rng.random() < 0.2 else 300)] = rng.randrange(256)
        return bytes(damaged)
    if kind == 2:
        return rng.choice([0, 1, 7, 2**20, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little") + original[8:]
    n = int.from_bytes(original[:8], "little")
    header = json.loads(original[8 : 8 + n])
    replace_a_value(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + original[8 + n :]


HOSTILE = (
    -1,
    0,
    1,
    2**31,
    2**53,
    2**63,
    2**64,
    10**40,
    1e400,
    0.5,
    None,
    True,
    "",
    "F32",
    "U8",
    [],
    [0],
    [0, 28],
    {},
    [[[[]]]],
)


def replace_a_value(tree, rng: random.Random) -> None:
    """Put a hostile value somewhere into nested JSON."""
    while True:
        key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        child = tree[key]
        if not (isinstance(child, (dict, list)) and child) or rng.random() < 0.3:
            tree[key] = rng.choice(HOSTILE)
            return
        tree = child
