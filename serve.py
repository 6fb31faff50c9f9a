"""Talk to an agent in the browser (`python serve.py`), or stream a media file through one (with `--input`).

What was recorded can be lived again, bit for bit (with `--replay`).
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax

from wanstreamer_jax import bundled
from wanstreamer_jax.agent import Agent, init_agent, load_agent
from wanstreamer_jax.compilations import remember_compilations
from wanstreamer_jax.help_text import WithDefaults
from wanstreamer_jax.parallel.mesh import Devices, automatic_ranks, choose_devices
from wanstreamer_jax.presets import load_preset
from wanstreamer_jax.serving.media_file import Job, stream_file
from wanstreamer_jax.serving.replay.reading import open_recording
from wanstreamer_jax.serving.replay.run import ReplayJob, replay
from wanstreamer_jax.serving.world_file import Setting, read_setting
from wanstreamer_jax.stream.worker import StepError

DIFFERENT, USAGE_ERROR, INTERRUPTED = 1, 2, 130
OF_A_FILE = ("output", "report", "record", "record_text", "trace")
KNOWN_TO_A_REPLAY = ("input", "world", "solver_steps", "record", "record_text", "trace", "recordings")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line options; exits with 2 and one line when they are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=WithDefaults)
    add = parser.add_argument
    add("--agent", type=Path, metavar="DIR", help="an agent directory (default: the bundled tiny agent)")
    add("--preset", metavar="NAME", help="instead: an untrained agent of a preset of configs/, or of such a file")
    add(
        "--world",
        type=Path,
        metavar="FILE",
        help='JSON {"persona": text, "portrait": file, "voice": file} (default: that of the bundled agent)',
    )
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
    _add_server_options(parser.add_argument_group("a live server").add_argument)
    _add_file_options(parser.add_argument_group("a media file").add_argument)
    parser.add_argument_group("a recorded conversation").add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="live again what --record, or a server with --recordings, has recorded: 0 when all of it is bit-equal, 1 "
        "when something differs; with --output and --report",
    )
    return parser.parse_args(argv)


def _add_server_options(add: Callable[..., object]) -> None:
    add("--host", default="127.0.0.1", help="address to listen on; any but this machine's own needs a token")
    add("--port", type=int, default=8765, help="port to listen on")
    add("--open", action="store_true", help="open the page in a browser, where there is a desktop")
    add("--name", action="append", default=[], metavar="HOST", help="a name by which browsers find this server")
    add("--token-file", type=Path, metavar="FILE", help="a secret that clients show; or in WANSTREAMER_TOKEN")
    add("--tls-cert", metavar="FILE", help="certificate chain in PEM, for https")
    add("--tls-key", metavar="FILE", help="its key in PEM")
    add("--sessions", type=int, metavar="N", help="conversations at once (default: as many as keep pace, tried out)")
    add("--time-limit", type=float, metavar="MIN", help="minutes a conversation may last (default: no limit)")
    add("--recordings", type=Path, metavar="DIR", help="keep conversations whose users want that, as session folders")
    add("--licence", default="in-confidence", help="of recordings, in their session.json")


def _add_file_options(add: Callable[..., object]) -> None:
    add("--input", type=Path, metavar="FILE", help="what the user did: any media file")
    add("--output", type=Path, metavar="FILE", help="the reply: MP4, 25 frames/s, 24,000 samples/s")
    add("--report", type=Path, metavar="FILE", help="JSON: latencies in ms, late units, memory in bytes, text")
    add(
        "--record", type=Path, metavar="FILE", help="all that --replay needs, in one file: what was seen and heard, too"
    )
    add("--record-text", type=Path, metavar="FILE", help="what the agent writes, as WebVTT subtitles")
    add("--trace", type=Path, metavar="FILE", help="a timeline of every step, to be opened in Perfetto")
    add("--seed", type=int, default=0, help="of noise and sampled text: one seed, one conversation")


def open_agent(args: argparse.Namespace) -> Agent:
    """The agent of --agent, an untrained one of --preset, or the bundled one, with the options applied."""
    if args.agent and args.preset:
        raise ValueError("--agent has a configuration of its own: leave out --preset")
    if not args.preset:
        return load_agent(args.agent or bundled.AGENT).with_solver_steps(args.solver_steps)
    print(f"this {args.preset} agent is untrained: it says and shows noise", file=sys.stderr)
    return init_agent(load_preset(args.preset), seed=0).with_solver_steps(args.solver_steps)


def world_file(args: argparse.Namespace) -> Path | None:
    """What sessions begin with, when their users bring nothing."""
    return args.world or (None if args.agent or args.preset else bundled.WORLD)


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


def stream(args: argparse.Namespace) -> int:
    """Stream a media file; returns the exit code."""
    if args.output is None:
        raise ValueError("--input needs an --output")
    agent = open_agent(args)
    world = world_file(args)
    setting = read_setting(world, agent.config) if world else Setting()
    devices = place(args, agent.config.transformer.kv_heads)
    job = Job(args.input, args.output, args.report, args.record_text, args.trace, args.record, args.seed, devices)
    return 0 if stream_file(agent, job, setting) else INTERRUPTED


def live_again(args: argparse.Namespace) -> int:
    """Replay a recorded conversation; returns the exit code."""
    if known := [name for name in KNOWN_TO_A_REPLAY if getattr(args, name) is not None]:
        raise ValueError(f"--{known[0].replace('_', '-')} does not go with --replay, which does what was done then")
    recording = open_recording(args.replay)
    agent = open_agent(args)
    devices = place_again(args, recording.header["machine"], agent.config.transformer.kv_heads)
    return 0 if replay(agent, recording, ReplayJob(args.output, args.report, devices)) else DIFFERENT


def place_again(args: argparse.Namespace, recorded: dict[str, Any], kv_heads: int) -> Devices | None:
    """The devices of a replay: where --placement says, and else as many as were recorded; raises as `place` does."""
    ranks = recorded.get("performer_ranks")
    if args.placement != "auto":
        return place(args, kv_heads)
    if type(ranks) is not int or ranks < 1:
        return None
    return choose_devices(ranks, kv_heads, args.devices)


def converse(args: argparse.Namespace) -> int:
    """Serve live conversations until Ctrl-C; returns the exit code."""
    try:
        from wanstreamer_jax.serving.live_server import Options, serve_live
    except ImportError as error:
        raise ValueError(f"{error}: a live server needs pip install 'wanstreamer-jax[serve]'") from error
    if unused := [name for name in OF_A_FILE if getattr(args, name) is not None]:
        raise ValueError(f"--{unused[0].replace('_', '-')} goes with --input")
    options = Options(
        host=args.host,
        port=args.port,
        names=tuple(args.name),
        token_file=args.token_file,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        sessions=args.sessions,
        time_limit_s=None if args.time_limit is None else args.time_limit * 60,
        recordings=args.recordings,
        licence=args.licence,
        world=world_file(args),
        browser=args.open,
    )
    serve_live(options, lambda: open_agent(args), lambda kv_heads: place(args, kv_heads))
    return 0


def main() -> int:
    """Run; returns the exit code."""
    args = parse_args()
    remember_compilations()
    try:
        if args.replay is not None:
            return live_again(args)
        return converse(args) if args.input is None else stream(args)
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
