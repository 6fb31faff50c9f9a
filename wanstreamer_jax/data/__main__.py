r"""Sessions to train on: checked, prepared, counted, brought in from elsewhere, looked at, made.

    python -m wanstreamer_jax.data world    --output sessions --sessions 100 --seconds 20
    python -m wanstreamer_jax.data validate sessions
    python -m wanstreamer_jax.data prepare  --input sessions --preset tiny --output dataset
    python -m wanstreamer_jax.data stats    dataset
    python -m wanstreamer_jax.data sheet    sessions/train-00000000 --output sheet.png
    python -m wanstreamer_jax.data import moshi --input data.jsonl --licence CC-BY-4.0 --output sessions

A session folder holds user.mp4, agent.mp4, words.jsonl and session.json; docs/data.md says what is in them.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from wanstreamer_jax.agent import Agent, load_agent
from wanstreamer_jax.data.dataset import MANIFEST, Dataset
from wanstreamer_jax.data.errors import DataError, Problem
from wanstreamer_jax.data.folder import read_session, session_folders
from wanstreamer_jax.data.from_folder import from_folder
from wanstreamer_jax.data.importers.run import FORMATS, import_sessions
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.prepare import Job, prepare
from wanstreamer_jax.data.record import Record
from wanstreamer_jax.data.sheet import draw_sheet
from wanstreamer_jax.data.stats import gather, table
from wanstreamer_jax.data.validate import problems_of
from wanstreamer_jax.data.world import Split, World, write_sessions
from wanstreamer_jax.presets import load_preset
from wanstreamer_jax.timeline import UNIT_MS, Picture, n_units
from wanstreamer_jax.tokens import Tokenizer, fresh_tokenizer

BAD_INPUT, INTERRUPTED = 2, 130
Number = TypeVar("Number", int, float)
RECORD_S = 60.0  # of the longest record


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line options; exits with 2 and one line when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m wanstreamer_jax.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    validate = commands.add_parser(
        "validate", help="all that is wrong with session folders, with file, time and reason"
    )
    validate.add_argument("input", type=Path, metavar="DIR", help="a session folder, or a directory of them")
    validate.add_argument("--quick", action="store_true", help="do not decode the films, only look at their packets")
    _add_prepare(commands.add_parser("prepare", help="session folders to ArrayRecord shards and dataset.json"))
    stats = commands.add_parser("stats", help="hours, turns, words, overlap, loudness, tokens a unit, licences")
    stats.add_argument("input", type=Path, metavar="DIR", help="a dataset, a session folder, or a directory of them")
    stats.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too (times in seconds)")
    _add_layout(stats)
    _add_import(commands.add_parser("import", help="recordings that people have, to session folders"))
    _add_sheet(commands.add_parser("sheet", help="a session as a picture: both pictures, both sounds, all words"))
    _add_world(commands.add_parser("world", help="session folders of the synthetic world"))
    return parser.parse_args(argv)


def _add_layout(command: argparse.ArgumentParser) -> None:
    command.add_argument("--preset", metavar="NAME", help="picture sizes and text limits (default: tiny)")
    command.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json (default: one token a byte)")


def _add_prepare(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", type=Path, required=True, metavar="DIR", help="a directory of session folders")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="dataset to write")
    _add_layout(command)
    command.add_argument("--agent", type=Path, metavar="DIR", help="with its tokenizer, and with latents of its VAEs")
    command.add_argument(
        "--record-seconds", type=_seconds, default=RECORD_S, metavar="S", help="longest record (default: 60)"
    )
    command.add_argument(
        "--shard-mb", type=_count, default=256, metavar="MIB", help="of a shard before compression (default: 256)"
    )
    command.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="processes that check sessions ahead (default: 1)"
    )
    command.add_argument("--skip", type=int, default=0, metavar="N", help="leave out up to N bad sessions (default: 0)")
    command.add_argument("--overwrite", action="store_true", help="replace --output where it is a dataset")


def _add_import(command: argparse.ArgumentParser) -> None:
    about = "; ".join(f"{name}: {layout.about}" for name, layout in FORMATS.items())
    command.add_argument("format", choices=list(FORMATS), metavar="FORMAT", help=about)
    command.add_argument("--input", type=Path, required=True, metavar="PATH", help="where the recordings are")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="where session folders go")
    command.add_argument(
        "--licence", metavar="NAME", help="of the recordings, as SPDX writes it (default: the corpus's)"
    )


def _add_sheet(command: argparse.ArgumentParser) -> None:
    command.add_argument("input", type=Path, metavar="DIR", help="a session folder or a dataset")
    command.add_argument("--record", type=int, default=0, metavar="I", help="of a dataset: which record (default: 0)")
    command.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="picture to write: .png, .svg, .pdf"
    )
    _add_layout(command)


def _add_world(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="where session folders go")
    command.add_argument("--sessions", type=_count, required=True, metavar="N", help="how many")
    command.add_argument(
        "--seconds", type=_seconds, default=20.0, metavar="S", help="of each, rounded up to units (default: 20)"
    )
    command.add_argument("--split", type=Split, choices=list(Split), default=Split.TRAIN, help="default: train")
    command.add_argument("--first-seed", type=int, default=0, metavar="N", help="seeds go on from there (default: 0)")
    command.add_argument("--preset", metavar="NAME", default="tiny", help="picture sizes (default: tiny)")
    command.add_argument("--workers", type=_count, default=1, metavar="N", help="processes (default: 1)")


def _seconds(text: str) -> float:
    """A duration above 0."""
    return _above_0(float, text)


def _count(text: str) -> int:
    """A number of things, at least 1."""
    return _above_0(int, text)


def _above_0(kind: Callable[[str], Number], text: str) -> Number:
    try:
        value = kind(text)
    except ValueError:
        value = kind("0")
    if not 0 < value < sys.maxsize:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def run_validate(args: argparse.Namespace) -> int:
    """Every problem of every folder on a line; 2 when there is one."""
    folders = session_folders(args.input)
    n_problems = n_bad = 0
    for folder in tqdm(folders, desc="validate", unit=" sessions"):
        problems = problems_of(folder, decode=not args.quick)
        n_bad, n_problems = n_bad + bool(problems), n_problems + len(problems)
        for problem in problems:
            tqdm.write(str(problem), file=sys.stdout)
    print(f"{len(folders)} sessions, {n_bad} with problems, {n_problems} problems")
    return BAD_INPUT if n_problems else 0


def run_prepare(args: argparse.Namespace) -> int:
    """Session folders to a dataset."""
    agent = load_agent(args.agent) if args.agent else None
    layout, tokenizer = _layout(args, agent)
    job = Job(
        source=args.input,
        output=args.output,
        layout=layout,
        tokenizer=tokenizer,
        agent=agent,
        units_per_record=n_units(args.record_seconds),
        shard_bytes=args.shard_mb * 2**20,
        workers=args.workers,
        most_refused=args.skip,
        overwrite=args.overwrite,
    )
    counts, problems = prepare(job)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(
        f"{args.output}: {counts.sessions} sessions, {counts.records} records, {counts.seconds / 3600:.3f} h, "
        f"{counts.words} words, of which the text of {counts.words_moved} moved on to later units and "
        f"{counts.tokens_left_over} tokens did not fit into their session"
    )
    return 0


def run_stats(args: argparse.Namespace) -> int:
    """The numbers, as a table."""
    stats = gather(_records(args))
    print(table(stats))
    if args.json:
        args.json.write_text(json.dumps(stats.to_json(), indent=1) + "\n", encoding="utf-8")
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Recordings to session folders; 2 when there is anything wrong with some."""
    done = import_sessions(args.format, args.input, args.output, args.licence)
    for problem in done.problems:
        print(problem, file=sys.stderr)
    print(
        f"{args.output}: {done.n_written} sessions written, {done.n_kept} were there; {done.n_shortened} words end "
        f"earlier than their alignment says, where the next begins; {len(done.problems)} problems"
    )
    return BAD_INPUT if done.problems else 0


