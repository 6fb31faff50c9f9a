"""An agent directory: everything that is needed to serve an agent, verified before any of it is used.

    config.json              the configuration (`wanstreamer_jax.config`)
    tokenizer.json           the language model's own tokenizer
    transformer.safetensors  the parameters, one file a part; a tensor's name is its path, "blocks.0.kernel"
    perception.safetensors
    video_vae.safetensors
    audio_vae.safetensors
    manifest.json            size and sha256 of each file above, versions, what was trained, where it came from,
                             its own sha256

A directory is written beside its place and renamed into it, so that there is never half of one. Nothing here
unpickles: a pickle can run code when it is opened, and is refused by its content, whatever its name.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

import wanstreamer_jax
from wanstreamer_jax.config import Config, from_json, to_json
from wanstreamer_jax.files import check_replaceable, file_sha256s, is_pickle, pending_directory
from wanstreamer_jax.model import init_params
from wanstreamer_jax.tokens import Tokenizer, fresh_tokenizer

FORMAT = 1  # of the directory; raised when an older reader could not understand a newer one
PARTS = ("transformer", "perception", "video_vae", "audio_vae")
CONFIG, TOKENIZER, MANIFEST = "config.json", "tokenizer.json", "manifest.json"
FILES = (CONFIG, TOKENIZER, *(f"{part}.safetensors" for part in PARTS))
IGNORED = ("README.md", "LICENSE")  # and what is hidden: people keep notes beside their weights

NARROW = ("BF16", "F16")  # of safetensors
Tensor = tuple[str, tuple[int, ...]]  # dtype in the words of safetensors, shape


class AgentError(ValueError):
    """An agent directory that cannot be used; the message names the file and the reason."""


@dataclasses.dataclass(frozen=True, eq=False)
class Agent:
    """What can be served: `params` has one plain nested dict of arrays for each of PARTS."""

    config: Config
    params: dict[str, Any]
    tokenizer: Tokenizer
    trained: bool
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # a summary, in JSON's types
    sources: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # public checkpoints by family, see `convert`

    def with_solver_steps(self, solver_steps: int | None) -> "Agent":
        """The same agent with another number of solver steps; None leaves it its own."""
        if solver_steps is None:
            return self
        return dataclasses.replace(self, config=self.config.with_solver_steps(solver_steps))


def init_agent(config: Config, seed: int) -> Agent:
    """An untrained agent with a tokenizer of words or bytes; the same seed gives the same one."""
    tokenizer = fresh_tokenizer(config)
    params = jax.jit(functools.partial(init_params, config, seed))()
    return Agent(config, params, tokenizer, trained=False)


def save_agent(directory: Path | str, agent: Agent, *, overwrite: bool = False) -> None:
    """Write an agent directory, whole or not at all.

    Raises AgentError when the directory exists (with `overwrite`: when it is no agent directory) and when the agent
    is one that `load_agent` would refuse.
    """
    directory = Path(directory).absolute()
    _read(directory, lambda path: check_replaceable(path, MANIFEST, overwrite=overwrite))
    _check_agent(directory, agent)
    with pending_directory(directory) as fresh:
        _write_params(fresh, agent.params)
        complete(fresh, agent)


def load_agent(directory: Path | str) -> Agent:
    """Open an agent directory; its arrays are numpy's, in the dtypes in which they are computed.

    Raises AgentError with the file and the reason: a file missing, surplus, changed or cut short; a pickle; JSON that
    is none; an unknown field or a newer format; a tokenizer too large for the model; tensors missing, surplus, or of
    another shape or dtype than the configuration asks for, all of them in one error.
    """
    directory = Path(directory)
    manifest = verify(directory)
    config = _read(directory / CONFIG, lambda path: from_json(path.read_text(encoding="utf-8")))
    tokenizer = _read(directory / TOKENIZER, Tokenizer.load)
    _read(directory / TOKENIZER, lambda _: tokenizer.check_fits(config))
    params = _read_params(directory, config)
    return Agent(config, params, tokenizer, manifest["trained"], manifest["training"], manifest["sources"])


def verify(directory: Path) -> dict[str, Any]:
    """Check that a directory holds an agent's files, none changed; returns its manifest. Raises AgentError."""
    _check(directory.is_dir(), directory, "not a directory" if directory.exists() else "no such directory")
    _check_listing(directory)
    manifest = _read_manifest(directory / MANIFEST)
    _check_contents(directory, manifest["files"])
    return manifest


