"""Checkpoints: whole or not there, verified before they are used.

    checkpoints/step_00000100/
        params/  rest/      Orbax: trainees and their averages; optimiser state, counts
        input.json          where the input stood
        config.json         what was trained, and how
        checksums.json      sha256 of every file above: neither Orbax nor safetensors sees a flipped bit

A checkpoint is written in the background under another name and renamed when its checksums are, so that whatever ends
the program leaves the ones before as they are. Only then are old ones removed.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from wanstreamer_jax.files import file_sha256s
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.hosts import is_primary, said_by_primary
from wanstreamer_jax.training.state import TrainState

CHECKSUMS, CONFIG, INPUT = "checksums.json", "config.json", "input.json"
PENDING, DAMAGED = ".pending", ".damaged"
PARAMS = ("trainees", "ema")  # of a state; the rest is the optimiser's and the loop's


class Saved(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    input_state: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run, in a folder that all hosts share."""

    def __init__(self, folder: Path, keep: int):
        self._folder, self._keep = folder.absolute(), max(2, keep)
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._finisher = ThreadPoolExecutor(1)
        self._saving: Future[None] | None = None
        if is_primary():
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(f"*{PENDING}"):
                shutil.rmtree(leftover)

    # ---- Writing

    def save(self, state: TrainState, input_state: dict[str, Any], about: dict[str, Any]) -> None:
        """Begin to save a state, whose arrays may be donated as soon as this returns.

        Raises:
            TrainingError: this or the last one cannot be written. All older ones are whole.
        """
        self.wait()
        step = int(state.step)
        final = self._folder / f"step_{step:08d}"
        pending = final.with_name(final.name + PENDING)
        if is_primary():
            pending.mkdir()
            write_json(pending / INPUT, input_state)
            write_json(pending / CONFIG, about)
        multihost_utils.sync_global_devices(pending.name)
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        self._orbax.save(pending / "state", ocp.args.Composite(**items))
        self._saving = self._finisher.submit(self._finish, pending, final)

    def _finish(self, pending: Path, final: Path) -> None:
        self._orbax.wait_until_finished()
        if not is_primary():
            return
        write_json(pending / CHECKSUMS, _digests(pending))
        shutil.rmtree(final, ignore_errors=True)
        pending.rename(final)
        for old in list(self._newest_first())[self._keep :]:
            shutil.rmtree(old)

    def check(self) -> None:
        """Raise TrainingError if a save has failed meanwhile."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Wait until what is being saved is there; TrainingError when it cannot be."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        try:
            saving.result()
        except (OSError, ValueError, RuntimeError) as error:  # Orbax and TensorStore raise all three
            kept = next(self._newest_first(), None)
            raise TrainingError(
                f"{self._folder}: a checkpoint cannot be written ({_first_line(error)}); "
                f"the last good one is {kept.name if kept else 'none'}: make room, then start again"
            ) from error

    # ---- Reading

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole. A damaged one is set aside with a warning; None where there is none."""
        found = self._newest_whole() if is_primary() else None
        name = said_by_primary(found.name if found else "")
        return self._folder / name if name else None

    def _newest_whole(self) -> Path | None:
        for path in self._newest_first():
            if not (reason := _damage(path)):
                return path
            print(f"WARNING: {path}: {reason}. It is set aside; the one before it is used.", file=sys.stderr)
            path.rename(_unused(path.with_name(path.name + DAMAGED)))
        return None

    def restore(self, path: Path, like: TrainState) -> Saved:
        """The state of a checkpoint on the shardings of `like`, whatever mesh it was saved from."""
        items = {name: ocp.args.StandardRestore(tree) for name, tree in _items(like).items()}
        restored = self._orbax.restore(path / "state", ocp.args.Composite(**items))
        state = TrainState(**restored["params"], **restored["rest"])
        return Saved(jax.tree.map(_fresh, state), json.loads((path / INPUT).read_text()))

    def _newest_first(self) -> Iterator[Path]:
        yield from sorted((p for p in self._folder.glob("step_*") if not p.suffix), reverse=True)

    def close(self) -> None:
        """Wait for what is being saved, whatever becomes of it."""
        self._finisher.shutdown()
        self._orbax.close()


def read_about(path: Path) -> dict[str, Any]:
    """What a checkpoint says that it is."""
    return json.loads((path / CONFIG).read_text())


def _items(state: TrainState) -> dict[str, dict[str, Any]]:
    fields = state._asdict()
    return {
        "params": {name: fields[name] for name in PARAMS},
        "rest": {name: value for name, value in fields.items() if name not in PARAMS},
    }


def _fresh(x: jax.Array) -> jax.Array:
    """An array in memory of its own: what TensorStore hands over must not be donated."""
    return x.copy()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _unused(path: Path) -> Path:
    names = (path.with_name(f"{path.name}{i or ''}") for i in range(10**6))
    return next(name for name in names if not name.exists())


def _digests(folder: Path) -> dict[str, str]:
    """Sha256 of every file by its path in the folder, several at once."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / CHECKSUMS)
    return dict(zip((str(p.relative_to(folder)) for p in files), file_sha256s(files), strict=True))


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint; empty where nothing is."""
    try:
        listed = json.loads((folder / CHECKSUMS).read_text())
        found = _digests(folder)
    except (OSError, ValueError) as error:
        return f"cannot be read ({_first_line(error)})"
    wrong = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
    return f"{wrong[0]} is damaged, missing or surplus" if wrong else ""
