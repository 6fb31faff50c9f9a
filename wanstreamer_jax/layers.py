"""Small math shared by the Transformer and its readers: norms, rotary positions, flow-time features.

T queries, N heads, H head size, D width, F mlp width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float


class RMSNorm(nnx.Module):
    """Root-mean-square norm with a scale, computed in float32 (Qwen3's)."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.eps = eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Normalise the last axis; the dtype stays."""
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return x32.astype(x.dtype) * self.scale[...].astype(x.dtype)


class Linear(nnx.Module):
    """y = x @ kernel (+ bias); kernel is [inputs, outputs], drawn from N(0, std), zeros when std is 0."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, std: float = 0.02, rngs: nnx.Rngs):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
        """Map the last axis, in the dtype of `x`."""
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class SwiGLU(nnx.Module):
    """Gated feed-forward layer: down(silu(gate(x)) * up(x)) (Qwen3's)."""

    def __init__(self, width: int, mlp: int, *, rngs: nnx.Rngs):
        self.gate = Linear(width, mlp, rngs=rngs)
        self.up = Linear(width, mlp, rngs=rngs)
        self.down = Linear(mlp, width, rngs=rngs)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Map each token by itself."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


def rope_frequencies(head_size: int, theta: float) -> np.ndarray:
    """Turns per unit of position, float64 [H / 2]."""
    return theta ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)


def rope_axes(sections: tuple[int, int, int]) -> np.ndarray:
    """Which of (t, row, column) turns each frequency, int [H / 2].

    Interleaved, as in Qwen3-VL, so that every axis has slow and fast frequencies: t r c t r c ... t t t.
    """
    _, n_rows, n_columns = sections
    axes = np.zeros(sum(sections), np.int64)
    axes[1 : 3 * n_rows : 3] = 1
    axes[2 : 3 * n_columns : 3] = 2
    return axes


def rope_angles(positions: np.ndarray, frequencies: np.ndarray, sections: tuple[int, int, int]) -> np.ndarray:
    """Angles of positions [T, 3] of (t, row, column): float32 [T, H / 2], in [0, 2 pi).

    Computed on the host in float64: an angle of a position of millions is lost in float32.
    """
    angles = positions[:, rope_axes(sections)].astype(np.float64) * frequencies
    return np.mod(angles, 2 * np.pi).astype(np.float32)


def rotate(x: Float[Array, "B T N H"], angles: Float[Array, "B T G"]) -> Float[Array, "B T N H"]:
    """Turn the pairs (i, i + H / 2) of each head by `angles`, in float32 (RoPE, arXiv 2104.09864; Qwen3's halves)."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]  # [B, T, 1, H / 2]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def flow_time_features(tau: Float[Array, "*B"], width: int) -> Float[Array, "*B D"]:
    """Sines and cosines of a flow time in [0, 1], as DiT embeds a time step of 0 .. 1000 (arXiv 2212.09748)."""
    frequencies = 10_000.0 ** (-jnp.arange(width // 2) / (width // 2))
    angles = 1000.0 * tau[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
