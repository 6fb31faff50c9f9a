"""The audio VAE: spectra at several resolutions, the waveform, a light KL. No adversary and no download.

B samples, K clips of a sample, n samples of sound, T latents, C latent channels, F frames of a spectrum, h bins.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.clips import Sample
from wanstreamer_jax.data.world import Session
from wanstreamer_jax.media.sound import write_wav
from wanstreamer_jax.model import part
from wanstreamer_jax.timeline import Picture
from wanstreamer_jax.training import pictures
from wanstreamer_jax.training.clips import WorldClips, cut_sound, recorded_sound, seconds_of_sound, synthetic_world
from wanstreamer_jax.training.config import AudioVAEWeights, Training
from wanstreamer_jax.training.recordings import recorded
from wanstreamer_jax.training.sharding import AXES
from wanstreamer_jax.training.stage import Batch, Metrics, Objective, Params, Source, Stage, Trees
from wanstreamer_jax.training.stages.latents import divergence, mean_square, sample_latents, statistics

Sound = Float[Array, "B n"]
VAE = "audio_vae"
WINDOWS = (256, 512, 1024, 2048)  # samples: 11 to 85 ms
MEASURED_WINDOW = 1024
FLOOR = 1e-3  # added to magnitudes before their logarithm: -60 dB of a full-scale sine, so that hiss is no goal
TINY = 1e-12  # inside roots, whose gradient at 0 is infinite
DECIBELS = 20 / np.log(10)  # of a neper
SMALL = Picture(16, 16)  # of a world whose pictures nobody looks at


def init(config: Config, weights: AudioVAEWeights, parts: Trees, key: jax.Array) -> Trees:
    """The agent's audio VAE, or its decoder alone."""
    del config, key
    vae = parts[VAE]
    return {VAE: vae if weights.encoder else {"decoder": vae["decoder"]}}


def whole(config: Config, trainees: Trees, frozen: Trees) -> Any:
    """The VAE of what is trained, and of what is not."""
    return part(config, {VAE: frozen[VAE] | trainees[VAE]}, VAE)


def objectives(training: Training) -> tuple[Objective, ...]:
    """Reconstruction, at every step."""
    del training
    return (Objective(VAE, reconstruction),)


# ---- The loss


