"""A step that was compiled once is loaded by the next run, and never another step, nor a damaged one, in its place."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from wanstreamer_jax.config import FlowConfig
from wanstreamer_jax.parallel.mesh import choose_devices
from wanstreamer_jax.serving.report import CompileCounter
from wanstreamer_jax.stream import executables as module
from wanstreamer_jax.stream.executables import Executables, beside_compilation_cache, entry_key
from wanstreamer_jax.stream.placement import Start
from wanstreamer_jax.stream.split import Split

CONFIG = small.small_config()
DEVICES = jax.devices()[:1]
X = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)


def mix(state, x, key):
    """A function of several kernels, with a state that is donated and a random key."""
    total = jnp.tanh(state @ x.T) @ x + jax.random.normal(key, x.shape)
    return state + total, jnp.sort(total, axis=-1)


def arguments():
    return jnp.asarray(X), jnp.asarray(X), jax.random.key(0)


def step_in(directory, name="mix", config=CONFIG):
    """The step as a new process makes it: JAX remembers nothing of a function that it has not met."""
    return Executables(config, directory).step(name, jax.jit(functools.partial(mix), donate_argnums=0), DEVICES)


def run(step):
    """What a step returns, and how much was compiled for it."""
    args = arguments()
    compiled = CompileCounter()
    results = jax.tree.map(np.asarray, step(*args))
    compiled.close()
    return results, compiled.n


@pytest.fixture
def directory(tmp_path):
    """A directory of executables with the step in it."""
    run(step_in(tmp_path / "kept"))
    return tmp_path / "kept"


def entry(directory) -> Path:
    (path,) = directory.iterdir()
    return path


def assert_is_mix(results):
    for actual, expected in zip(results, jax.jit(mix)(*arguments()), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_the_second_time_nothing_is_compiled(tmp_path, caplog):
    first, n_first = run(step_in(tmp_path))
    second, n_second = run(step_in(tmp_path))
    assert (n_first, n_second) == (1, 0)
    assert_is_mix(first)
    assert_is_mix(second)
    assert not caplog.records


def test_donation_survives(directory):
    state, x, key = arguments()
    step_in(directory)(state, x, key)
    assert state.is_deleted()
    assert not x.is_deleted()


def test_other_shapes_are_another_entry(directory):
    step = step_in(directory)
    wide = jnp.ones((4, 7))
    grown, _ = step(wide + 0, wide, jax.random.key(0))
    assert grown.shape == (4, 7)
    assert len(list(directory.iterdir())) == 2
    assert_is_mix(run(step)[0])


OTHER_PROCESS = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 9)
jax.config.update("jax_compilation_cache_dir", sys.argv[1] + "/jax")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
from pathlib import Path
import numpy as np
from tests.test_executables import arguments, mix, run, step_in
plain = jax.jit(mix)(*arguments())
for name in sys.argv[2:]:
    results, n = run(step_in(Path(sys.argv[1], name)))
    assert all(np.array_equal(a, b) for a, b in zip(results, plain)), name
    print(n)
"""


def test_another_process_loads_what_one_compiled_that_had_it_in_jax_s_own_cache(tmp_path):
    """XLA:CPU cannot write again what it loaded; the step must be compiled even where JAX remembers it."""

    def in_a_process(*names):
        command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), *names]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        return done.stdout.split()

    assert in_a_process("first") == ["1"]
    assert in_a_process("second") == ["1"]
    assert in_a_process("first", "second") == ["0", "0"]


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def empty(path):
    path.write_bytes(b"")


def put_another_in_its_place(path):
    run(step_in(path.parent, "other"))
    (other,) = path.parent.glob("other-*")
    other.replace(path)


def make_it_no_executable(path):
    """Whole and of this key, but of a library that writes executables differently."""
    payload = b"\x80\x04N."
    key = path.name.removeprefix("mix-")
    path.write_bytes(module.MAGIC + key.encode() + hashlib.sha256(payload).digest() + payload)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, empty, put_another_in_its_place, make_it_no_executable])
def test_a_bad_entry_is_one_warning_and_is_replaced(directory, caplog, damage):
    damage(entry(directory))
    results, n = run(step_in(directory))
    assert n == 1
    assert_is_mix(results)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert str(entry(directory)) in caplog.text
    assert run(step_in(directory))[1] == 0
    assert len(caplog.records) == 1


