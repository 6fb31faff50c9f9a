"""From options to a running server: what is checked before it listens, and what is opened while it does."""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.parallel.mesh import Devices
from wanstreamer_jax.serving.access import Access
from wanstreamer_jax.serving.log import log_json_lines
from wanstreamer_jax.serving.replay.origin import weights
from wanstreamer_jax.serving.server import Address, run_server, tls_context
from wanstreamer_jax.serving.service import Opened, Rules
from wanstreamer_jax.serving.slots import PlacementSlot, open_slots
from wanstreamer_jax.serving.world_file import Setting, make_start, read_setting

TOKEN_VARIABLE = "WANSTREAMER_TOKEN"  # noqa: S105 - its name, not its value


@dataclasses.dataclass(frozen=True)
class Options:
    """What `serve.py` was told."""

    host: str
    port: int
    names: tuple[str, ...]
    token_file: Path | None
    tls_cert: str | None
    tls_key: str | None
    sessions: int | None
    time_limit_s: float | None
    recordings: Path | None
    licence: str
    world: Path | None
    browser: bool  # opened at the page


def serve_live(options: Options, open_agent: Callable[[], Agent], place: Callable[[int], Devices | None]) -> None:
    """Serve until SIGINT or SIGTERM. `place` gives the devices for so many key/value heads.

    Raises:
        ValueError: an option is wrong, the address cannot be listened on, or the agent cannot be opened.
    """
    _check(options)
    access = Access(options.host, _token(options.token_file), options.names)
    address = Address(options.host, options.port, tls_context(options.tls_cert, options.tls_key), options.browser)
    rules = Rules(options.time_limit_s, options.recordings, options.licence)
    log_json_lines()
    if not run_server(address, access, rules, functools.partial(_open, options, open_agent, place)):
        sys.stderr.flush()
        os._exit(0)  # something is being compiled: to end the interpreter under it crashes


def _check(options: Options) -> None:
    if options.sessions is not None and options.sessions < 1:
        raise ValueError(f"--sessions {options.sessions}: at least 1")
    if options.time_limit_s is not None and options.time_limit_s <= 0:
        raise ValueError("--time-limit is to be more than 0 minutes")
    if options.recordings is not None and not options.recordings.is_dir():
        raise ValueError(f"--recordings {options.recordings}: no such folder; make it first")
    if not options.licence.strip():
        raise ValueError("--licence is empty: say under which recordings may be used")


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"--token-file {file}: {error}") from error


def _open(
    options: Options,
    open_agent: Callable[[], Agent],
    place: Callable[[int], Devices | None],
    tell: Callable[[str], None],
) -> Opened:
    tell("loading the agent")
    agent = open_agent()
    if options.recordings is not None:
        weights(agent)  # read now, and not while somebody talks
    setting = read_setting(options.world, agent.config) if options.world else Setting()
    make_start(agent.config, agent.tokenizer, [setting], [0])  # a persona that is too long is found out here
    devices = place(agent.config.transformer.kv_heads)
    return Opened(agent, setting, open_slots(lambda: PlacementSlot(agent, devices), options.sessions, tell))
