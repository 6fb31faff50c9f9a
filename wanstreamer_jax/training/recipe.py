"""All stages of an agent, one after the other: each in a process of its own, from the agent that the last one left.

    WORKDIR/1_video_vae/  WORKDIR/2_audio_vae/  ...    a run each, as `train.py --stage` leaves it

What has ended is not done again, and what was cut off goes on where it stood. A stage begins when every gate of the
one before is reached.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wanstreamer_jax.presets import load_recipe
from wanstreamer_jax.training.config import Phase
from wanstreamer_jax.training.errors import TrainingError

PASSED_ON = (signal.SIGINT, signal.SIGTERM)


def run_recipe(preset: str, workdir: Path, program: Sequence[str]) -> int:
    """Run what is left to do of a preset's recipe by `program`, the command of `train.py`; returns the exit code.

    Raises:
        TrainingError: a gate was not reached.
        ValueError: there is no such preset.
    """
    agent: Path | None = None
    for number, phase in enumerate(load_recipe(preset), 1):
        folder = workdir / f"{number}_{phase.name}"
        if not (folder / "summary.json").exists():
            print(f"---- {folder}", file=sys.stderr, flush=True)
            code = _run([*program, *_arguments(preset, phase, folder, agent)])
            if code or not (folder / "summary.json").exists():  # without one it was asked to stop, and has saved
                return code
        _check(folder)
        agent = folder / "agent"
    print(f"the agent: {agent}", file=sys.stderr)
    return 0


def _arguments(preset: str, phase: Phase, folder: Path, agent: Path | None) -> list[str]:
    start = [] if agent is None else ["--agent", str(agent)]
    return [preset, "--stage", phase.stage, "--workdir", str(folder), *start, *phase.fields]


def _run(command: Sequence[str]) -> int:
    """A process that is told to stop exactly once, however this one is told."""
    with subprocess.Popen(command, start_new_session=True) as process:  # noqa: S603 - train.py, and no shell
        before = {name: signal.signal(name, lambda number, _: process.send_signal(number)) for name in PASSED_ON}
        try:
            return process.wait()
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)


def _check(folder: Path) -> None:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    missed = [gate for gate in summary["gates"] if not gate["passed"]]
    if missed:
        said = "; ".join(f"{gate['measure']} is {gate['value']}" for gate in missed)
        raise TrainingError(
            f"{folder}: ended with gates that were not reached ({said}): what follows would build on sand. "
            f"Change the preset's recipe, remove {folder} and give the same command again"
        )