# ---- What an agent must hold


def _expected(config: Config) -> dict[str, Any]:
    """The parts' parameters as shapes and dtypes, from the model itself."""
    return jax.eval_shape(functools.partial(init_params, config, 0))


def _named(tree: Any) -> dict[str, Any]:
    """The leaves of a part by dotted path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _described(tree: Any) -> dict[str, Tensor]:
    """Dtype and shape of each tensor of a part."""
    names = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
    leaves = _named(tree).items()
    return {name: (names.get(leaf.dtype.name, leaf.dtype.name), tuple(leaf.shape)) for name, leaf in leaves}


def differing_parameters(a: Config, b: Config) -> list[str]:
    """Names of the parameters that agents of two configurations have in other shapes or dtypes, or one has not."""
    ours, theirs = (_described(_expected(config)) for config in (a, b))
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def _differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> Iterator[str]:
    """One line for every tensor that is not as it should be."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield f"{name}: missing"
        elif name not in expected:
            yield f"{name}: surplus"
        elif not _fits(found[name], expected[name]):
            yield f"{name}: {_words(found[name])}, expected {_words(expected[name])}"


def _fits(found: Tensor, expected: Tensor) -> bool:
    """As expected, or stored in half the bits of a float32, which come back exactly when they are read."""
    return found == expected or (found[0] in NARROW and expected[0] == "F32" and found[1] == expected[1])


def _words(tensor: Tensor) -> str:
    dtype, shape = tensor
    return f"{dtype} {list(shape)}"


def _check(holds: bool, path: Path, reason: str) -> None:
    if not holds:
        raise AgentError(f"{path}: {reason}")


def _read(path: Path, read: Any) -> Any:
    """`read(path)`, with any complaint about its contents named after the file."""
    try:
        return read(path)
    except (ValueError, RecursionError, OSError, safetensors.SafetensorError) as error:
        raise AgentError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


# ---- Reading


def _check_listing(directory: Path) -> None:
    """The directory has its files, nothing else, and no pickle."""
    needed = {*FILES, MANIFEST}
    present = {path.name for path in directory.iterdir() if not (path.name.startswith(".") or path.name in IGNORED)}
    pickles = [name for name in sorted(present) if _read(directory / name, is_pickle)]
    _check(not pickles, directory, f"{', '.join(pickles)}: a pickle, which can run code when it is opened; refused")
    missing, surplus = sorted(needed - present), sorted(present - needed)
    _check(not missing, directory, f"missing {', '.join(missing)}")
    _check(not surplus, directory, f"surplus {', '.join(surplus)}")
    for name in needed:
        _check((directory / name).is_file(), directory / name, "not a file")


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = _read(path, lambda p: json.loads(p.read_text(encoding="utf-8")))
    _check(isinstance(manifest, dict) and isinstance(manifest.get("format"), int), path, "no manifest of an agent")
    _check(
        manifest["format"] <= FORMAT,
        path,
        f"written in format {manifest['format']} by a newer wanstreamer_jax; this one reads up to {FORMAT}",
    )
    kinds = {"format": int, "files": dict, "versions": dict, "trained": bool, "training": dict, "sources": dict}
    kinds |= {"sha256": str}
    fits = manifest.keys() == kinds.keys() and all(type(manifest[k]) is kind for k, kind in kinds.items())
    _check(fits, path, f"no manifest of an agent: needs exactly {', '.join(kinds)}")
    _check(manifest["sha256"] == _seal(manifest), path, "its sha256 is not the one it holds: the file is damaged")
    _check(manifest["files"].keys() == set(FILES), path, f"must list exactly {', '.join(FILES)}")
    return manifest


