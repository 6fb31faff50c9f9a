"""Compiled steps kept between runs: what was compiled once is loaded, without tracing, lowering or compiling.

JAX's own compilation cache spares the compilation alone. Here a step's executable is found before its function is
traced, so its key must name everything that could make another program of it: the configuration, the sources, the
arguments, the devices, the versions and the flags.
"""

import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import pickle
import platform
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from wanstreamer_jax.config import Config, to_json

logger = logging.getLogger(__name__)

MAGIC = b"wanstreamer_jax executable 1\n"
DIGEST_BYTES = hashlib.sha256().digest_size
MAX_ENTRIES = 64  # the ones used longest ago go first
LIBRARIES = ("jax", "jaxlib", "flax", "einops", "numpy")
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
WRITABLE_BY_OTHERS = 0o022


class Executables:
    """The compiled steps of one configuration, in a directory of the user's own.

    An entry is a pickle, and runs as native code besides: whoever can write one can run anything. The directory is
    made for its owner alone (0700), and not used at all when it belongs to somebody else or when others may write
    into it. A signature inside the entries would add nothing, since its key would have to lie in the same place. The
    digest in each entry is there for what breaks by accident.
    """

    def __init__(self, config: Config, directory: Path):
        self._config = config
        self._directory = directory if _is_own(directory) else None

    def step(self, name: str, jitted: Any, devices: Sequence[jax.Device]) -> "Step":
        """A jitted function as a step that is compiled, or loaded, at its first call.

        `devices` are those that it runs on, in the order of their mesh.
        """
        return Step(jitted, functools.partial(self._prepare, name, jitted, devices))

    def _prepare(self, name: str, jitted: Any, devices: Sequence[jax.Device], args: tuple) -> Callable[..., Any]:
        if self._directory is None:
            return jitted
        key = entry_key(self._config, name, devices, args)
        path = self._directory / f"{name}-{key}"
        program = _load(path, key, devices)
        if program is None:
            with _compiled_anew():
                program = jitted.lower(*args).compile()
            _store(path, key, program)
            _prune(self._directory)
        return program


def keep(executables: Executables | None, devices: Sequence[jax.Device], name: str, jitted: Any) -> Callable[..., Any]:
    """A jitted step; with `executables`, one that is loaded where it was compiled before."""
    return executables.step(name, jitted, devices) if executables else jitted


class Step:
    """A program for each shape of arguments that it has met; called and lowered as the jitted function is."""

    def __init__(self, jitted: Any, prepare: Callable[[tuple], Callable[..., Any]]):
        self._jitted = jitted
        self._prepare = prepare
        self._programs: dict[tuple, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        """Run on arrays."""
        shapes = tuple(x.shape for x in jax.tree.leaves(args))
        if shapes not in self._programs:
            self._programs[shapes] = self._prepare(args)
        return self._programs[shapes](*args)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """Lower for arguments, as `jax.jit(...).lower` does."""
        return self._jitted.lower(*args)


def beside_compilation_cache(config: Config) -> Executables | None:
    """Executables in JAX's own compilation cache directory; None when there is none, or none on this machine's disk."""
    directory = jax.config.values["jax_compilation_cache_dir"]
    if not directory or "://" in directory:
        return None
    return Executables(config, Path(directory) / "executables")


def entry_key(config: Config, name: str, devices: Sequence[jax.Device], args: tuple) -> str:
    """sha256 in hex of everything that a step's executable depends on."""
    leaves, structure = jax.tree.flatten(args)
    parts = {
        "config": to_json(config),
        "step": name,
        "arguments": [str(structure), *map(_described, leaves)],
        "devices": [len(jax.devices()), *(f"{d.id} {d.device_kind}" for d in devices)],
        "machine": _machine(),
        "sources": _sources(),
        "versions": [importlib.metadata.version(library) for library in LIBRARIES],
        "flags": [os.environ.get(flag) for flag in FLAGS],
        "settings": {k: repr(v) for k, v in jax.config.values.items() if "cache" not in k},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _described(x: Any) -> str:
    """An argument's shape, dtype and place."""
    place = x.sharding.devices_indices_map(x.shape) if isinstance(x, jax.Array) else "host"
    return f"{jax.typeof(x)} {getattr(x, 'weak_type', False)} {getattr(x, 'committed', False)} {place}"


def _machine() -> str:
    """The platform's version, and what the host's processor can do: on CPU, code is compiled for just that."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text("utf-8").splitlines() if cpu.is_file() else [platform.processor()]
    able = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    client = jax.devices()[0].client
    return "\n".join([platform.platform(), client.platform, client.platform_version, *able])


@functools.cache
def _sources() -> str:
    """A digest of this package's sources: another program must never answer for the one that is written here."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(package)} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _is_own(directory: Path) -> bool:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = directory.stat()
    except OSError as error:
        logger.warning("no executables are kept: %s", error)
        return False
    if facts.st_uid == os.geteuid() and not facts.st_mode & WRITABLE_BY_OTHERS:
        return True
    logger.warning("no executables are kept in %s: others may write there (chmod 700, as its owner)", directory)
    return False


_compiling = threading.Lock()


@contextmanager
def _compiled_anew() -> Iterator[None]:
    """Compile without JAX's own cache: what XLA:CPU loads from there it can run, but not write again whole.

    (jaxlib 0.10.2: such an executable, written and loaded once more, lacks kernels and fails when it is run.)
    """
    with _compiling:
        enabled = jax.config.values["jax_enable_compilation_cache"]
        try:
            jax.config.update("jax_enable_compilation_cache", False)
            compilation_cache.reset_cache()  # JAX looks at the setting only once otherwise
            yield
        finally:
            jax.config.update("jax_enable_compilation_cache", enabled)
            compilation_cache.reset_cache()


def _load(path: Path, key: str, devices: Sequence[jax.Device]) -> Callable[..., Any] | None:
    """The executable of an entry; None when there is none, or, with a warning, when it cannot be used."""
    if not path.exists():
        return None
    try:
        payload = _payload(path.read_bytes(), key)
        executable, inputs, outputs = pickle.loads(payload)  # noqa: S301 - whole, and only its owner can have written it
        program = serialize_executable.deserialize_and_load(
            executable, inputs, outputs, backend=devices[0].client, execution_devices=devices
        )
        os.utime(path)
    except Exception as error:  # noqa: BLE001 - an entry saves time and nothing else, whatever is wrong with it
        logger.warning("%s cannot be used (%s); compiling anew", path, error)
        return None
    return program


def _payload(data: bytes, key: str) -> bytes:
    """What an entry holds, if it is whole and the one that was asked for; ValueError otherwise."""
    head = MAGIC + key.encode()
    digest, payload = data[len(head) :][:DIGEST_BYTES], data[len(head) + DIGEST_BYTES :]
    if not data.startswith(head):
        raise ValueError("another program's entry, or none")
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError("damaged or cut short")
    return payload


def _store(path: Path, key: str, program: jax.stages.Compiled) -> None:
    """Write an entry, whole or not at all; a warning when it cannot be written."""
    try:
        payload = pickle.dumps(serialize_executable.serialize(program))
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as part:
            part.write(MAGIC + key.encode() + hashlib.sha256(payload).digest() + payload)
        Path(part.name).replace(path)
    except Exception as error:  # noqa: BLE001 - the program is there, and runs without being kept
        logger.warning("%s cannot be kept: %s", path, error)


def _prune(directory: Path) -> None:
    entries = sorted(directory.glob("[!.]*"), key=lambda path: path.stat().st_mtime)
    for path in entries[:-MAX_ENTRIES]:
        path.unlink(missing_ok=True)
