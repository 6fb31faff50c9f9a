"""What both VAEs do with their latents."""

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.vae.causal import Gaussian

MIN_STD = 1e-3  # of a channel: one that carries nothing is not blown up


def sample_latents(latents: Gaussian, key: jax.Array) -> jax.Array:
    """Latents drawn from what the encoder says of them."""
    noise = jax.random.normal(key, latents.mean.shape, latents.mean.dtype)
    return latents.mean + jnp.exp(latents.log_variance / 2) * noise


def divergence(latents: Gaussian) -> jax.Array:
    """Mean Kullback-Leibler divergence from the standard normal distribution, nats a latent number."""
    mean, log_variance = latents.mean.astype(jnp.float32), latents.log_variance.astype(jnp.float32)
    return jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance) / 2


def merged_statistics(
    old: tuple[tuple[float, ...], tuple[float, ...]], mean: np.ndarray, square: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel of raw latents, from those of latents that `old` ones had normalised already.

    `mean` and `square` are the means of a latent and of its square.
    """
    old_mean = np.array(old[0] or np.zeros_like(mean), np.float64)
    old_std = np.array(old[1] or np.ones_like(mean), np.float64)
    std = np.sqrt(np.maximum(square.astype(np.float64) - mean.astype(np.float64) ** 2, MIN_STD**2))
    return _rounded(old_mean + old_std * mean), _rounded(old_std * std)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(v), 6) for v in values)
