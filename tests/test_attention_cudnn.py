"""Attention on an NVIDIA GPU: what is compiled for it, the arithmetic around the kernel, the kernel itself."""

import dataclasses
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AxisType, PartitionSpec

from tests.small import small_config
from wanstreamer_jax import attention, attention_cudnn
from wanstreamer_jax.attention import attend, attend_slots
from wanstreamer_jax.attention_cudnn import Chip, attend_split, n_splits, serves
from wanstreamer_jax.cache import Slice, init_history
from wanstreamer_jax.config import HistoryConfig
from wanstreamer_jax.model import init_params
from wanstreamer_jax.stream import steps
from wanstreamer_jax.stream.types import Beat

H200 = Chip(processors=132, max_head_size=256)
NO_GPU = 77  # exit status, as autotools has it for a skipped test


@pytest.fixture
def gpu(monkeypatch):
    """A process that has an H200, as far as tracing and lowering can tell."""
    monkeypatch.setattr(attention_cudnn, "chip", lambda: H200)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def shapes(T=254, N=4, K=2, S=32_768, H=128, B=1, dtype=jnp.bfloat16):
    cache = jax.ShapeDtypeStruct((B, K, S, H), dtype)
    return jax.ShapeDtypeStruct((B, T, N, H), dtype), cache, cache, jax.ShapeDtypeStruct((B,), jnp.int32)


def lowered(platform, function, args):
    # Traced anew each time, since what is traced depends on whether there is a GPU.
    return jax.jit(partial(function)).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def operations(text, elements):
    """Names of the operations that make an array of so many elements."""
    made = re.findall(r"= \"?(\w+\.\w+).*(?:->|:) \(?tensor<([0-9x]+)x(?:bf16|f32)>", text)
    return {name for name, shape in made if np.prod([int(n) for n in shape.split("x")]) == elements}


@pytest.mark.parametrize("batch", [1, 2])
def test_for_a_gpu_the_kernel_reads_the_cache_as_it_lies(gpu, batch):
    args = shapes(B=batch)
    text = lowered("cuda", attend_slots, args)
    assert text.count("@__cudnn$fmhaSoftmax(") == 1
    assert "stablehlo.while" not in text
    assert operations(text, args[1].size) == {"stablehlo.reshape"}


def test_a_copy_of_the_cache_would_be_seen(gpu):
    args = shapes()
    text = lowered("cuda", lambda q, k, v, n: attend_slots(q, k.swapaxes(1, 2).swapaxes(1, 2), v, n), args)
    assert "stablehlo.transpose" in operations(text, args[1].size)


def test_for_a_cpu_the_same_process_compiles_the_reference(gpu):
    assert lowered("cpu", attend_slots, shapes()).count("cudnn") == 0


@pytest.mark.parametrize("other", [{"dtype": jnp.float32}, {"H": 36}, {"H": 264}])
def test_types_and_sizes_without_a_kernel_take_the_reference(gpu, other):
    args = shapes(**other)
    text = lowered("cuda", attend_slots, args)
    assert "cudnn" not in text and "stablehlo.case" not in text


def test_without_a_gpu_there_is_only_the_reference():
    assert attention_cudnn.chip() is None
    assert "stablehlo.case" not in lowered("cuda", attend_slots, shapes())


