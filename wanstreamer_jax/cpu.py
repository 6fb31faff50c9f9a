"""What makes a CPU fast at training: large pages of memory, and a device for each core; and which one it is."""

import os
import platform
import sys
from pathlib import Path

import jax

_CPUINFO = Path("/proc/cpuinfo")
_LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TUNABLE = "glibc.malloc.hugetlb=1"
_TIMEOUTS_S = {"warn_stuck": 300, "terminate": 600}  # a device that waits for another may wait for its core


def processor_name() -> str:
    """The processor, as Linux knows it, or as Python does."""
    lines = _CPUINFO.read_text("utf-8").splitlines() if _CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def use_large_pages() -> None:
    """Start this program again, once, with large pages for its arrays, where Linux gives them to who asks.

    A step writes gigabytes to memory that was just mapped; in pages of 4 KiB a fifth of its time goes into that. glibc
    reads its settings before the first line of a program runs.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    asked = "glibc.malloc.hugetlb" in tunables or sys.gettrace() is not None  # a debugger would lose the program
    if asked or not _LARGE_PAGES.exists() or "[madvise]" not in _LARGE_PAGES.read_text(encoding="ascii"):
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{_TUNABLE}".lstrip(":")
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606 (no shell: this very program)


def take_cores(n_samples: int) -> None:
    """Make the CPU as many devices as it has cores, or fewer that share samples equally; before any device is used.

    XLA computes much of a step on one core of each device. Whoever said how many devices there are is not contradicted.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    said = jax.config.jax_num_cpu_devices > 0  # type: ignore[attr-defined]
    if said or "xla_force_host_platform_device_count" in flags:
        return
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waits = [f"--xla_cpu_collective_call_{name}_timeout_seconds={s}" for name, s in _TIMEOUTS_S.items()]
    os.environ["XLA_FLAGS"] = " ".join([flags, *waits]).strip()
    jax.config.update("jax_num_cpu_devices", max(n for n in range(1, n_cores + 1) if n_samples % n == 0))
