"""Where words lie among the Transformer's embeddings of text: where senses are taught to point.

W words, t tokens of a word, D width.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from wanstreamer_jax.config import Config
from wanstreamer_jax.training.stage import Trees
from wanstreamer_jax.training.stages.sessions import world_tokenizer

TINY = 1e-12


def fresh_head(n_words: int) -> dict[str, jax.Array]:
    """By what cosines are multiplied, and what stands for none of the words: sure of one among so many, and not."""
    sharpness = 3 * math.log(n_words + 1)
    return {"sharpness": jnp.float32(sharpness), "nothing": jnp.float32(sharpness / 2)}


def directions(config: Config, frozen: Trees, words: Sequence[str]) -> Float[Array, "W D"]:
    """From the middle of some words to each: its embedding, the mean over its tokens, less what all have in common.

    Words have so much in common, being words, that colours were 0.8 alike by their cosine, and rare words 0.95.
    """
    ids, weights = spellings(config, tuple(words))
    places = jnp.einsum("Wt,WtD->WD", weights, frozen["transformer"]["embedding"].astype(jnp.float32)[ids])
    return places - jnp.mean(places, axis=0)


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
    """How far tokens point in each of some directions."""
    return _unit(tokens.astype(jnp.float32)) @ _unit(targets).T


def _unit(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + TINY)
