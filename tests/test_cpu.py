"""Laws of training on a CPU: as many devices as cores that samples can be shared out to, and large pages, once."""

import json
import os
import subprocess
import sys
import types

import pytest

from wanstreamer_jax import cpu


@pytest.fixture
def asked(monkeypatch):
    """What is asked of JAX, on four cores, by somebody who said nothing about devices."""
    asked = {}
    config = types.SimpleNamespace(jax_num_cpu_devices=-1, update=asked.__setitem__)
    monkeypatch.setattr(cpu, "jax", types.SimpleNamespace(config=config))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=")
    return asked


@pytest.mark.parametrize(("n_samples", "n_devices"), [(8, 4), (6, 3), (2, 2), (1, 1), (7, 1)])
def test_samples_are_shared_out_to_cores(n_samples, n_devices, asked):
    cpu.take_cores(n_samples)
    assert asked == {"jax_num_cpu_devices": n_devices}
    assert os.environ["XLA_FLAGS"].startswith("--xla_dump_to= --xla_cpu_collective_call_warn_stuck_timeout_seconds=")


def test_who_said_how_many_devices_is_not_contradicted(asked, monkeypatch):
    monkeypatch.setattr(cpu.jax.config, "jax_num_cpu_devices", 1)
    cpu.take_cores(8)
    monkeypatch.setattr(cpu.jax.config, "jax_num_cpu_devices", -1)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    cpu.take_cores(8)
    assert asked == {}
    assert os.environ["XLA_FLAGS"] == "--xla_force_host_platform_device_count=8"


PROGRAM = """
import json, os, sys
from wanstreamer_jax.cpu import use_large_pages
use_large_pages()
print(json.dumps([sys.argv[1:], os.environ.get("GLIBC_TUNABLES", "")]))
"""


@pytest.mark.parametrize(
    ("pages", "given", "expected"),
    [
        ("always [madvise] never", "", "glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("[always] madvise never", "", ""),
        (None, "", ""),
    ],
)
def test_a_program_starts_again_once_as_it_was_asked_to(pages, given, expected, tmp_path):
    path = tmp_path / "enabled"
    if pages:
        path.write_text(pages)
    program = (
        f"from pathlib import Path\nimport wanstreamer_jax.cpu as c\nc._LARGE_PAGES = Path({str(path)!r}){PROGRAM}"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    run = subprocess.run(
        [sys.executable, str(script), "one", "two words"],
        env=os.environ | {"GLIBC_TUNABLES": given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == [["one", "two words"], expected]
