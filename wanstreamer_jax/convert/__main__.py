r"""Public checkpoints in and out.

    python -m wanstreamer_jax.convert qwen3    --input Qwen3-0.6B --output parts/qwen3
    python -m wanstreamer_jax.convert wan-vae  --input Wan2.1-VAE --output parts/wan-vae
    python -m wanstreamer_jax.convert mimi     --input mimi       --output parts/mimi
    python -m wanstreamer_jax.convert siglip2  --input siglip2    --output parts/siglip2
    python -m wanstreamer_jax.convert assemble --transformer parts/qwen3 --video-vae parts/wan-vae \
        --audio-vae parts/mimi --vision parts/siglip2 --preset v02_640x368 --output agent
    python -m wanstreamer_jax.convert export qwen3 --input agent --output out/qwen3

Weights are read from safetensors only. What is written appears when it is complete, or not at all.
"""

import argparse
import sys
from pathlib import Path

import jax

from wanstreamer_jax.convert.assemble import FAMILY_OF, Parts, Row, assemble
from wanstreamer_jax.convert.checkpoint import Checkpoint
from wanstreamer_jax.convert.export import export
from wanstreamer_jax.convert.families import FAMILIES
from wanstreamer_jax.convert.hub import download
from wanstreamer_jax.convert.part import read_part, write_part
from wanstreamer_jax.presets import load_preset

BAD_INPUT, INTERRUPTED = 2, 130


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line options; exits with 2 and one line when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m wanstreamer_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, family in FAMILIES.items():
        _add_import(commands.add_parser(name, help=f"a public checkpoint to a part; published at {family.safetensors}"))
    _add_assemble(commands.add_parser("assemble", help="four parts to an agent directory; new layers from a seed"))
    _add_export(commands.add_parser("export", help="a part, or a part of an agent, back to its public layout"))
    for command in commands.choices.values():
        command.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory to write")
        command.add_argument("--overwrite", action="store_true", help="replace --output where it is of the same kind")
    return parser.parse_args(argv)


def _add_import(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", type=Path, metavar="PATH", help="a directory, a safetensors file or an index of shards"
    )
    source.add_argument("--repo", metavar="OWNER/NAME", help="a repository of the Hugging Face Hub")
    command.add_argument("--revision", default="main", help="of --repo: a commit, tag or branch (default: main)")
    command.add_argument("--folder", default="", help="of --repo: the folder with the weights (default: its top)")


def _add_assemble(command: argparse.ArgumentParser) -> None:
    for role, name in FAMILY_OF.items():
        command.add_argument(
            f"--{role.replace('_', '-')}", type=Path, required=True, metavar="DIR", help=f"a part made by `{name}`"
        )
    command.add_argument(
        "--preset",
        default="v02_640x368",
        metavar="NAME",
        help="picture, history and clock: a preset or the path of one",
    )
    command.add_argument("--seed", type=int, default=0, help="of the layers that no part has (default: 0)")


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", choices=list(FAMILIES), help="which public layout")
    command.add_argument("--input", type=Path, required=True, metavar="DIR", help="a part or an agent directory")
    command.add_argument(
        "--rest", type=Path, metavar="PATH", help="the original checkpoint, for the tensors that were left behind"
    )


def run_import(args: argparse.Namespace) -> None:
    """A public checkpoint to a part."""
    family, revision = FAMILIES[args.command], ""
    path, origin = args.input, ""
    if args.repo:
        path, revision = download(args.repo, args.revision, args.folder)
        origin = "/".join(filter(None, (args.repo, args.folder)))
    part = write_part(Checkpoint(path, family, origin, revision), family, args.output, overwrite=args.overwrite)
    print(f"{args.output}: {len(part.tensors)} tensors, {part.n_params:,} parameters")


def run_assemble(args: argparse.Namespace) -> None:
    """Four parts to an agent."""
    parts = Parts(**{role: read_part(getattr(args, role), FAMILIES[name]) for role, name in FAMILY_OF.items()})
    rows = assemble(parts, load_preset(args.preset), args.seed, args.output, overwrite=args.overwrite)
    n_params = sum(row.n_params for row in rows)
    print(f"{summary(rows)}\n{args.output}: an agent of {n_params:,} parameters; new layers are of seed {args.seed}")


def summary(rows: list[Row]) -> str:
    """What came from where and what is new, as a table."""
    cells = [("layers", "from", "tensors", "parameters")]
    cells += [(row.layers, row.source, f"{row.n_tensors:,}", f"{row.n_params:,}") for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(4)]
    return "\n".join(
        f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in cells
    )


def run_export(args: argparse.Namespace) -> None:
    """A part back to its public layout."""
    family = FAMILIES[args.model]
    rest = Checkpoint(args.rest, family) if args.rest else {}
    done = export(args.input, family, args.output, rest, overwrite=args.overwrite)
    print(f"{args.output}: {done.n_tensors} tensors of {args.model}")
    if done.left_behind:
        print(f"{len(done.left_behind)} tensors were left behind when it came in; --rest ORIGINAL puts them back")


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    args = parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # weights are moved, hardly anything is computed
    commands = {"assemble": run_assemble, "export": run_export}
    try:
        commands.get(args.command, run_import)(args)
    except (ValueError, OSError) as error:  # bad input of any kind; its message says what, where and what to do
        print(f"convert: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("convert: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
