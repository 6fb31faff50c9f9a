"""The video VAE: pixels, edges at every scale, motion, a light KL, and an adversary on request.

Clips may be crops: the VAE is the same at every place but for a little attention within a frame, and faces are small.

B samples, K clips of a sample, T frames, H, W rows and columns, C latent channels. No term needs a download: the
Laplacian pyramid stands where others compare features of a pretrained network, since it weighs edges at every scale
and, unlike a mean over pixels, does not prefer blur.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.clips import Sample
from wanstreamer_jax.data.world import Session, Split, World
from wanstreamer_jax.model import part
from wanstreamer_jax.stream.world import to_float
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, VIDEO_FPS, Picture
from wanstreamer_jax.training import pictures
from wanstreamer_jax.training.clips import WorldClips, cropped, cut_video, recorded_video
from wanstreamer_jax.training.config import Training, VideoVAEWeights
from wanstreamer_jax.training.recordings import recorded
from wanstreamer_jax.training.sharding import AXES
from wanstreamer_jax.training.stage import Batch, Metrics, Objective, Params, Source, Stage, Trees
from wanstreamer_jax.training.stages.adversary import Discriminator, hinge, realism
from wanstreamer_jax.training.stages.latents import divergence, mean_square, sample_latents, statistics
from wanstreamer_jax.vae.audio import INITIAL_LOG_VARIANCE

Video = Float[Array, "B T H W 3"]
LEVELS = 4  # of the pyramid
STILL = 1e-3  # mean difference between frames at which a clip counts as still
DISCRIMINATOR_WIDTH = 32  # channels


def init(config: Config, weights: VideoVAEWeights, parts: Trees, key: jax.Array) -> Trees:
    """The agent's video VAE; with an adversary, a new discriminator."""
    del config
    trainees = {"video_vae": _quieted(parts["video_vae"])}
    if weights.adversarial > 0:
        trainees["discriminator"] = nnx.to_pure_dict(nnx.state(_discriminator(key)))
    return trainees


def _quieted(vae: Params) -> Params:
    """A new VAE with little noise in its latents: at a deviation of 1 it would drown what they begin to say.

    A VAE is new when the biases of its bottleneck are still zeros; one that was trained stays as it is.
    """
    encoder = vae["encoder"]
    bias = encoder["quant"]["bias"]
    mean, log_variance = jnp.split(bias, 2)
    quiet = jnp.concatenate([mean, jnp.full_like(log_variance, INITIAL_LOG_VARIANCE)])
    quant = encoder["quant"] | {"bias": jnp.where(jnp.any(bias), bias, quiet)}
    return vae | {"encoder": encoder | {"quant": quant}}


def objectives(training: Training) -> tuple[Objective, ...]:
    """Reconstruction; from some step on against an adversary, which learns from that step on too."""
    start = training.weights.adversarial_from
    if training.weights.adversarial == 0:
        return (Objective("video_vae", reconstruction),)
    return (
        Objective("video_vae", reconstruction, stop=start),
        Objective("video_vae", adversarial_reconstruction, start=start),
        Objective("discriminator", discrimination, start=start),
    )


# ---- Losses


