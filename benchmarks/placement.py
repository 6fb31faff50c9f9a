"""What placements cost: overlap, bytes between ranks, and whether a session stays as fast and as small as it was.

    python benchmarks/placement.py                                  all four, about five minutes on two cores
    python benchmarks/placement.py --only overlap                   split against unified, both streaming
    python benchmarks/placement.py --only exchange                  the performer over 2, 4 and 8 ranks, five ways
    python benchmarks/placement.py --only published                 the same from programs at a published size, not run
    python benchmarks/placement.py --only flat --units 10000        the last thousand units against the first

Devices are virtual and share the machine's cores: ranks show what is exchanged and that the latents are right, and no
speed-up. For a fair table the machine must be idle otherwise. Expect host time below 3 ms a unit; latents that agree
within rounding; of the performers that hold the history once and divide all of the arithmetic, the exchange to send the
fewest bytes; flat bytes, and the last thousand units within 5 % of the first.
"""

import argparse
import os

# Eight virtual devices on two cores meet late; the defaults would end the program. Must be said before jax starts.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_cpu_collective_call_warn_stuck_timeout_seconds=300"
    + " --xla_cpu_collective_call_terminate_timeout_seconds=600"
)

import jax
from machine import machine
from placements.exchange import print_exchange, print_published
from placements.flat import COUNTED, print_flat
from placements.overlap import print_overlap

from wanstreamer_jax.presets import load_preset

N_DEVICES = 9  # a thinker and up to eight ranks
QUESTIONS = ("overlap", "exchange", "published", "flat")


def parse_args() -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=QUESTIONS, help="one table (default: all)")
    parser.add_argument("--preset", default="tiny", help="a preset of configs/, for overlap and exchange")
    parser.add_argument("--published", default="v02_640x368", help="a preset of configs/, for published")
    parser.add_argument("--units", type=int, default=2 * COUNTED, help="units of 160 ms of the flat table")
    args = parser.parse_args()
    if args.units < 2 * COUNTED:
        parser.error(f"--units: at least {2 * COUNTED}, the first and the last {COUNTED}")
    return args


def main() -> None:
    """Run and print the tables."""
    args = parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", N_DEVICES)
    print(f"{machine()}, {N_DEVICES} virtual devices, jax {jax.__version__}")
    for name in [args.only] if args.only else QUESTIONS:
        print(f"\n{name}; load average before it: {os.getloadavg()[0]:.2f}\n", flush=True)
        if name == "overlap":
            print_overlap(load_preset(args.preset))
        elif name == "exchange":
            print_exchange(load_preset(args.preset))
        elif name == "published":
            print_published(load_preset(args.published))
        else:
            print_flat(args.units)


if __name__ == "__main__":
    main()
