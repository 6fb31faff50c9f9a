"""Train a stage of an agent: `python train.py configs/tiny.py --stage video_vae --workdir DIR`.

A run that was ended, by whatever, goes on from its newest checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from wanstreamer_jax.compilations import remember_compilations
from wanstreamer_jax.cpu import take_cores, use_large_pages
from wanstreamer_jax.presets import load_preset, load_training
from wanstreamer_jax.training.config import MeshShape, Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.hosts import Address, connect
from wanstreamer_jax.training.overrides import describe, override, parse_overrides
from wanstreamer_jax.training.recipe import run_recipe

if TYPE_CHECKING:
    from wanstreamer_jax.training.loop import Job

USAGE_ERROR, INTERRUPTED = 2, 130
ALL = "all"  # stages


def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Options, and what is left: fields to override."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_fields(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("preset", metavar="PRESET", help="a file of configs/, or its name")
    stages = "video_vae, audio_vae, hearing, seeing, pretrain, interact or distill; all: the preset's recipe"
    add("--stage", required=True, metavar="STAGE", help=stages)
    add("--workdir", type=Path, required=True, metavar="DIR", help="where checkpoints, metrics and samples go")
    add("--data", type=Path, metavar="DIR", help="prepared recordings; without, sessions of the synthetic world")
    add("--agent", type=Path, metavar="DIR", help="the agent to start from; without, fresh parameters of the preset")
    add("--export", type=Path, metavar="DIR", help="where the trained agent goes (default: WORKDIR/agent)")
    add("--tensorboard", action="store_true", help="write TensorBoard's files into WORKDIR/tensorboard too")
    add("--coordinator", metavar="HOST:PORT", help="several hosts: where process 0 is; Slurm and Open MPI say it alone")
    add("--processes", type=int, metavar="N", help="several hosts: how many processes there are")
    add("--process", type=int, metavar="I", help="several hosts: which of them this is, from 0")
    return parser.parse_known_args(argv)


def _fields() -> str:
    lines = describe(Training(weights=None))
    return "fields (defaults; a preset sets its own, and --agent.FIELD those of the agent):\n" + "\n".join(lines)


def prepare(args: argparse.Namespace, fields: list[str]) -> Job:
    """What is asked for.

    Raises:
        ValueError: a stage, preset, field or directory is not there or does not fit.
    """
    from wanstreamer_jax.training.loop import Job
    from wanstreamer_jax.training.origin import open_origin
    from wanstreamer_jax.training.stages import find_stage

    stage, settings, values = find_stage(args.stage), load_training(args.preset), parse_overrides(fields)
    if stage.name not in settings:
        raise TrainingError(f"{args.preset}: has no settings for stage {stage.name!r}; it has {', '.join(settings)}")
    of_agent = {name.removeprefix("agent."): value for name, value in values.items() if name.startswith("agent.")}
    rest = {name: value for name, value in values.items() if not name.startswith("agent.")}
    training = override(settings[stage.name], rest)
    if training.mesh == MeshShape() and not jax.distributed.is_initialized():
        take_cores(training.batch // max(1, training.accumulation))
    origin = open_origin(args.agent, load_preset(args.preset), training.seed)
    origin = origin.changed(override(origin.config, of_agent))
    return Job(stage, training, origin, args.workdir, args.data, args.export, args.tensorboard)


def _address(args: argparse.Namespace) -> Address | None:
    given = args.coordinator, args.processes, args.process
    if given == (None, None, None):
        return None
    if None in given:
        raise TrainingError("--coordinator, --processes and --process go together")
    return Address(*given)


def _run_all(args: argparse.Namespace, fields: list[str]) -> int:
    """Every stage of the preset's recipe; returns the exit code."""
    own = {"stage", "preset", "workdir"}
    if more := fields + [f"--{name}" for name, value in vars(args).items() if name not in own and value]:
        raise TrainingError(f"{more[0]} goes with one stage: change the recipe in {args.preset}, or name the stage")
    return run_recipe(args.preset, args.workdir, [sys.executable, __file__])


def main() -> int:
    """Run; returns the exit code."""
    args, fields = parse_args()
    remember_compilations()
    try:
        if args.stage == ALL:
            return _run_all(args, fields)
        connect(_address(args))
        from wanstreamer_jax.training.loop import train

        train(prepare(args, fields))
    except (ValueError, OSError) as error:  # bad input of any kind; its message says what, where and what to do
        print(f"train.py: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    use_large_pages()
    sys.exit(main())