def reconstruction(
    config: Config, weights: VideoVAEWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """How far decoded samples of the latents are from the clips, and the latents from a normal distribution."""
    del frozen
    clips = as_video(batch)
    decoded, kl = _autoencode(config, trainees, clips, key)
    return _distance(weights, clips, decoded, kl)


def adversarial_reconstruction(
    config: Config, weights: VideoVAEWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """The same, and how easily the discriminator tells."""
    del frozen
    clips = as_video(batch)
    decoded, kl = _autoencode(config, trainees, clips, key)
    loss, metrics = _distance(weights, clips, decoded, kl)
    told = -jnp.mean(realism(_discriminator(), trainees["discriminator"], decoded))
    return loss + weights.adversarial * told, metrics | {"adversarial": told}


def discrimination(
    config: Config, weights: VideoVAEWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """How badly the discriminator tells frames from decoded ones."""
    del weights, frozen
    clips = as_video(batch)
    decoded, _ = _autoencode(config, trainees, clips, key)
    return hinge(_discriminator(), trainees["discriminator"], clips, decoded)


def _autoencode(config: Config, trainees: Trees, clips: Video, key: jax.Array) -> tuple[Video, jax.Array]:
    """Clips decoded from samples of their latents, and the divergence of these."""
    height, width = clips.shape[2:4]
    vae = part(dataclasses.replace(config, picture=Picture(width, height)), trainees, "video_vae")
    latents = vae.encoder(clips)
    return vae.decoder(sample_latents(latents, key)), divergence(latents)


def _distance(weights: VideoVAEWeights, clips: Video, decoded: Video, kl: jax.Array) -> tuple[jax.Array, Metrics]:
    error, shares = decoded - clips, moving_shares(clips, weights.moving)
    terms = {
        "pixels": jnp.mean(shares * jnp.abs(error)),
        "pyramid": jnp.mean(jnp.stack([jnp.mean(jnp.abs(band)) for band in laplacian_pyramid(error, LEVELS)])),
        "motion": jnp.mean(shares[:, 1:] * jnp.abs(jnp.diff(error, axis=1))),
        "kl": kl,
    }
    loss = jnp.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
    return loss, terms | {"psnr_db": jnp.mean(psnr_db(clips, decoded))}


def moving_shares(clips: Video, moving: float) -> Float[Array, "B T H W 1"]:
    """What each pixel counts: 1 on average over a clip, more where it differs from the frame before or after."""
    moved = jnp.mean(jnp.abs(jnp.diff(clips, axis=1)), axis=-1, keepdims=True)
    moved = jnp.maximum(_pad_time(moved, 1, 0), _pad_time(moved, 0, 1))
    share = 1 + moving * moved / (jnp.mean(moved, axis=(1, 2, 3), keepdims=True) + STILL)
    return share / jnp.mean(share, axis=(1, 2, 3), keepdims=True)


def _pad_time(x: jax.Array, before: int, after: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0), (0, 0)))


def laplacian_pyramid(x: Float[Array, "B T H W C"], levels: int) -> list[Float[Array, "B T _ _ C"]]:
    """What is lost when a picture is halved, level by level. The map is linear: that of an error is an error."""
    bands = []
    for _ in range(levels):
        half = _halve(x)
        bands.append(x - _double(half, x.shape))
        x = half
    return bands


def _halve(x: jax.Array) -> jax.Array:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    b, t, h, w, c = x.shape
    return x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(b, t, h // 2, 2, w // 2, 2, c).mean((3, 5))


def _double(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.image.resize(x, (*shape[:2], *shape[2:4], shape[4]), "linear")


def psnr_db(clips: Video, decoded: Video) -> Float[Array, " B"]:
    """Peak signal-to-noise ratio of each clip in decibels; pixels lie in [-1, 1], so the peak is 2."""
    return 10 * jnp.log10(4 / jnp.mean(jnp.square(clips - decoded), axis=(1, 2, 3, 4)))


def as_video(batch: Batch) -> Video:
    """Clips of bytes [B, K, T, H, W, 3] as clips in [-1, 1], all in one axis."""
    clips = batch["clips"]
    return to_float(clips.reshape(-1, *clips.shape[2:]))


def _discriminator(key: jax.Array | None = None) -> Discriminator:
    return Discriminator(DISCRIMINATOR_WIDTH, rngs=nnx.Rngs(jax.random.key(0) if key is None else key))


# ---- Looking at it


def measure(
    config: Config, weights: VideoVAEWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """Reconstruction from the latents' means, and the statistics of these, per channel."""
    del weights, frozen, key
    vae, clips = part(config, trainees, "video_vae"), as_video(batch)
    latents = vae.encoder(clips)
    decoded = vae.decoder(latents.mean)
    psnr = psnr_db(clips, decoded)
    after = slice(1 + FRAMES_PER_UNIT, None)  # the first unit comes from another pose, the portrait's
    missed, moved = (jnp.mean(jnp.square(jnp.diff(x[:, after], axis=1))) for x in (decoded - clips, clips))
    return {
        "psnr_db": jnp.mean(psnr),
        "worst_psnr_db": jnp.min(psnr),
        "last_unit_psnr_db": jnp.mean(psnr_db(clips[:, -FRAMES_PER_UNIT:], decoded[:, -FRAMES_PER_UNIT:])),
        "motion_explained": 1 - missed / (moved + STILL**2),
        "l1": jnp.mean(jnp.abs(clips - decoded)),
        "posterior_std": jnp.mean(jnp.exp(latents.log_variance / 2)),
        "latent_mean": jnp.mean(latents.mean, axis=(0, 1, 2, 3)),
        "latent_square": mean_square(latents, (0, 1, 2, 3)),
    }


def preview(
    config: Config, weights: VideoVAEWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """The first sample's clips and what becomes of them."""
    del weights, frozen, key
    vae, clips = part(config, trainees, "video_vae"), as_video({"clips": batch["clips"][:1]})
    return {"clips": clips, "decoded": vae.decoder(vae.encoder(clips).mean)}


def draw(shown: Mapping[str, np.ndarray], folder: Path) -> None:
    """Each clip's first, middle and last frame above what was decoded, and above four times their difference."""
    clips, decoded = shown["clips"], shown["decoded"]
    at = [0, clips.shape[1] // 2, clips.shape[1] - 1]
    rows = [clips[:, at], decoded[:, at], 4 * (decoded - clips)[:, at]]
    pictures.write_sheet(folder / "reconstruction.png", [pictures.tiles(row) for row in rows])
    pictures.write_film(folder / "reconstruction.mp4", np.concatenate([clips, decoded], axis=2))


def finish(config: Config, trainees: Trees, measured: Mapping[str, np.ndarray]) -> tuple[Config, Trees]:
    """The VAE with the statistics of its latents, by which they are normalised from now on."""
    found = statistics(measured["latent_mean"], measured["latent_square"])
    # What was measured are latents that the old statistics had normalised already.
    old_mean, old_std = config.video_vae.latent_mean or (0.0,), config.video_vae.latent_std or (1.0,)
    mean = tuple(float(x) for x in old_mean + np.array(old_std) * found.mean)
    std = tuple(float(x) for x in old_std * found.std)
    vae = dataclasses.replace(config.video_vae, latent_mean=mean, latent_std=std)
    return dataclasses.replace(config, video_vae=vae), {"video_vae": trainees["video_vae"]}


# ---- Data


def source(config: Config, training: Training, heldout: bool, data: Path | None) -> Source:
    """Clips of the agent's picture."""
    weights: VideoVAEWeights = training.weights
    n_units, crop = (weights.heldout_units, 1) if heldout else (weights.units, weights.crop)
    if data is not None:
        take = functools.partial(recorded_video, n_clips=weights.clips, n_units=n_units, crop=crop)
        return recorded(config, training, heldout, data, take)
    world = World(
        split=Split.HELDOUT if heldout else Split.TRAIN, seconds=weights.seconds, agent_picture=config.picture
    )
    cut = functools.partial(_cut, n_clips=weights.clips, n_units=n_units, crop=crop)
    return WorldClips(world, training.samples, cut)


def _cut(rng: np.random.Generator, session: Session, n_clips: int, n_units: int, crop: int) -> Sample:
    return {"clips": np.stack([cropped(rng, clip, crop) for clip in cut_video(rng, session, n_clips, n_units)])}


def _seconds(_config: Config, training: Training) -> float:
    return training.weights.clips * (1 + FRAMES_PER_UNIT * training.weights.units) / VIDEO_FPS


stage = Stage(
    name="video_vae",
    parts=("video_vae",),
    init=init,
    frozen=(),
    objectives=objectives,
    source=source,
    measure=measure,
    preview=preview,
    draw=draw,
    finish=finish,
    helpers=("discriminator",),
    batch_axes=AXES,
    unit="s of video",
    units_per_sample=_seconds,
)
