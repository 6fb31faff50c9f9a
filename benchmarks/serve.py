"""What serving costs and adds besides the model, how long it takes from signal to signal, and whether it stays so.

    python benchmarks/serve.py cost                 cores a session, without a model, at 640x368
    python benchmarks/serve.py latency              signal to signal, with the bundled agent
    python benchmarks/serve.py browser              the page in Chromium, over each transport, with and without a model
    python benchmarks/serve.py soak --minutes 10    memory, descriptors, threads and late units, minute by minute

Processor time and memory are those of the server's own `/metrics`. Nothing else may run.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from machine import machine
from serve_client import Heard, camera, converse, waves

ROOT = Path(__file__).parents[1]
OPENED = re.compile(rb"open (http\S+) in a browser")
WARM_UP_S = 3.0


class Server(NamedTuple):
    """A server that runs in a process of its own."""

    url: str
    pid: int

    def figures(self) -> dict[str, float]:
        """What `/metrics` says, without labels; and threads."""
        with urllib.request.urlopen(f"{self.url}metrics") as page:
            lines = [line.split() for line in page.read().decode().splitlines() if not line.startswith("#")]
        status = Path(f"/proc/{self.pid}/status").read_text()
        threads = next(line.split()[1] for line in status.splitlines() if line.startswith("Threads"))
        return {name: float(value) for name, value in lines if "{" not in name} | {"threads": float(threads)}


@contextlib.contextmanager
def running(*command: str) -> Iterator[Server]:
    """Start a server, and wait until it is ready."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=said) as process,
    ):
        try:
            server = Server(_address(process, said), process.pid)
            _wait_until_ready(server)
            yield server
        finally:
            process.terminate()


def _address(process: subprocess.Popen, said: IO[bytes]) -> str:
    """Where a server listens, as it says on its way."""
    while not (found := OPENED.search(os.pread(said.fileno(), 1 << 16, 0))):
        if process.poll() is not None:
            raise SystemExit(os.pread(said.fileno(), 1 << 16, 0).decode())
        time.sleep(0.1)
    return found[1].decode()


def _wait_until_ready(server: Server) -> None:
    while True:
        try:
            urllib.request.urlopen(f"{server.url}readyz").close()
        except urllib.error.HTTPError:
            time.sleep(0.2)
        else:
            return


def milliseconds(values: list[float]) -> str:
    """Median and 95th percentile."""
    return f"{np.median(values):.0f} | {np.percentile(values, 95):.0f}"


async def talk(server: Server, n: int, seconds: float) -> list[Heard]:
    """So many conversations at once."""
    pictures = camera(640, 360)
    return await asyncio.gather(*(converse(server.url, seconds, pictures) for _ in range(n)))


def cost(args: argparse.Namespace) -> None:
    """Cores a session and latency, without a model."""
    print(
        f"{machine()}: serving without a model, {args.width}x{args.height}, WebSocket, JPEG and PCM, {args.seconds} s"
    )
    print("| sessions | cores a session | added p50 ms | p95 ms | frames a second |\n|---|---|---|---|---|")
    size = ("--width", str(args.width), "--height", str(args.height))
    for n in args.sessions:
        with running("benchmarks/serve_echo.py", *size, "--sessions", str(n)) as server:
            asyncio.run(talk(server, n, WARM_UP_S))
            began_s, before = time.monotonic(), server.figures()["process_cpu_seconds_total"]
            heard = asyncio.run(talk(server, n, args.seconds))
            used = server.figures()["process_cpu_seconds_total"] - before
            cores = used / (time.monotonic() - began_s) / n
        latencies = [ms for one in heard for ms in one.latency_ms]
        rates = [1000 * (len(one.arrived_ms) - 1) / (one.arrived_ms[-1] - one.arrived_ms[0]) for one in heard]
        print(f"| {n} | {cores:.3f} | {milliseconds(latencies)} | {min(rates):.2f} |", flush=True)


def latency(args: argparse.Namespace) -> None:
    """Signal to signal with a model, and what is not the model's."""
    with running("serve.py", "--port", "0", "--sessions", "1", *args.serve) as server:
        asyncio.run(talk(server, 1, WARM_UP_S))
        (heard,) = asyncio.run(talk(server, 1, args.seconds))
    besides = [whole - unit for whole, unit in zip(heard.latency_ms, heard.unit_ms, strict=True)]
    print(f"{machine()}: a conversation of {args.seconds:.0f} s over a WebSocket: {facts(heard)}")
    print("| from the end of the user's unit | p50 ms | p95 ms |\n|---|---|---|")
    print(f"| to the first picture of the answer | {milliseconds(heard.latency_ms)} |")
    print(f"| of that, the model | {milliseconds(heard.unit_ms)} |")
    print(f"| of that, all else | {milliseconds(besides)} |")


PAGE = """(() => {
  window.drawn = [];
  const context = document.getElementById('agent').getContext('2d'), draw = context.drawImage.bind(context);
  context.drawImage = (...rest) => { draw(...rest); drawn.push(performance.now()); };
})()"""
SEEN = """(() => {
  const gaps = drawn.slice(1).map((t, i) => t - drawn[i]);
  const figure = (name) => document.getElementById(`figure-${name}`).textContent;
  const fps = 1000 * (drawn.length - 1) / (drawn[drawn.length - 1] - drawn[0]);
  const said = ['latency', 'unit', 'late'].map(figure);
  return JSON.stringify([fps.toFixed(2), Math.max(...gaps).toFixed(0), ...said]);
})()"""