def reconstruction(
    config: Config, weights: AudioVAEWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """How far decoded samples of the latents are from the clips, and the latents from a normal distribution."""
    clips, vae = as_sound(batch), whole(config, trainees, frozen)
    latents = vae.encoder(clips)
    sample_key, noise_key = jax.random.split(key)
    noise = weights.noise * jax.random.normal(noise_key, latents.mean.shape)
    decoded = vae.decoder(sample_latents(latents, sample_key) + noise).astype(jnp.float32)
    spectra = [(magnitudes(clips, window), magnitudes(decoded, window)) for window in WINDOWS]
    terms = {
        "waveform": jnp.mean(jnp.abs(decoded - clips)) / (jnp.mean(jnp.abs(clips)) + FLOOR),
        "log_spectrum": jnp.mean(jnp.stack([jnp.mean(jnp.abs(_nepers(a) - _nepers(b))) for a, b in spectra])),
        "convergence": jnp.mean(jnp.stack([_convergence(a, b) for a, b in spectra])),
        "kl": divergence(latents),
    }
    return jnp.stack([getattr(weights, name) * term for name, term in terms.items()]).sum(), terms


def magnitudes(sound: Sound, window: int) -> Float[Array, "B F h"]:
    """Magnitudes of the spectra of Hann windows a quarter apart; a full-scale sine has magnitude 1 in its bin."""
    hann = np.hanning(window + 1)[:-1]
    starts = np.arange(0, sound.shape[1] - window + 1, window // 4)
    frames = sound[:, starts[:, None] + np.arange(window)]  # [B, F, window]
    spectrum = jnp.fft.rfft(frames * jnp.asarray(2 * hann / hann.sum(), jnp.float32))
    return jnp.sqrt(jnp.square(spectrum.real) + jnp.square(spectrum.imag) + TINY)


def _nepers(magnitude: jax.Array) -> jax.Array:
    return jnp.log(magnitude + FLOOR)


def _convergence(clips: Float[Array, "B F h"], decoded: Float[Array, "B F h"]) -> jax.Array:
    """|S - S'| / |S|, over the batch as a whole: a silent clip would have nothing to divide by."""
    error, power = jnp.sum(jnp.square(clips - decoded)), jnp.sum(jnp.square(clips))
    return jnp.sqrt((error + TINY) / (power + FLOOR**2))


def as_sound(batch: Batch) -> Sound:
    """Clips [B, K, n], all in one axis."""
    return batch["clips"].reshape(-1, batch["clips"].shape[-1]).astype(jnp.float32)


# ---- Looking at it


def measure(
    config: Config, weights: AudioVAEWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """Reconstruction from the latents' means, and the statistics of these, per channel."""
    del weights, key
    clips, vae = as_sound(batch), whole(config, trainees, frozen)
    latents = vae.encoder(clips)
    decoded = vae.decoder(latents.mean).astype(jnp.float32)
    difference = _nepers(magnitudes(clips, MEASURED_WINDOW)) - _nepers(magnitudes(decoded, MEASURED_WINDOW))
    error, power = jnp.sum(jnp.square(clips - decoded)), jnp.sum(jnp.square(clips))
    quiet = clips.size * FLOOR**2 / 2  # power of a sine at the floor: silence has none to compare with
    return {
        "log_spectral_distance_db": DECIBELS * jnp.mean(jnp.sqrt(jnp.mean(jnp.square(difference), axis=-1))),
        "snr_db": 10 * jnp.log10((power + quiet) / (error + quiet)),
        "loudness_error_db": 10 * jnp.log10((jnp.sum(jnp.square(decoded)) + quiet) / (power + quiet)),
        "posterior_std": jnp.mean(jnp.exp(latents.log_variance / 2)),
        "latent_mean": jnp.mean(latents.mean, axis=(0, 1)),
        "latent_square": mean_square(latents, (0, 1)),
    }


def preview(
    config: Config, weights: AudioVAEWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """The first sample's clips and what becomes of them."""
    del weights, key
    clips, vae = as_sound({"clips": batch["clips"][:1]}), whole(config, trainees, frozen)
    return {"clips": clips, "decoded": vae.decoder(vae.encoder(clips).mean)}


def draw(shown: Mapping[str, np.ndarray], folder: Path) -> None:
    """Spectrograms of the clips above those of what was decoded, and both to be heard."""
    sounds = [np.concatenate(list(shown[name])) for name in ("clips", "decoded")]
    pictures.write_sheet(folder / "spectrogram.png", [_spectrogram(sound) for sound in sounds])
    for name, sound in zip(("clips", "decoded"), sounds, strict=True):
        write_wav(folder / f"{name}.wav", sound)


def _spectrogram(sound: np.ndarray) -> np.ndarray:
    """Low frequencies below, black at -60 dB, white at 0 dB."""
    decibels = DECIBELS * np.asarray(_nepers(magnitudes(jnp.asarray(sound[None]), MEASURED_WINDOW)))[0]
    grey = pictures.as_bytes(decibels.T[::-1] / 30 + 1)
    return np.repeat(grey[..., None], 3, axis=-1)


def finish(config: Config, trainees: Trees, measured: Mapping[str, np.ndarray]) -> tuple[Config, Trees]:
    """The VAE with its latents' statistics put into the weights beside the bottleneck: latents come out normalised."""
    vae = trainees[VAE]
    if "encoder" in vae:  # else its latents are
        vae = normalise(vae, *statistics(**_of_latents(measured)))
    return config, {VAE: vae}


def _of_latents(measured: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"mean": measured["latent_mean"], "square": measured["latent_square"]}


def normalise(vae: Params, mean: Float[np.ndarray, " C"], std: Float[np.ndarray, " C"]) -> Params:
    """The same VAE, but for latents (z - mean) / std: linear maps on both sides of the bottleneck take that in."""
    encoder, decoder = vae["encoder"], vae["decoder"]
    of_mean, of_variance, back = encoder["mean"], encoder["log_variance"], decoder["unproject"]
    encoder = encoder | {
        "mean": {"kernel": of_mean["kernel"] / std, "bias": (of_mean["bias"] - mean) / std},
        "log_variance": of_variance | {"bias": of_variance["bias"] - 2 * np.log(std)},
    }
    unproject = {"kernel": std[:, None] * back["kernel"], "bias": back["bias"] + mean @ back["kernel"]}
    return {"encoder": encoder, "decoder": decoder | {"unproject": unproject}}


# ---- Data


def source(config: Config, training: Training, heldout: bool, data: Path | None) -> Source:
    """Clips of the agent's sound, and of the user's on request: an agent encodes its own sound only."""
    weights: AudioVAEWeights = training.weights
    if data is not None:
        take = functools.partial(
            recorded_sound, n_clips=weights.clips, n_latents=weights.latents, with_user=weights.user
        )
        return recorded(config, training, heldout, data, take)
    world = dataclasses.replace(synthetic_world(weights, heldout), user_picture=SMALL, agent_picture=SMALL)
    cut = functools.partial(_cut, weights=weights)
    return WorldClips(world, training.samples, cut)


def _cut(rng: np.random.Generator, session: Session, weights: AudioVAEWeights) -> Sample:
    sounds = [session.agent_samples, session.user_samples][: 1 + weights.user]
    return {"clips": cut_sound(rng, sounds, weights.clips, weights.latents)}


stage = Stage(
    name="audio_vae",
    parts=(VAE,),
    init=init,
    frozen=(VAE,),
    objectives=objectives,
    source=source,
    measure=measure,
    preview=preview,
    draw=draw,
    finish=finish,
    batch_axes=AXES,
    unit="s of sound",
    units_per_sample=seconds_of_sound,
)
