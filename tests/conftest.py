"""Every test runs on CPU in float32, with a thinker and eight ranks; what was compiled once is remembered."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Eight virtual devices on two cores meet late; the defaults would end the program.
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300 --xla_cpu_collective_call_terminate_timeout_seconds=600"
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 9)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture
def assert_refused(capsys):
    """A check that a command ended with code 2 and one sentence that holds this one."""

    def check(code: int, sentence: str) -> None:
        assert code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert sentence in err
        assert err.count("\n") == 1

    return check