def browser(args: argparse.Namespace) -> None:
    """The page's own figures, pictures drawn, and cores of the server, over each transport."""
    sys.path.insert(0, str(ROOT))  # the tests' Chromium
    servers = {"none": ("benchmarks/serve_echo.py",), "bundled": ("serve.py", "--port", "0", "--sessions", "1")}
    print(f"{machine()}: the page in Chromium on the same machine, camera of 640x360, {args.seconds:.0f} s each")
    print("| model | transport | media | cores | pictures/s | longest gap ms | signal to signal | unit | late |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in args.models:
        with running(*servers[model]) as server:
            for transport, forms in (("websocket", "plain"), ("websocket", "compressed"), ("webrtc", "compressed")):
                figures = asyncio.run(on_the_page(server, transport, forms, args.seconds))
                print(f"| {model} | {transport} | {forms} | {' | '.join(figures)} |", flush=True)


async def on_the_page(server: Server, transport: str, forms: str, seconds: float) -> list[str]:
    """A conversation on the page; the server's cores, and what the page says."""
    from tests.chromium import GRANT, chromium, write_camera, write_microphone

    with tempfile.TemporaryDirectory() as folder:
        flags = write_camera(Path(folder, "camera.y4m"), waves(640, 360, 50))
        tone = 0.2 * np.sin(np.arange(24_000) / 9).astype(np.float32)
        flags = GRANT, flags, write_microphone(Path(folder, "mic.wav"), tone), "--allow-loopback-in-peer-connection"
        async with chromium(*flags) as open_page, open_page(server.url) as page:
            for name, value in (("transport", transport), ("forms", forms)):
                await page.eval(f"document.getElementById('{name}-select').value = '{value}'")
            await page.click("#start")
            await page.until("document.body.dataset.state === 'live'")
            await page.click("#figures-button")
            await asyncio.sleep(WARM_UP_S)
            await page.eval(PAGE)
            began_s, before = time.monotonic(), server.figures()["process_cpu_seconds_total"]
            await asyncio.sleep(seconds)
            used = server.figures()["process_cpu_seconds_total"] - before
            cores = used / (time.monotonic() - began_s)
            told = json.loads(await page.eval(SEEN))
            await page.click("#stop")
            await asyncio.sleep(1)
    return [f"{cores:.3f}", *told]


def facts(heard: Heard) -> str:
    """What was late."""
    said = heard.facts
    late = said["late"] + said["skipped"]
    return f"{said['unit'] + 1} units, {late} late or skipped, {said['reduced']} with fewer solver steps"


def soak(args: argparse.Namespace) -> None:
    """Memory and late units minute by minute, then what is left when all clients are gone."""
    names = ("process_resident_memory_bytes", "process_open_fds", "threads", "wanstreamer_units_total")
    names += ("wanstreamer_units_late_total", "wanstreamer_units_skipped_total")

    def row(when: str) -> None:
        figures = server.figures()
        memory, *others = (figures[name] for name in names)
        print(f"| {when} | {memory / 1e6:.1f} | {' | '.join(f'{x:.0f}' for x in others)} |", flush=True)

    async def minutes() -> None:
        talking = asyncio.create_task(talk(server, args.clients, args.minutes * 60))
        for minute in range(args.minutes + 1):
            row(str(minute))
            await asyncio.wait({talking}, timeout=60)
        await talking

    print(f"{machine()}: {args.clients} conversation(s) for {args.minutes} min over a WebSocket")
    print("| minute | MB | descriptors | threads | units | late | skipped |\n|---|---|---|---|---|---|---|")
    with running("serve.py", "--port", "0", "--sessions", str(args.clients), *args.serve) as server:
        asyncio.run(talk(server, args.clients, WARM_UP_S))
        time.sleep(2)
        row("before")
        asyncio.run(minutes())
        time.sleep(5)
        row("after")


def main() -> None:
    """Answer one of the questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    questions = parser.add_subparsers(required=True)
    question = questions.add_parser("cost", help=cost.__doc__)
    question.set_defaults(run=cost)
    question.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4], help="conversations at once")
    question.add_argument("--seconds", type=float, default=20.0, help="that they last")
    question.add_argument("--width", type=int, default=640, help="pixels of the agent's picture")
    question.add_argument("--height", type=int, default=368, help="pixels of the agent's picture")
    question = questions.add_parser("latency", help=latency.__doc__)
    question.set_defaults(run=latency)
    question.add_argument("--seconds", type=float, default=60.0, help="of conversation")
    question.add_argument("--serve", nargs="*", default=[], help="more options of serve.py")
    question = questions.add_parser("browser", help=browser.__doc__)
    question.set_defaults(run=browser)
    question.add_argument("--seconds", type=float, default=60.0, help="of each conversation")
    question.add_argument("--models", nargs="+", default=["none", "bundled"], help="none: 640x368 without one")
    question = questions.add_parser("soak", help=soak.__doc__)
    question.set_defaults(run=soak)
    question.add_argument("--minutes", type=int, default=10, help="of conversation")
    question.add_argument("--clients", type=int, default=1, help="at once")
    question.add_argument("--serve", nargs="*", default=[], help="more options of serve.py")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
