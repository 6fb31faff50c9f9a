"""Evaluate an agent: it lives held-out sessions of the synthetic world, its own outputs being its history.

What it shows and says is measured in the signals, beside agents that know nothing and the world's own, which knows
everything. See docs/evaluation.md.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from wanstreamer_jax import bundled
from wanstreamer_jax.agent import load_agent
from wanstreamer_jax.compilations import remember_compilations
from wanstreamer_jax.evaluation.layouts import LAYOUTS
from wanstreamer_jax.evaluation.output import Places, make_report, open_output
from wanstreamer_jax.evaluation.plots import pyplot
from wanstreamer_jax.evaluation.recogniser import open_decoder
from wanstreamer_jax.evaluation.report import markdown
from wanstreamer_jax.evaluation.run import MOST_MINUTES, MOST_RUNS, MOST_SESSIONS, Job, evaluate
from wanstreamer_jax.help_text import WithDefaults
from wanstreamer_jax.timeline import UNIT_MS

USAGE_ERROR, INTERRUPTED = 2, 130


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line options; exits with 2 and one line when they are wrong."""
    like = Job()
    parser = argparse.ArgumentParser(
        prog="python -m wanstreamer_jax.evaluate",
        description=__doc__,
        formatter_class=WithDefaults,
    )
    add = parser.add_argument
    add("--agent", type=Path, default=bundled.AGENT, metavar="DIR", help="an agent directory")
    add(
        "--output",
        type=Path,
        default=Path("evaluation"),
        metavar="PATH",
        help="a folder for report.json, report.md, plots and films; or a .json file for the report alone",
    )
    add("--overwrite", action="store_true", help="replace a folder that holds an evaluation")
    add("--sessions", type=int, default=like.sessions, metavar="N", help="held-out sessions")
    add("--seconds", type=float, default=like.seconds, metavar="S", help=f"of a session; whole units of {UNIT_MS} ms")
    add("--seed", type=int, default=like.seed, help="of sessions and noise: one seed, one evaluation")
    add("--batch", type=int, default=like.batch, metavar="B", help="sessions that are lived beside each other")
    add("--workers", type=int, default=like.workers, metavar="N", help="processes that make sessions")
    add("--long-minutes", type=int, default=like.long_minutes, metavar="M", help="of a long run; 0: none")
    add("--long-runs", type=int, default=like.long_runs, metavar="N", help="long runs, beside each other")
    add("--solver-steps", type=int, metavar="S", help=f"per unit of {UNIT_MS} ms (default: the agent's)")
    add("--keep", type=int, default=0, metavar="N", help="sessions to keep as MP4, with both sides")
    add(
        "--layout",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "DIR"),
        help=f"also write all sessions in the file layout of {' or '.join(LAYOUTS)}",
    )
    return parser.parse_args(argv)


def chosen_job(args: argparse.Namespace) -> Job:
    """What the options ask for; ValueError names a number that is out of bounds."""
    bounds = {
        "sessions": (1, MOST_SESSIONS),
        "seed": (0, 2**20),
        "batch": (1, MOST_SESSIONS),
        "workers": (1, MOST_SESSIONS),
        "long_minutes": (0, MOST_MINUTES),
        "long_runs": (1, MOST_RUNS),
        "keep": (0, MOST_SESSIONS),
    }
    for name, (least, most) in bounds.items():
        if not least <= getattr(args, name) <= most:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: from {least} to {most}")
    if not args.seconds >= 1:
        raise ValueError(f"--seconds {args.seconds}: at least 1")
    return Job(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Job)})


def chosen_places(args: argparse.Namespace) -> Places:
    """Where the options want it; ValueError when there is no such layout."""
    for name, _ in args.layout:
        if name not in LAYOUTS:
            raise ValueError(f"--layout {name}: there are {', '.join(LAYOUTS)}")
    return Places(args.output, args.overwrite, args.keep, [(name, Path(folder)) for name, folder in args.layout])


def check_extras() -> None:
    """ValueError when what only an evaluation needs is not installed: before hours of work, not after."""
    try:
        open_decoder()
        pyplot()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def run(args: argparse.Namespace) -> None:
    """Run and write an evaluation; ValueError in one sentence when something does not fit."""
    job, places = chosen_job(args), chosen_places(args)
    check_extras()
    agent = load_agent(args.agent).with_solver_steps(args.solver_steps)
    with open_output(places) as output:
        results = evaluate(agent, job, output.keep)
        report = make_report(args.agent, agent.config, job, results)
        output.write(report)
    print(markdown(report))


def main(argv: list[str] | None = None) -> int:
    """Evaluate; returns the exit code."""
    args = parse_args(argv)
    remember_compilations()
    try:
        run(args)
    except ValueError as error:  # bad input of any kind; its message says what, where and what to do
        print(f"wanstreamer_jax.evaluate: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("\nstopped: nothing has been written", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
