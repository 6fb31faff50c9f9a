"""The synthetic world: how many times faster than real time sessions are made, on one core and in processes.

    python benchmarks/world.py                     40 sessions of 20 s at the tiny preset's picture sizes
    python benchmarks/world.py --picture 640x368   the agent and the user's camera at another size
    python benchmarks/world.py --workers 2         also in so many processes, start-up included

Speech synthesis is included, encoding to files is not. One core must stay above 10 times real time.
"""

import argparse
import os
import time
from collections.abc import Callable

from machine import machine

from wanstreamer_jax.data.world import World, make_sessions
from wanstreamer_jax.data.world.speech import speak
from wanstreamer_jax.timeline import Picture

REPEATS = 3


def main() -> None:
    arguments = parse()
    world = World(seconds=arguments.seconds)
    if arguments.picture is not None:
        world = World(seconds=arguments.seconds, user_picture=arguments.picture, agent_picture=arguments.picture)
    print(machine())
    print(f"{arguments.sessions} sessions of {world.seconds} s, {world.user_picture} and {world.agent_picture}")
    print(f"one core: {times_real_time(lambda: one_core(world, arguments.sessions), arguments):.0f} times real time")
    if arguments.workers > 1:
        many = times_real_time(lambda: make_all(world, arguments.sessions, arguments.workers), arguments)
        print(f"{arguments.workers} processes: {many:.0f} times real time")


def times_real_time(make: Callable[[], None], arguments: argparse.Namespace) -> float:
    """The best of some runs: another program's load only ever slows one down."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        make()
        seconds.append(time.perf_counter() - start)
    return arguments.sessions * arguments.seconds / min(seconds)


def one_core(world: World, n_sessions: int) -> None:
    """With nothing said before."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    speak.cache_clear()
    make_all(world, n_sessions, workers=1)
    os.sched_setaffinity(0, cores)


def make_all(world: World, n_sessions: int, workers: int) -> None:
    for _ in make_sessions(range(n_sessions), world, workers):
        pass


def picture(text: str) -> Picture:
    width, height = text.split("x")
    return Picture(int(width), int(height))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=40, help="how many to make")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each, in seconds")
    parser.add_argument("--picture", type=picture, help="WIDTHxHEIGHT in pixels, of both pictures")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
