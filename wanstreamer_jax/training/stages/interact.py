"""Six streams in one forward: the agent's text by cross-entropy, its sound and picture by flow matching.

    loss = text CE + lambda_a FM_a + lambda_v FM_v        (Wan-Streamer v0.1, section 3; equation 3)

Each unit has two flow times of its own, one for sound and one for picture: a shared time was seen to break training
of voices elsewhere. Half of the units take the pairs of times that the solver visits. In some units the noisy latents
see the world only, from which the teacher gets its guidance. The agent's own past may be noisy too, since in closed
loop what it made is never exact. Losses are sums over a window's units divided by their number, so that a mean over
windows is a mean however a batch is cut into pieces.

B windows, U units, T text tokens, V vocabulary, C channels, n noisy copies.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float

from wanstreamer_jax.config import Config, FlowConfig
from wanstreamer_jax.flow import noised, shifted, velocity
from wanstreamer_jax.model import Latents, part
from wanstreamer_jax.session import Noisy, Predicted, forward
from wanstreamer_jax.training import pictures
from wanstreamer_jax.training.config import DistillWeights, Training, WindowWeights
from wanstreamer_jax.training.sharding import token_spread
from wanstreamer_jax.training.stage import Batch, Loss, Metrics, Objective, Stage, Trees
from wanstreamer_jax.training.stages.sessions import Windows, seconds_of_window, window_source, windows
from wanstreamer_jax.transformer import FlowTime

AGENT, TRAINED = "agent", ("transformer", "perception")
FROZEN = ("video_vae", "audio_vae")
STILL = 1e-2  # of latents, whose deviation is 1: what moves less does not move


def init(config: Config, weights: WindowWeights, parts: Trees, key: jax.Array) -> Trees:
    """The agent's Transformer, and its eyes and ears: one tree, for one loss moves both."""
    del config, weights, key
    return {AGENT: {name: parts[name] for name in TRAINED}}


def objectives(training: Training) -> tuple[Objective, ...]:
    """One loss for all that is trained."""
    loss = functools.partial(interaction, again=layers_again(training))
    return (Objective(AGENT, loss if training.optimizer.senses else functools.partial(_with_still_senses, loss)),)


