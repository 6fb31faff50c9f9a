"""Where words lie among the Transformer's embeddings of text: what senses are taught to point at.

W words, t tokens of a word, D width.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from wanstreamer_jax.config import Config
from wanstreamer_jax.training.stage import Trees
from wanstreamer_jax.training.stages.sessions import world_tokenizer

SHARPNESS = 20.0  # of a fresh head, by which cosines are multiplied
TINY = 1e-12


def places(config: Config, frozen: Trees, words: Sequence[str]) -> Float[Array, "W D"]:
    """The embedding of each word: the mean over its tokens."""
    ids, weights = spellings(config, tuple(words))
    return jnp.einsum("Wt,WtD->WD", weights, frozen["transformer"]["embedding"].astype(jnp.float32)[ids])


@functools.lru_cache(maxsize=8)
def spellings(config: Config, words: tuple[str, ...]) -> tuple[Int32[np.ndarray, "W t"], Float32[np.ndarray, "W t"]]:
    """Tokens of each word in its shorter spelling, with or without a capital, and their shares."""
    tokenizer = world_tokenizer(config)
    spelled = [min((tokenizer.encode(f" {text}") for text in (word, word.capitalize())), key=len) for word in words]
    n = np.array([len(ids) for ids in spelled])
    there = np.arange(n.max()) < n[:, None]
    ids = np.zeros(there.shape, np.int32)
    ids[there] = np.concatenate(spelled)
    return ids, (there / n[:, None]).astype(np.float32)


def cosines(tokens: Float[Array, "B T D"], targets: Float[Array, "W D"]) -> Float[Array, "B T W"]:
    """How far tokens point at each of some places."""
    return _direction(tokens.astype(jnp.float32)) @ _direction(targets).T


def _direction(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + TINY)