def key_of(config=CONFIG, name="mix", devices=DEVICES, x=X):
    return entry_key(config, name, devices, (jnp.asarray(x), jax.random.key(0)))


def test_the_key_is_of_everything_that_the_program_depends_on(monkeypatch):
    def with_attribute(target, name, value):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            return key_of()

    def with_flags(flags):
        with monkeypatch.context() as patch:
            patch.setenv("XLA_FLAGS", flags)
            return key_of()

    def with_precision(name):
        with jax.default_matmul_precision(name):
            return key_of()

    keys = [
        key_of(),
        key_of(dataclasses.replace(CONFIG, flow=FlowConfig(solver_steps=3))),
        key_of(name="other"),
        key_of(devices=jax.devices()[1:2]),
        key_of(devices=jax.devices()[:2]),
        key_of(x=X[:3]),
        key_of(x=X.astype(np.float16)),
        key_of(x=jax.device_put(X, jax.devices()[0])),
        key_of(x=jax.device_put(X, jax.devices()[1])),
        with_flags("--xla_cpu_enable_fast_math=true"),
        with_precision("bfloat16"),
        with_attribute(importlib.metadata, "version", lambda _: "0"),
        with_attribute(module, "_machine", lambda: "another processor"),
        with_attribute(module, "_sources", lambda: "edited"),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of() == keys[0]


def assert_nothing_is_kept(directory, caplog):
    step = step_in(directory)
    assert_is_mix(run(step)[0])
    assert list(directory.iterdir()) == []
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert str(directory) in caplog.text


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_directory_that_others_may_write_is_not_used(tmp_path, caplog, mode):
    tmp_path.chmod(mode)
    assert_nothing_is_kept(tmp_path, caplog)


def test_a_directory_of_somebody_else_is_not_used(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert_nothing_is_kept(tmp_path, caplog)


def test_where_no_directory_can_be_made_steps_run_all_the_same(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert_is_mix(run(step_in(tmp_path / "file" / "kept"))[0])
    assert [r.levelname for r in caplog.records] == ["WARNING"]


def test_the_directory_is_its_owner_s_alone(directory):
    assert directory.stat().st_mode & 0o777 == 0o700


def test_the_entry_used_longest_ago_goes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_ENTRIES", 2)
    for name in ("a", "b"):
        run(step_in(tmp_path, name))
    for age, name in enumerate(("b", "a")):
        (path,) = tmp_path.glob(f"{name}-*")
        os.utime(path, (age, age))
    run(step_in(tmp_path, "b"))  # used
    run(step_in(tmp_path, "c"))
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["b", "c"]


def test_executables_lie_beside_jax_s_own_cache_when_it_is_on_this_machine(tmp_path):
    kept = jax.config.values["jax_compilation_cache_dir"]
    try:
        for directory in (None, "gs://bucket/cache"):
            jax.config.update("jax_compilation_cache_dir", directory)
            assert beside_compilation_cache(CONFIG) is None
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        assert isinstance(beside_compilation_cache(CONFIG), Executables)
        assert (tmp_path / "executables").is_dir()
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)


def test_a_placement_on_ranks_lives_the_same_life_without_compiling(tmp_path):
    transformer = dataclasses.replace(CONFIG.transformer, layers=1)
    config = dataclasses.replace(CONFIG, transformer=transformer, flow=FlowConfig(solver_steps=1))
    params, seen = small.small_params(config), small.observations(config, 3)
    start = Start(small.a_world(config), np.array([7, 4]), [1, 2])
    devices = choose_devices(2, config.transformer.kv_heads)
    lives, compiled = [], []
    for _ in range(2):
        placement = Split(config, params, devices, executables=Executables(config, tmp_path))
        compiling = CompileCounter()
        placement.begin(start)
        lives.append(list(placement.stream(seen)))
        compiling.close()
        compiled.append(compiling.n)
        placement.close()
    assert len(list(tmp_path.iterdir())) == 7  # begin, observe, think, render; commit; noise, perform
    assert compiled[0] >= 7
    assert compiled[1] == 0
    for a, b in zip(*lives, strict=True):
        assert a.text == b.text
        np.testing.assert_array_equal(a.samples, b.samples)
        np.testing.assert_array_equal(a.frames, b.frames)
