"""Plan a deployment or, with --train, the training of one: what devices must hold, and how long they take.

Of a thinker and its performer ranks: memory, time a unit, bytes exchanged, and whether 160 ms holds. Of training: a row
for each mesh of so many devices, with the memory of a device and the least time of an update of the stage `interact`.
"""

import argparse
import dataclasses
import difflib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from wanstreamer_jax.config import Config
from wanstreamer_jax.planning.beat import Plan, make_plan
from wanstreamer_jax.planning.hardware import BYTES, GPU, GPUS
from wanstreamer_jax.presets import QWEN3, load_preset
from wanstreamer_jax.timeline import UNIT_MS
from wanstreamer_jax.training.config import SessionWeights, Training

USAGE_ERROR = 2
LEGEND = (
    "floor: a silent unit, a full window and no world, at the peaks of the GPU, with nothing to send. expected: all "
    "the text and world that the preset allows, padding, exchanges, and the shares of the peaks that "
    "planning/hardware.py assumes. perform includes its all-to-alls. FLOP and bytes of memory traffic are one "
    "device's. "
    "Training: see docs/planning.md."
)
OF_SERVING, OF_TRAINING = (
    ("ranks", "solver_steps"),
    ("devices", "units", "batch", "accumulation", "compute", "remat", "ema"),
)
ROLES = {"thinker": "the thinker", "rank": "a performer rank"}
Choice = TypeVar("Choice")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line options; exits with 2 and one line when they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m wanstreamer_jax.plan", description=__doc__, epilog=LEGEND)
    add = parser.add_argument
    add("--preset", required=True, metavar="NAME", help="a preset of configs/, or the path of such a file")
    add("--model", metavar="SIZE", help=f"size of Qwen3: {', '.join(QWEN3)} (default: the preset's own)")
    add("--gpu", required=True, metavar="NAME", help=f"every device: {', '.join(GPUS)}")
    add("--ranks", type=int, metavar="R", help="devices of the performer; the thinker has one more")
    add("--solver-steps", type=int, metavar="S", help=f"per unit of {UNIT_MS} ms (default: the preset's)")
    add("--window", type=int, metavar="W", help="history kept, in tokens (default: the preset's)")
    add("--json", action="store_true", help="print JSON: bytes, FLOP, ms, tokens")
    _add_training(parser.add_argument_group("training").add_argument)
    return parser.parse_args(argv)


def _add_training(add: Callable[..., object]) -> None:
    like = Training(weights=SessionWeights())
    add("--train", action="store_true", help="plan the training of `interact`, with latents that were prepared")
    add(
        "--devices",
        type=int,
        nargs="+",
        metavar="N",
        help="GPUs of all nodes, 8 a node; several numbers: several plans",
    )
    add("--units", type=int, metavar="U", help=f"of a window, {UNIT_MS} ms each (default: {like.weights.units})")
    add("--batch", type=int, metavar="B", help="windows of all devices in an update (default: one a device and piece)")
    add("--accumulation", type=int, metavar="A", help="pieces that a batch is computed in (default: 1)")
    add("--compute", choices=tuple(BYTES), help="dtype of activations (default: bfloat16)")
    add("--remat", choices=("layers", "elementwise"), help="what is computed again (default: layers)")
    add(
        "--ema", type=float, metavar="SHARE", help="of the old average that an update keeps; 0, the default: no average"
    )


def chosen_config(args: argparse.Namespace) -> Config:
    """The preset with the options applied; ValueError in one sentence when something does not fit."""
    config = load_preset(args.preset)
    transformer = choose("model", args.model, QWEN3) if args.model else config.transformer
    flow, history = config.flow, config.history
    if args.solver_steps is not None:
        flow = dataclasses.replace(flow, solver_steps=args.solver_steps)
    if args.window is not None:
        history = dataclasses.replace(history, n_tokens=args.window)
    return dataclasses.replace(config, transformer=transformer, flow=flow, history=history)


def chosen_training(args: argparse.Namespace) -> Training:
    """Settings as the options describe them, without mesh and batch; ValueError when a number is too small."""
    given = {name: getattr(args, name) for name in OF_TRAINING if getattr(args, name) is not None}
    for name, value in given.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number < 1:
                raise ValueError(f"--{name} {number}: at least 1")
    if not 0 <= given.get("ema", 0.0) < 1:
        raise ValueError(f"--ema {given['ema']}: at least 0 and less than 1")
    weights = SessionWeights(units=given.get("units", SessionWeights().units))
    names = ("accumulation", "remat", "ema", "compute")
    return dataclasses.replace(
        Training(weights=weights, compute="bfloat16"), **{name: given[name] for name in names if name in given}
    )


def check_options(args: argparse.Namespace) -> None:
    """ValueError when an option is missing, or is one of the other plan."""
    others = OF_SERVING if args.train else OF_TRAINING
    surplus = [name for name in others if getattr(args, name) is not None]
    if surplus:
        kind = "a deployment, not for --train" if args.train else "--train"
        raise ValueError(f"--{surplus[0].replace('_', '-')} is for {kind}")
    needed = "devices" if args.train else "ranks"
    if getattr(args, needed) is None:
        raise ValueError(f"--{needed} is missing")


