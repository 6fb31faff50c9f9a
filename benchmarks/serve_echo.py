"""A live server whose agent costs nothing: it gives back the sound of the user, and shows drawn pictures.

    python benchmarks/serve_echo.py --width 640 --height 368 --sessions 4

What such a server costs is what serving costs besides a model. `serve.py` of this folder starts it.
"""

import argparse
import dataclasses
import functools

import numpy as np

from wanstreamer_jax.agent import Agent
from wanstreamer_jax.data.world import Session, World, make_session
from wanstreamer_jax.presets import load_preset
from wanstreamer_jax.serving.access import Access
from wanstreamer_jax.serving.log import log_json_lines
from wanstreamer_jax.serving.server import Address, run_server
from wanstreamer_jax.serving.service import Opened, Rules
from wanstreamer_jax.serving.world_file import Setting
from wanstreamer_jax.stream.pace import Pace, first_pace
from wanstreamer_jax.stream.placement import STEPS, Reply
from wanstreamer_jax.stream.types import Observation
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, Picture
from wanstreamer_jax.tokens import byte_tokenizer

SECONDS = 6.0  # of the drawn agent; then it begins anew


@functools.cache
def drawn(picture: Picture) -> Session:
    """An agent who speaks and moves."""
    return make_session(1, World(seconds=SECONDS, agent_picture=picture))


class EchoSlot:
    """A slot and its session, in one."""

    def __init__(self, picture: Picture):
        self.session = self
        self._frames = drawn(picture).agent_frames.reshape(-1, FRAMES_PER_UNIT, picture.height, picture.width, 3)
        self._unit = 0

    def begin(self, setting: Setting, seed: int) -> Pace:
        """Begin anew."""
        del setting, seed
        self._unit = 0
        return first_pace({1: 1.0})

    def step(self, seen: Observation, solver_steps: int) -> Reply:
        """Give back the sound."""
        del solver_steps
        self._unit += 1
        frames = self._frames[self._unit % len(self._frames)]
        return Reply(self._unit - 1, frames[None], np.asarray(seen.samples), [[]], dict.fromkeys(STEPS, 0.25))

    def skip(self) -> None:
        """A unit is not lived."""

    def close(self) -> None:
        """There is nothing to let go."""


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=640, help="pixels of the agent's picture")
    parser.add_argument("--height", type=int, default=368, help="pixels of the agent's picture")
    parser.add_argument("--sessions", type=int, default=1, help="conversations at once")
    args = parser.parse_args()
    picture = Picture(args.width, args.height)
    config = dataclasses.replace(load_preset("tiny"), picture=picture)
    agent = Agent(config, {}, byte_tokenizer(), trained=True)
    slots = [EchoSlot(picture) for _ in range(args.sessions)]
    log_json_lines()
    run_server(Address("127.0.0.1", 0), Access("127.0.0.1"), Rules(), lambda _tell: Opened(agent, Setting(), slots))


if __name__ == "__main__":
    main()