def run_sheet(args: argparse.Namespace) -> int:
    """A session as a picture."""
    if (args.input / MANIFEST).exists():
        dataset = Dataset(args.input)
        if not 0 <= args.record < len(dataset):
            raise DataError(Problem(args.input, f"has records 0 to {len(dataset) - 1}, no {args.record}"))
        records = [dataset[args.record]]
    else:
        layout, tokenizer = _layout(args)
        shown = dataclasses.replace(layout, agent_picture=Picture(256, 144), user_picture=Picture(256, 144))
        records = list(_made(args.input, tokenizer, shown))
    draw_sheet(records, args.output)
    print(args.output)
    return 0


def run_world(args: argparse.Namespace) -> int:
    """Session folders of the synthetic world."""
    config = load_preset(args.preset)
    world = World(
        split=args.split, seconds=args.seconds, user_picture=config.vision.picture, agent_picture=config.picture
    )
    seeds = range(args.first_seed, args.first_seed + args.sessions)
    args.output.mkdir(parents=True, exist_ok=True)
    written = write_sessions(args.output, seeds, world, args.workers)
    n = sum(1 for _ in tqdm(written, total=args.sessions, desc="world", unit=" sessions"))
    print(f"{args.output}: {n} sessions of {n_units(args.seconds) * UNIT_MS / 1000:g} s")
    return 0


def _layout(args: argparse.Namespace, agent: Agent | None = None) -> tuple[Layout, Tokenizer]:
    """The layout of a preset, of an agent, or of both when they agree."""
    if agent is None:
        config = load_preset(args.preset or "tiny")
        tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else fresh_tokenizer(config)
        tokenizer.check_fits(config)
        return Layout.of(config, tokenizer), tokenizer
    layout = Layout.of(agent.config, agent.tokenizer)
    if args.tokenizer:
        raise DataError(Problem(args.tokenizer, "an agent has a tokenizer of its own: leave --tokenizer out"))
    if args.preset:
        reasons = Layout.of(load_preset(args.preset), agent.tokenizer).differences(layout)
        if reasons:
            raise DataError(Problem(args.agent, f"does not fit the preset {args.preset}: {'; '.join(reasons)}"))
    return layout, agent.tokenizer


def _records(args: argparse.Namespace) -> Iterator[Record]:
    """The records of a dataset, or of session folders."""
    if (args.input / MANIFEST).exists():
        dataset = Dataset(args.input)
        yield from (dataset[i] for i in tqdm(range(len(dataset)), desc="stats", unit=" records"))
        return
    layout, tokenizer = _layout(args)
    for folder in tqdm(session_folders(args.input), desc="stats", unit=" sessions"):
        yield from _made(folder, tokenizer, layout)


def _made(folder: Path, tokenizer: Tokenizer, layout: Layout) -> Iterator[Record]:
    return from_folder(read_session(folder), tokenizer, layout, n_units(RECORD_S)).records


COMMANDS = {
    "validate": run_validate,
    "prepare": run_prepare,
    "stats": run_stats,
    "import": run_import,
    "sheet": run_sheet,
    "world": run_world,
}


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    args = parse_args(argv)
    try:
        return COMMANDS[args.command](args)
    except (ValueError, OSError, RuntimeError) as error:  # bad input; its message says what, where and what to do
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; what was begun has been removed, what was finished is kept", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