def _with_still_senses(
    loss: Loss, config: Config, weights: WindowWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """A loss to whose gradient perception is constant: nobody follows it, and a quarter of a step goes into it."""
    own = trainees[AGENT]
    still = own | {"perception": jax.lax.stop_gradient(own["perception"])}
    return loss(config, weights, trainees | {AGENT: still}, frozen, batch, key)


def layers_again(training: Training) -> bool:
    """Whether the backward pass computes layers of the Transformer again."""
    return training.remat != "nothing"


# ---- Losses


def interaction(
    config: Config,
    weights: WindowWeights,
    trainees: Trees,
    frozen: Trees,
    batch: Batch,
    key: jax.Array,
    again: bool = True,
) -> tuple[jax.Array, Metrics]:
    """Text, and velocities at random flow times; `again` as in `predict`."""
    seen = windows(config, frozen | trainees[AGENT], batch)
    noise_key, time_key, alone_key, past_key = jax.random.split(key, 4)
    clean = in_copies(seen.session.clean, weights.copies)
    noise = draw_noise(noise_key, clean)
    tau = draw_times(time_key, config.flow, clean.audio.shape[:2], weights.coupled)
    alone = jax.random.bernoulli(alone_key, weights.alone, clean.audio.shape[:2])
    lived = inexact(seen, weights.history_noise, past_key)
    predicted = predict(lived, noised(clean, noise, Latents(*tau)), tau, alone, again=again)
    terms, more = losses(config, predicted, noise, seen, batch, weights.motion)
    return add_up(weights, terms), terms | more


def inexact(seen: Windows, latest: float, key: jax.Array) -> Windows:
    """Windows in which what the agent made is seen at a flow time of up to `latest`, which each unit draws."""
    noise_key, time_key = jax.random.split(key)
    clean = seen.session.clean
    tau = latest * jax.random.uniform(time_key, clean.audio.shape[:2])
    past = noised(clean, draw_noise(noise_key, clean), Latents(tau, tau))
    return seen._replace(session=seen.session._replace(clean=past))


def in_copies(latents: Latents, copies: int) -> Latents:
    """Latents [B, U, ..] as those of noisy copies are laid out, [B, U n, ..]: a unit's in a row."""
    return jax.tree.map(lambda z: jnp.repeat(z, copies, axis=1), latents)


def add_up(weights: WindowWeights | DistillWeights, terms: Metrics) -> jax.Array:
    """The weighted sum of terms that have a weight of their name."""
    return jnp.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()


def predict(
    seen: Windows, points: Latents, tau: FlowTime, alone: jax.Array, *, again: bool = False, cut: bool = False
) -> Predicted:
    """The forward over windows whose latents are at `points` of their path; `alone` and `cut` as in `session`.

    `again`: for gradients, layers are computed again instead of kept.
    """
    noisy = Noisy(points, tau, alone)
    return forward(seen.model, seen.world, seen.session, noisy, token_spread(), remat=again, cut=cut)


def losses(
    config: Config, predicted: Predicted, noise: Latents, seen: Windows, batch: Batch, motion: float = 0.0
) -> tuple[Metrics, Metrics]:
    """The three terms, and how often the likeliest token was right; `motion` as in `WindowWeights`."""
    copies = noise.audio.shape[1] // batch["unit_mask"].shape[1]
    clean = in_copies(seen.session.clean, copies)
    shares = Latents(jnp.float32(1), motion_shares(seen.session.clean.video, motion))
    velocities = velocity_errors(predicted.velocities, velocity(clean, noise), batch, shares)
    text, more = text_loss(config, predicted.text_logits, seen, batch)
    return velocities | {"text": text}, more


def velocity_errors(predicted: Latents, wanted: Latents, batch: Batch, shares: Latents | None = None) -> Metrics:
    """Mean squared error of sound's and picture's velocities over a unit's noisy copies, each number by its share."""
    errors = jax.tree.map(lambda p, v: jnp.square(p.astype(jnp.float32) - v), predicted, wanted)
    n_units = batch["unit_mask"].shape[1]
    errors = jax.tree.map(lambda x: jnp.mean(rearrange(x, "B (U n) ... -> B U n ...", U=n_units), axis=2), errors)
    if shares is not None:
        errors = jax.tree.map(jnp.multiply, errors, shares)
    return {name: mean_over_units(x, name, batch) for name, x in errors._asdict().items()}


def motion_shares(video: Float[Array, "B U h w C"], motion: float) -> Float[Array, "B U h w 1"]:
    """What each place of a unit's picture counts: 1 on average, more where it differs from the unit before."""
    before = jnp.concatenate([video[:, :1], video[:, :-1]], axis=1)
    moved = jnp.mean(jnp.abs(video - before), axis=-1, keepdims=True)
    share = 1 + motion * moved / (jnp.mean(moved, axis=(2, 3), keepdims=True) + STILL)
    return share / jnp.mean(share, axis=(2, 3), keepdims=True)


def text_loss(config: Config, logits: jax.Array, seen: Windows, batch: Batch) -> tuple[jax.Array, Metrics]:
    """Cross-entropy of a unit's text in nats, and the share of tokens that are the likeliest."""
    text, written = seen.session.agent_text, written_tokens(seen)
    scores = token_scores(config, logits)
    nats = -jnp.take_along_axis(scores, text[..., None], axis=-1)[..., 0]
    right = (jnp.argmax(scores, axis=-1) == text) & written
    accuracy = jnp.sum(right, axis=2) / jnp.maximum(jnp.sum(written, axis=2), 1)
    loss = mean_over_units(jnp.sum(jnp.where(written, nats, 0.0), axis=2), "text", batch)
    return loss, {"text_accuracy": mean_over_units(accuracy, "text", batch)}


def written_tokens(seen: Windows) -> Bool[Array, "B U T"]:
    """Which places of agent text hold a token."""
    return jnp.arange(seen.session.agent_text.shape[2]) < seen.session.n_agent_text[..., None]


def token_scores(config: Config, logits: Float[Array, "B U T V"]) -> Float[Array, "B U T V"]:
    """Log-probabilities of the tokens that may be written: none above <unit_end>, as when it is served."""
    allowed = jnp.arange(logits.shape[-1]) <= config.text.unit_end
    return jax.nn.log_softmax(jnp.where(allowed, logits, -jnp.inf))


def draw_noise(key: jax.Array, like: Latents) -> Latents:
    """Standard normal latents."""
    return Latents(*(jax.random.normal(k, x.shape, x.dtype) for k, x in zip(jax.random.split(key), like, strict=True)))


def draw_times(key: jax.Array, flow: FlowConfig, shape: tuple[int, ...], coupled: float) -> FlowTime:
    """Flow times of sound and picture, each uniform before its shift."""
    key_audio, key_video, key_coupled = jax.random.split(key, 3)
    audio, video = (jax.random.uniform(k, shape) for k in (key_audio, key_video))
    video = jnp.where(jax.random.bernoulli(key_coupled, coupled, shape), audio, video)
    return FlowTime(shifted(audio, flow.audio_shift), shifted(video, flow.video_shift))


def mean_over_units(x: Float[Array, "B U *C"], stream: str, batch: Batch) -> jax.Array:
    """The mean over windows of the weighted sum over a window's units of means, by how many units it has."""
    weight = batch[f"loss_{stream}"]
    per_unit = jnp.mean(x, axis=tuple(range(2, x.ndim)))
    n_units = jnp.maximum(jnp.sum(batch["unit_mask"], axis=1), 1)
    return jnp.mean(jnp.sum(jnp.where(weight > 0, per_unit * weight, 0.0), axis=1) / n_units)


# ---- Looking at it


def measure(
    config: Config, weights: WindowWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """The loss and its terms on held-out windows, conditioned and at the solver's pairs of times."""
    seen = windows(config, frozen | trainees[AGENT], batch)
    noise_key, time_key = jax.random.split(key)
    noise = draw_noise(noise_key, seen.session.clean)
    tau = draw_times(time_key, config.flow, batch["unit_mask"].shape, coupled=1.0)
    points = noised(seen.session.clean, noise, Latents(*tau))
    terms, more = losses(config, predict(seen, points, tau, jnp.zeros(tau.audio.shape, bool)), noise, seen, batch)
    return {"loss": add_up(weights, terms)} | terms | more


def preview(
    config: Config, weights: WindowWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """One step from noise to clean for every unit of the first window, beside what it was."""
    del weights
    first = jax.tree.map(lambda x: x[:1], batch)
    seen = windows(config, frozen | trainees[AGENT], first)
    noise = draw_noise(key, seen.session.clean)
    ones = jnp.ones(first["unit_mask"].shape)
    predicted = predict(seen, noise, FlowTime(ones, ones), jnp.zeros(ones.shape, bool))
    one_step = jax.tree.map(jnp.subtract, noise, predicted.velocities)
    shown = {"real": seen.session.clean, "one_step": one_step}
    return {name: decode(config, frozen, seen.portrait, latents) for name, latents in shown.items()}


def decode(config: Config, parts: Trees, portrait: Float[Array, "B h w C"], latents: Latents) -> jax.Array:
    """Frames [B, T, H, W, 3] in [-1, 1] of units of latents, begun with the portrait as every stream is."""
    decoder = part(config, parts, "video_vae").decoder
    _, state = decoder.first(portrait[:, None], decoder.init_state(len(portrait)))
    return decoder.step(latents.video, state)[0]


def draw(shown: Mapping[str, np.ndarray], folder: Path) -> None:
    """Six moments above what one step makes of them, and both as a film, one above the other."""
    pictures.write_compared(folder, "one_step", [shown["real"], shown["one_step"]])


def finish(config: Config, trainees: Trees, measured: Mapping[str, np.ndarray]) -> tuple[Config, Trees]:
    """What was trained."""
    del measured
    return config, trainees[AGENT]


stage = Stage(
    name="interact",
    parts=TRAINED,
    init=init,
    frozen=FROZEN,
    objectives=objectives,
    source=window_source,
    measure=measure,
    preview=preview,
    draw=draw,
    finish=finish,
    unit="s of session",
    units_per_sample=seconds_of_window,
)
