"""From `python serve.py --input` to the first unit: with nothing compiled yet, and when it was before.

    python benchmarks/startup.py

The caches are in a temporary folder. Warm starts must stay under 20 s on two cores.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

ROOT = Path(__file__).parents[1]
FIRST_UNIT = re.compile(rb"reply:.*\| [1-9]\d*/")


def seconds_to_first_unit(cache: Path) -> float:
    """Start serve.py on the sample clip and wait until its progress bar has counted a unit."""
    reply = cache / "reply.mp4"
    command = [sys.executable, "serve.py", "--input", "wanstreamer_jax/assets/sample.mp4", "--output", str(reply)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    start, seen = time.perf_counter(), b""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        while chunk := os.read(process.stderr.fileno(), 4096):
            seen += chunk
            if FIRST_UNIT.search(seen):
                seconds = time.perf_counter() - start
                break
        else:
            raise SystemExit(seen.decode())
        process.stderr.read()
    return seconds


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warm", type=int, default=3, help="warm starts; their median is printed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cold = seconds_to_first_unit(Path(folder))
        warm = [seconds_to_first_unit(Path(folder)) for _ in range(args.warm)]
    print(f"{machine()}: seconds from the command to the first unit")
    print(f"| cold | warm |\n|---|---|\n| {cold:.1f} | {statistics.median(warm):.1f} |")


if __name__ == "__main__":
    main()
