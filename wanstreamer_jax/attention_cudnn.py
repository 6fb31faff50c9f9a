"""Attention to a history by cuDNN's fused kernel, for NVIDIA GPUs (Ampere and later, bfloat16 and float16).

The kernel reads the cache as it lies. It wants [batch, S, heads, H]; the history is [B, K, S, H]. So each key head of
each session is a batch entry with one head, and the queries that share a key head are rows of it:

    cache   [B, K, S, H]          = [B K n, S / n, 1, H]      n splits; the same bytes in the same order
    queries [B, K, T G, H]  copied to [B K n, T G, 1, H]      small beside a history

A block of the kernel takes a tile of rows over all keys of its batch entry. Where rows are few, so are the blocks:
252 tokens of a rank with two key heads of two queries are 8, on a chip with room for 132. Then the history is split:
every chunk is a batch entry of its own, with as much of the valid length as falls in it, and chunks are merged by
log-sum-exp (the split of Flash-Decoding, done outside of the kernel, whose number of splits cannot be set).

The kernel is JAX's own binding. The public `jax.nn.dot_product_attention(implementation="cudnn")` leads there too, but
rounds the log-sum-exp to the values' type: at 16, bfloat16 is 0.06 off, and the weights in a merge 6 %.

The binding goes through `custom_partitioning`, whose callbacks keep a program out of the persistent compilation cache.
It does so only in programs over several devices that the compiler partitions. On one device, and inside of a
`jax.shard_map` over all axes of its mesh, it is a plain custom call; every placement here is one of the two.

B sessions, K key/value heads, Q rows of queries, S slots, H head size, n splits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention
from jaxtyping import Array, Float, Int

TILE = 128  # rows of queries that a block of the kernel takes
MIN_CHUNK = 512  # slots; a shorter chunk is over before it pays for its merge
NEARLY = 0.85  # of the best; FlashAttention's choice of splits is content with it too
HIDDEN = -1e30  # as in `attention`


class Chip(NamedTuple):
    """What the choices here depend on."""

    processors: int  # streaming multiprocessors
    max_head_size: int


@functools.cache
def chip() -> Chip | None:
    """The NVIDIA GPU of this process (all are taken to be alike); None without one that the kernel runs on."""
    try:
        device = jax.local_devices(backend="cuda")[0]
    except RuntimeError:
        return None
    generation = int(device.compute_capability.split(".")[0])
    return Chip(device.core_count, 256 if generation >= 9 else 128) if generation >= 8 else None


def serves(q: Float[Array, "B T N H"], k: Float[Array, "B K S H"]) -> bool:
    """Whether the kernel exists for these types and head size on a GPU of this process."""
    gpu = chip()
    half = q.dtype == k.dtype and k.dtype in (jnp.bfloat16, jnp.float16)
    return gpu is not None and half and k.shape[3] % 8 == 0 and k.shape[3] <= gpu.max_head_size


def attend_rows(
    q: Float[Array, "B K Q H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    length: Int[Array, " B"],
) -> tuple[Float[Array, "B K Q H"], Float[Array, "B K Q"]]:
    """Attention of each key head's rows to the first `length` slots: values and log-sum-exp, both float32.

    Rows that see nothing have a log-sum-exp of about -1e30. Slots after the length must be finite.
    """
    gpu = chip()
    assert gpu is not None
    return attend_split(q, k, v, length, n_splits(q.shape[2], k.shape[0] * k.shape[1], k.shape[2], gpu.processors))


def n_splits(rows: int, heads: int, slots: int, processors: int) -> int:
    """Into how many equal chunks to split a history of `slots`, for `rows` of queries on each of `heads` key heads.

    Blocks (tiles x heads x splits) run in waves of `processors`, each over 1 / splits of the slots, so the time goes
    as waves / splits. The answer is the smallest number that is nearly the best, since merging costs too. It divides
    `slots`, for a view cannot have a shorter last chunk: a capacity with small factors can be split well, 2 x a prime
    hardly. It comes from the capacity, not from the valid length, which is not known when a program is compiled: a
    history that is half full takes as long as a full one at most.
    """
    blocks = -(-rows // TILE) * heads
    choices = [n for n in range(1, processors + 1) if slots % n == 0 and slots // n >= MIN_CHUNK] or [1]
    time = {n: -(-blocks * n // processors) / n for n in choices}
    return min(n for n in choices if min(time.values()) >= NEARLY * time[n])


def attend_split(
    q: Float[Array, "B K Q H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    length: Int[Array, " B"],
    n: int,
) -> tuple[Float[Array, "B K Q H"], Float[Array, "B K Q"]]:
    """`attend_rows` with the history as `n` chunks; `n` divides S."""
    B, K, S = k.shape[:3]
    chunk = S // n
    in_chunk = jnp.clip(length[:, None] - chunk * jnp.arange(n), 0, chunk)  # [B, n]
    keys, values = (rearrange(x, "B K (n S) H -> (B K n) S 1 H", n=n) for x in (k, v))
    rows = repeat(q, "B K Q H -> (B K n) Q 1 H", n=n)
    # What the kernel makes of no keys at all is not documented: it is shown one slot, which is then given no weight.
    counts = repeat(jnp.maximum(in_chunk, 1), "B n -> (B K n)", K=K)
    seen, log_sum_exp = _kernel(rows, keys, values, counts.astype(jnp.int32))
    seen = rearrange(seen, "(B K n) Q 1 H -> n B K Q H", B=B, K=K).astype(jnp.float32)
    log_sum_exp = rearrange(log_sum_exp, "(B K n) 1 Q -> n B K Q", B=B, K=K)
    empty = rearrange(in_chunk == 0, "B n -> n B 1 1")
    log_sum_exp = jnp.where(empty, HIDDEN, log_sum_exp)
    total = jax.nn.logsumexp(log_sum_exp, axis=0)
    return jnp.sum(seen * jnp.exp(log_sum_exp - total)[..., None], axis=0), total


def _kernel(
    q: Float[Array, "b Q 1 H"], k: Float[Array, "b S 1 H"], v: Float[Array, "b S 1 H"], length: Int[Array, " b"]
) -> tuple[Float[Array, "b Q 1 H"], Float[Array, "b 1 Q"]]:
    """cuDNN: values in the type of the queries, log-sum-exp in float32."""
    rows = jnp.full_like(length, q.shape[1])
    padding = MaskType.PADDING
    return dot_product_attention(
        q, k, v, None, None, rows, length, scale=q.shape[3] ** -0.5, mask_type=padding, return_residual=True
    )