def choose(kind: str, name: str, known: Mapping[str, Choice]) -> Choice:
    """The one of that name; ValueError names the nearest when there is none."""
    if name.lower() in known:
        return known[name.lower()]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise ValueError(f"no {kind} {name!r}: {hint}")


def check_fits(config: Config, plan: Plan, gpu: GPU) -> None:
    """ValueError when the devices cannot hold the window."""
    for m in plan.memory:
        if m.total > gpu.usable_bytes:
            raise ValueError(
                f"a window of {config.history.n_tokens:,} tokens needs {m.total / 1e9:.1f} GB on {ROLES[m.role]}, "
                f"and {gpu.usable_bytes / 1e9:.1f} GB of the {gpu.name} are usable: "
                f"at most {plan.largest_window:,} tokens fit"
            )


def as_json(args: argparse.Namespace, config: Config, plan: Plan) -> str:
    """The plan with what was planned."""
    asked = {
        "preset": args.preset,
        "model": args.model,
        "gpu": args.gpu,
        "ranks": args.ranks,
        "solver_steps": config.flow.solver_steps,
        "window": config.history.n_tokens,
    }
    memory = [dataclasses.asdict(m) | {"total": m.total} for m in plan.memory]
    return json.dumps(asked | dataclasses.asdict(plan) | {"memory": memory, "holds": plan.holds}, indent=2)


def table(args: argparse.Namespace, config: Config, gpu: GPU, plan: Plan) -> Iterator[str]:
    """The plan, line by line."""
    t, window = config.transformer, config.history.n_tokens
    yield f"{args.preset}, {t.layers} layers of width {t.width}, a window of {window:,} tokens,"
    yield f"{config.flow.solver_steps} solver steps; on {gpu.name}: one for the thinker, {args.ranks} for the performer"
    yield ""
    yield _row("memory of a device, GB", "weights", "codecs", "history", "working", "total", "usable")
    for m in plan.memory:
        n_bytes = (m.weights, m.codecs, m.history, m.working, m.total, gpu.usable_bytes)
        yield _row(ROLES[m.role], *(f"{n / 1e9:.2f}" for n in n_bytes))
    yield ""
    yield _row("step of a unit", "TFLOP", "GB", "floor, ms", "expected")
    for s in plan.steps:
        yield _row(s.name, f"{s.flop / 1e12:.3f}", f"{s.bytes / 1e9:.3f}", f"{s.floor_ms:.2f}", f"{s.expected_ms:.2f}")
    yield ""
    yield _row("sent in a unit", "times", "MB", "", "expected")
    for x in plan.transfers:
        yield _row(x.name, f"{x.n_times}", f"{x.bytes / 1e6:.2f}", "", f"{x.expected_ms:.2f}")
    yield ""
    verdict = "holds" if plan.holds else "does NOT hold"
    yield f"{UNIT_MS} ms {verdict}: a unit takes {plan.unit_ms:.0f} ms (floor {plan.unit_floor_ms:.0f}): think,"
    yield "then the longer of perform with what is sent, and render with observe."
    yield f"The answer to a unit is there {plan.response_ms:.0f} ms after the unit's end."
    yield f"The largest window that fits has {plan.largest_window:,} tokens."


def _row(label: str, *cells: str) -> str:
    return f"{label:<24}" + "".join(f"{cell:>10}" for cell in cells)


def serving(args: argparse.Namespace) -> str:
    """The plan of a deployment; ValueError as of its choices."""
    config, gpu = chosen_config(args), choose("GPU", args.gpu, GPUS)
    plan = make_plan(config, gpu, args.ranks)
    check_fits(config, plan, gpu)
    return as_json(args, config, plan) if args.json else "\n".join(table(args, config, gpu, plan))


def training(args: argparse.Namespace) -> str:
    """The plan of training; ValueError as of its choices."""
    # What `pip install -e '.[train]'` brings, which a plan of a deployment does without.
    from wanstreamer_jax.planning.step import trace_step
    from wanstreamer_jax.planning.training import plan_training
    from wanstreamer_jax.planning.training_table import rows_as_json, training_table

    config, gpu = chosen_config(args), choose("GPU", args.gpu, GPUS)
    asked = chosen_training(args)
    step = trace_step(config, asked)
    settings = [dataclasses.replace(asked, batch=args.batch or n * asked.accumulation) for n in args.devices]
    plans = {n: plan_training(config, gpu, n, x, step) for n, x in zip(args.devices, settings, strict=True)}
    if args.json:
        return json.dumps({n: rows_as_json(rows) for n, rows in plans.items()}, indent=2)
    name = f"{args.preset}, {config.transformer.layers} layers of width {config.transformer.width}"
    lines = [f"{name}; {gpu.name}; interact: windows of {asked.weights.units} units, {asked.compute}"]
    return "\n".join([*lines, *training_table(plans, settings, gpu)])


def main(argv: list[str] | None = None) -> int:
    """Print a plan; returns the exit code."""
    args = parse_args(argv)
    try:
        check_options(args)
        print(training(args) if args.train else serving(args))
    except ValueError as error:  # a choice that is impossible; its message says which and what to do
        print(f"wanstreamer_jax.plan: {error}", file=sys.stderr)
        return USAGE_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