def test_ranks_compile_a_plain_call(gpu):
    """Inside of `shard_map` there is no partitioning callback, which would keep the program out of the cache."""
    mesh = jax.make_mesh((8,), ("ulysses",), axis_types=(AxisType.Auto,))
    heads = PartitionSpec(None, "ulysses")
    specs = (PartitionSpec(None, None, "ulysses"), heads, heads, PartitionSpec())
    out = attention.Attended(specs[0], specs[0])
    of_ranks = jax.shard_map(attend_slots, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
    text = lowered("cuda", of_ranks, shapes(N=16, K=8))
    assert "@__cudnn$fmhaSoftmax(" in text
    assert "CustomSPMDPartitioning" not in text


def test_every_layer_of_every_solver_step_calls_the_kernel(gpu):
    base = small_config(history=HistoryConfig(n_tokens=3000))
    config = dataclasses.replace(base, transformer=dataclasses.replace(base.transformer, dtype="bfloat16"))
    model, keys = config.transformer, jax.random.split(jax.random.key(0), 1)
    params = jax.eval_shape(lambda: init_params(config, 0))
    history = jax.eval_shape(lambda: init_history(config, 1))
    kv = jnp.zeros((1, model.layers, 2, model.kv_heads, config.layout.n_slice, model.head_size), model.dtype)
    beat = Beat(jnp.zeros(1, jnp.int32), jnp.zeros(1, bool), jnp.zeros((1, model.head_size // 2)), keys)
    args = (params, history, Slice(kv, beat.unit), steps.draw_noise(config, keys), beat)
    text = lowered("cuda", partial(steps.perform, config), args)
    assert text.count("@__cudnn$fmhaSoftmax(") == model.layers * config.flow.solver_steps
    assert operations(text, history.k[0].size) == {"stablehlo.reshape", "stablehlo.dynamic_update_slice"}


def plain_kernel(q, k, v, length):
    """The kernel's part by `attend`, with its shapes and its types."""
    mask = jnp.arange(k.shape[1]) < length[:, None]
    out = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask[:, None])
    return out.values.astype(q.dtype), out.log_sum_exp.swapaxes(1, 2)


def random_history(seed, B=2, K=2, Q=5, S=48, H=8):
    keys = jax.random.split(jax.random.key(seed), 3)
    q = jax.random.normal(keys[0], (B, K, Q, H))
    return q, *(jax.random.normal(key, (B, K, S, H)) for key in keys[1:])


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.tuples(*[st.one_of(st.sampled_from([0, 1, 6, 12, 24, 36, 47, 48]), st.integers(0, 48))] * 2),
    n=st.sampled_from([1, 2, 4, 8]),
    seed=st.integers(0, 3),
)
def test_split_equals_whole(lengths, n, seed):
    q, k, v = random_history(seed)
    length = jnp.array(lengths, jnp.int32)
    mask = (jnp.arange(k.shape[2]) < length[:, None])[:, None]
    expected = attend(q.swapaxes(1, 2), k, v, mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_cudnn, "_kernel", plain_kernel)
        values, log_sum_exp = attend_split(q, k, v, length, n)
    seen = np.array(lengths) > 0
    np.testing.assert_allclose(values.swapaxes(1, 2)[seen], expected.values[seen], atol=2e-6)
    np.testing.assert_allclose(log_sum_exp.swapaxes(1, 2)[seen], expected.log_sum_exp[seen], atol=2e-6)
    assert np.all(np.asarray(log_sum_exp)[~seen] < -1e29)
    assert np.all(np.isfinite(values))


@pytest.mark.parametrize(("T", "N"), [(1, 4), (7, 4), (7, 2)])
def test_rows_come_back_to_their_queries(gpu, monkeypatch, T, N):
    monkeypatch.setattr(attention_cudnn, "_kernel", plain_kernel)
    _, k, v = random_history(5)
    q, length = jax.random.normal(jax.random.key(6), (2, T, N, 8)), jnp.array([48, 13])
    actual, expected = attention._attend_fused(q, k, v, length), attend_slots(q, k, v, length)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


SLOTS = 98_304


@pytest.mark.parametrize(
    ("rows", "heads", "n"),
    [
        (1844, 8, 1),  # 120 blocks of 922 tokens fill 132 processors
        (1844, 2, 4),
        (508, 8, 4),  # 254 tokens
        (508, 2, 16),
        (508, 1, 32),
        (2, 8, 16),  # a token of text
    ],
)
def test_few_blocks_are_split_until_they_fill_the_chip(rows, heads, n):
    assert n_splits(rows, heads, SLOTS, H200.processors) == n


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 32), st.integers(1, 200_000), st.sampled_from([108, 132, 148]))
def test_splits_are_a_view_and_never_slower(rows, heads, slots, processors):
    n = n_splits(rows, heads, slots, processors)
    blocks = -(-rows // attention_cudnn.TILE) * heads
    assert slots % n == 0
    assert n == 1 or slots // n >= attention_cudnn.MIN_CHUNK
    assert -(-blocks * n // processors) / n <= -(-blocks // processors)


def test_the_kernel_equals_the_reference_on_a_gpu():
    """In a process of its own, since the tests see no GPU."""
    hidden = ("JAX_PLATFORMS", "XLA_FLAGS")
    seeing = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-m", "tests.test_attention_cudnn"]
    seeing["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env=seeing, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == NO_GPU:
        pytest.skip("no NVIDIA GPU")
    assert done.returncode == 0, done.stderr


def compare_on_gpu(T, N, lengths, S=4096, K=2, H=128):
    """The kernel against the reference on the same bfloat16 numbers, widened to float32.

    Values, of about one, are rounded once by the kernel and weights once, to 8 bits each: 0.02 in all. Scores and the
    log-sum-exp are float32, from products that bfloat16 inputs give exactly.
    """
    q, k, v = (x.astype(jnp.bfloat16) for x in random_history(7, len(lengths), K, T * N // K, S, H))
    q = q.reshape(len(lengths), T, N, H)
    length = jnp.array(lengths, jnp.int32)
    assert serves(q, k)
    actual = jax.jit(attend_slots)(q, k, v, length)
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(attend_slots)(*(x.astype(jnp.float32) for x in (q, k, v)), length)
    seen = np.array(lengths) > 0
    np.testing.assert_allclose(actual.values[seen], expected.values[seen], atol=0.02)
    np.testing.assert_allclose(actual.log_sum_exp[seen], expected.log_sum_exp[seen], atol=2e-3)
    assert np.all(np.asarray(actual.log_sum_exp)[~seen] < -1e29)


if __name__ == "__main__":
    if attention_cudnn.chip() is None:
        sys.exit(NO_GPU)
    for n_queries, heads in [(254, 4), (1, 4), (33, 2)]:
        for two in [(4096, 4096), (0, 1), (512, 513), (1024, 4095), (0, 3000)]:
            compare_on_gpu(n_queries, heads, two)
