"""What both VAEs do with their latents."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from wanstreamer_jax.vae.causal import Gaussian


class Statistics(NamedTuple):
    """What latents are normalised by, a number a channel."""

    mean: Float[np.ndarray, " C"]
    std: Float[np.ndarray, " C"]


MIN_STD = 1e-3  # of a channel: what is divided by


def sample_latents(latents: Gaussian, key: jax.Array) -> jax.Array:
    """Latents drawn from what the encoder says of them."""
    noise = jax.random.normal(key, latents.mean.shape, latents.mean.dtype)
    return latents.mean + jnp.exp(latents.log_variance / 2) * noise


def divergence(latents: Gaussian) -> jax.Array:
    """Mean Kullback-Leibler divergence from the standard normal distribution, nats a latent number."""
    mean, log_variance = latents.mean.astype(jnp.float32), latents.log_variance.astype(jnp.float32)
    return jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance) / 2


def mean_square(latents: Gaussian, axes: tuple[int, ...]) -> Float[jax.Array, " C"]:
    """Mean square of latents as they are drawn, a number a channel.

    The noise counts: a channel that carries nothing is all noise, and normalised by its mean alone it would be blown
    up to something that a flow had to learn.
    """
    return jnp.mean(jnp.square(latents.mean) + jnp.exp(latents.log_variance), axes)


def statistics(mean: Float[np.ndarray, " C"], square: Float[np.ndarray, " C"]) -> Statistics:
    """Mean and deviation of each channel, from the means of a latent and of its square."""
    mean, square = mean.astype(np.float64), square.astype(np.float64)
    return Statistics(mean, np.sqrt(np.maximum(square - mean**2, MIN_STD**2)))