def _seal(manifest: dict[str, Any]) -> str:
    """Sha256 of what a manifest says besides its own sha256."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check_contents(directory: Path, listed: dict[str, Any]) -> None:
    """Every file has the size and the sha256 that the manifest lists."""
    for name in FILES:
        found, noted = (directory / name).stat().st_size, listed[name]
        _check(isinstance(noted, dict) and noted.keys() == {"bytes", "sha256"}, directory / MANIFEST, f"bad {name}")
        reason = f"{found} bytes, but {MANIFEST} says {noted['bytes']}: cut short or changed"
        _check(found == noted["bytes"], directory / name, reason)
    for name, digest in _digests(directory).items():
        reason = f"its sha256 is not the one in {MANIFEST}: the file is damaged or changed"
        _check(digest == listed[name]["sha256"], directory / name, reason)


def _digests(directory: Path) -> dict[str, str]:
    """Sha256 of each file."""
    return dict(zip(FILES, file_sha256s(directory / name for name in FILES), strict=True))


def _read_params(directory: Path, config: Config) -> dict[str, Any]:
    """All parts' parameters; every header is checked before the first array is read."""
    expected = _expected(config)
    paths = {part: directory / f"{part}.safetensors" for part in PARTS}
    wrong = [
        f"{path}: {line}"
        for part, path in paths.items()
        for line in _differences(_described(expected[part]), _read(path, _read_header))
    ]
    if wrong:
        raise AgentError("\n".join(wrong))
    return {part: _read_part(path, expected[part]) for part, path in paths.items()}


def _read_header(path: Path) -> dict[str, Tensor]:
    with safetensors.safe_open(path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}


def _read_part(path: Path, expected: Any) -> Any:
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays = [file.get_tensor(name).astype(leaf.dtype, copy=False) for name, leaf in _named(expected).items()]
    return jax.tree.unflatten(jax.tree.structure(expected), arrays)


# ---- Writing


def _check_agent(directory: Path, agent: Agent) -> None:
    _read(directory / TOKENIZER, lambda _: agent.tokenizer.check_fits(agent.config))
    _check(agent.params.keys() == set(PARTS), directory, f"needs exactly the parts {', '.join(PARTS)}")
    expected = _expected(agent.config)
    for part in PARTS:
        wrong = _differences(_described(expected[part]), _described(agent.params[part]))
        _check(not (lines := "\n".join(wrong)), directory / f"{part}.safetensors", lines)


def _write_params(directory: Path, params: Mapping[str, Any]) -> None:
    for part in PARTS:
        # safetensors writes an array's memory as it lies, so it must lie row by row.
        arrays = {name: np.asarray(leaf, order="C") for name, leaf in _named(params[part]).items()}
        safetensors.numpy.save_file(arrays, directory / f"{part}.safetensors")


def complete(directory: Path, agent: Agent) -> None:
    """Write all but the parameters, which lie in `directory` already; what `agent.params` holds is not looked at."""
    (directory / CONFIG).write_text(to_json(agent.config) + "\n", encoding="utf-8")
    agent.tokenizer.save(directory / TOKENIZER)
    for part in PARTS:  # safetensors writes files that only their owner can read
        (directory / f"{part}.safetensors").chmod((directory / CONFIG).stat().st_mode)
    digests = _digests(directory)
    manifest = {
        "format": FORMAT,
        "files": {name: {"bytes": (directory / name).stat().st_size, "sha256": digests[name]} for name in FILES},
        "versions": _versions(),
        "trained": agent.trained,
        "training": dict(agent.training),
        "sources": dict(agent.sources),
    }
    sealed = manifest | {"sha256": _seal(manifest)}
    (directory / MANIFEST).write_text(json.dumps(sealed, indent=2) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    libraries = {name: importlib.metadata.version(name) for name in ("jax", "flax", "safetensors", "tokenizers")}
    return {"wanstreamer_jax": wanstreamer_jax.__version__} | libraries
