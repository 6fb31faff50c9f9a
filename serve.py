"""Stream a media file of a person through an agent: `python serve.py --input user.mp4 --output reply.mp4`."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import NoReturn

import jax

from wanstreamer_jax.agent import Agent, init_agent, load_agent
from wanstreamer_jax.compilations import remember_compilations
from wanstreamer_jax.parallel.mesh import Devices, automatic_ranks, choose_devices
from wanstreamer_jax.presets import load_preset
from wanstreamer_jax.serving.media_file import Job, stream_file
from wanstreamer_jax.serving.world_file import Setting, read_setting
from wanstreamer_jax.stream.worker import StepError

USAGE_ERROR, INTERRUPTED = 2, 130


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line options; exits with 2 and one line when they are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--input", type=Path, required=True, metavar="FILE", help="what the user did: any media file")
    add("--output", type=Path, required=True, metavar="FILE", help="the reply: MP4, 25 frames/s, 24,000 samples/s")
    add("--agent", type=Path, metavar="DIR", help="an agent directory; without one, an untrained agent of --preset")
    add("--preset", default="tiny", metavar="NAME", help="a preset of configs/, or the path of such a file")
    add("--world", type=Path, metavar="FILE", help='JSON {"persona": text, "portrait": file, "voice": file}')
    add("--report", type=Path, metavar="FILE", help="JSON: latencies in ms, late units, memory in bytes, text")
    add("--record-text", type=Path, metavar="FILE", help="what the agent writes, as WebVTT subtitles")
    add("--solver-steps", type=int, metavar="S", help="steps of the solver per unit of 160 ms (default: the agent's)")
    add(
        "--placement",
        choices=["auto", "unified", "split", "ulysses"],
        default="auto",
        help="unified: all on one device; split: thinker and performer on one each; ulysses: the performer on P; "
        "auto: what the devices allow",
    )
    add("--performer-ranks", type=int, metavar="P", help="devices of the performer (ulysses), beside the thinker's")
    add("--devices", type=device_list, metavar="I,J,..", help="indices of devices: the thinker's, then the performer's")
    add("--trace", type=Path, metavar="FILE", help="a timeline of every step, to be opened in Perfetto")
    add("--seed", type=int, default=0, help="of noise and sampled text: one seed, one conversation")
    return parser.parse_args(argv)


def open_agent(args: argparse.Namespace) -> Agent:
    """The agent of --agent, or an untrained one of --preset, with the options applied."""
    if args.agent:
        agent = load_agent(args.agent)
    else:
        agent = init_agent(load_preset(args.preset), seed=0)
        print(f"no --agent given: this {args.preset} agent is untrained, and says and shows noise", file=sys.stderr)
    if args.solver_steps is None:
        return agent
    return dataclasses.replace(agent, config=agent.config.with_solver_steps(args.solver_steps))


def device_list(text: str) -> list[int]:
    """Device indices from "0,1,2"."""
    return [int(index) for index in text.split(",")]


def place(args: argparse.Namespace, kv_heads: int) -> Devices | None:
    """The devices of thinker and performer; None when they share one.

    Raises:
        ValueError: the options disagree, or ask for what is not there.
    """
    if args.performer_ranks is not None and args.placement != "ulysses":
        raise ValueError(f"--performer-ranks goes with --placement ulysses, not {args.placement}")
    if args.placement == "unified":
        return None
    most = automatic_ranks(kv_heads, len(args.devices or jax.devices()))
    ranks = 1 if args.placement == "split" else most if args.performer_ranks is None else args.performer_ranks
    if args.placement == "auto" and ranks == 0:
        return None
    return choose_devices(ranks, kv_heads, args.devices)


def main() -> int:
    """Run; returns the exit code."""
    args = parse_args()
    remember_compilations()
    try:
        agent = open_agent(args)
        setting = read_setting(args.world, agent.config) if args.world else Setting()
        devices = place(args, agent.config.transformer.kv_heads)
        job = Job(args.input, args.output, args.report, args.record_text, args.trace, args.seed, devices)
        return 0 if stream_file(agent, job, setting) else INTERRUPTED
    except (ValueError, StepError) as error:  # bad input of any kind; its message says what, where and what to do
        print(f"serve.py: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def leave(code: int) -> NoReturn:
    """End the program. After a failure at once: a step may still run, and to end the interpreter under it crashes."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
