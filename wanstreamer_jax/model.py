"""WanStreamer: embeds, unembeds, and holds no state; and the parameters of every part of an agent.

B sessions, T tokens, D width, C channels, h, w rows and columns of the latent grid.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from wanstreamer_jax.config import Config
from wanstreamer_jax.layers import rope_angles, rope_frequencies
from wanstreamer_jax.perception import Perception
from wanstreamer_jax.timeline import AUDIO_LATENTS_PER_UNIT, LATENTS_PER_TOKEN
from wanstreamer_jax.transformer import AUDIO, VIDEO, Transformer
from wanstreamer_jax.vae.audio import AudioVAE
from wanstreamer_jax.vae.video import VideoVAE

Params = dict[str, Any]


class Latents(NamedTuple):
    """A response: two audio latents and one video latent frame a unit."""

    audio: Float[Array, "B T C"]
    video: Float[Array, "B h w C"]


class Patches(NamedTuple):
    """A response as the channels of its tokens; `video` may be a part of the picture."""

    audio: Float[Array, "B T C"]
    video: Float[Array, "B S c"]


@dataclasses.dataclass(frozen=True)
class WanStreamer:
    """The Transformer with what makes latents tokens, and tokens latents; made inside a jit by `wan_streamer`."""

    config: Config
    transformer: Transformer

    def embed_latents(self, latents: Latents) -> Float[Array, "B T D"]:
        """A unit's latents as tokens: sound, then picture patches row by row."""
        return self.embed_patches(self.patchify(latents))

    def unembed_latents(self, hidden: Float[Array, "B T D"]) -> Latents:
        """Velocities from the hidden states of a unit's latent tokens, float32."""
        return self.unpatchify(self.unembed_patches(hidden, self.config.layout.n_agent_audio))

    def patchify(self, latents: Latents) -> Patches:
        """The picture as the channels of its tokens."""
        patches = rearrange(
            latents.video, "B (h p) (w q) C -> B (h w) (p q C)", p=LATENTS_PER_TOKEN, q=LATENTS_PER_TOKEN
        )
        return Patches(latents.audio, patches)

    def unpatchify(self, patches: Patches) -> Latents:
        """The picture that patches make."""
        h, p = self.config.picture.token_grid[0], LATENTS_PER_TOKEN
        return Latents(patches.audio, rearrange(patches.video, "B (h w) (p q C) -> B (h p) (w q) C", h=h, p=p, q=p))

    def embed_patches(self, patches: Patches) -> Float[Array, "B T D"]:
        """Tokens of sound and of any patches of a picture."""
        t = self.transformer
        return jnp.concatenate([t.audio_in(patches.audio), t.video_in(patches.video)], axis=1).astype(t.dtype)

    def unembed_patches(self, hidden: Float[Array, "B T D"], n_audio: int) -> Patches:
        """Velocities from hidden states of `n_audio` tokens of sound and any patches of a picture, float32."""
        t = self.transformer
        audio, video = jnp.split(hidden.astype(jnp.float32), [n_audio], axis=1)
        return Patches(t.audio_out(audio), t.video_out(video))

    def latent_kinds(self, batch: int, n_audio: int = AUDIO_LATENTS_PER_UNIT) -> Int[Array, "B T"]:
        """The kind of each token of `embed_latents`, for adaLN."""
        return token_kinds(batch, n_audio, self.config.picture.n_tokens)

    def angles(self, positions: np.ndarray) -> Float[Array, "T G"]:
        """Rotary angles of positions [T, 3] of (t, row, column), a constant of the program."""
        t = self.config.transformer
        frequencies = rope_frequencies(t.head_size, t.rope_theta)
        return jnp.asarray(rope_angles(positions, frequencies, t.rope_sections))


def token_kinds(batch: int, n_audio: int, n_video: int) -> Int[Array, "B T"]:
    """The kinds of tokens of sound and then of picture, for adaLN."""
    kinds = jnp.array([AUDIO] * n_audio + [VIDEO] * n_video, jnp.int32)
    return jnp.broadcast_to(kinds, (batch, n_audio + n_video))


class Packed(NamedTuple):
    """Tokens with the valid ones first, in their order."""

    x: Float[Array, "B T D"]
    angles: Float[Array, "B T G"]
    kind: Int[Array, "B T"]
    slot: Int[Array, "B T"]  # where each token stood
    n_tokens: Int[Array, " B"]


def pack(
    x: Float[Array, "B T D"], angles: Float[Array, "B T G"], kind: Int[Array, "B T"], valid: Bool[Array, "B T"]
) -> Packed:
    """Move the valid tokens to the front, so that validity is a length."""
    slot = jnp.argsort(~valid, axis=1, stable=True)
    x, angles = (jnp.take_along_axis(a, slot[..., None], axis=1) for a in (x, angles))
    return Packed(x, angles, jnp.take_along_axis(kind, slot, axis=1), slot, jnp.sum(valid, axis=1, dtype=jnp.int32))


def _parts(config: Config, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
    return {
        "transformer": Transformer(config, rngs=rngs),
        "perception": Perception(config, rngs=rngs),
        "video_vae": VideoVAE(config.video_vae, config.picture, rngs=rngs),
        "audio_vae": AudioVAE(config.audio_vae, rngs=rngs),
    }


class _Draws(nnx.Rngs):
    """A key for every array, made on the host: made in the program, the keys take as long to compile as the draws."""

    def __init__(self, seed: int):
        super().__init__()
        self._seeds = np.random.SeedSequence(seed)

    def params(self) -> Key[Array, ""]:
        """The next key; of rbg, since threefry takes minutes to compile for so many arrays."""
        (seeds,) = self._seeds.spawn(1)
        return jax.random.wrap_key_data(jnp.asarray(seeds.generate_state(4)), impl="rbg")


def init_params(config: Config, seed: int) -> Params:
    """Fresh parameters of the four parts, each a plain nested dict; run it under jit or `jax.eval_shape`."""
    params = {name: nnx.to_pure_dict(nnx.state(part)) for name, part in _parts(config, _Draws(seed)).items()}
    dtype = config.transformer.dtype
    params["transformer"] = jax.tree.map(lambda x: x.astype(dtype), params["transformer"])
    return params


@functools.cache
def _graphs(config: Config) -> dict[str, tuple[Any, Any]]:
    """The structure of each part, without arrays."""
    parts = nnx.eval_shape(lambda: _parts(config, nnx.Rngs(0)))
    return {name: nnx.split(part) for name, part in parts.items()}


def part(config: Config, params: Params, name: str) -> Any:
    """One of the four parts as a module on `params[name]`; the others need not be there."""
    graph, state = _graphs(config)[name]
    state = jax.tree.map(lambda x: x, state)  # a copy: `replace_by_pure_dict` writes in place
    nnx.replace_by_pure_dict(state, params[name])
    return nnx.merge(graph, state)


def wan_streamer(config: Config, params: Params) -> WanStreamer:
    """The model on `params["transformer"]`."""
    return WanStreamer(config, part(config, params, "transformer"))
