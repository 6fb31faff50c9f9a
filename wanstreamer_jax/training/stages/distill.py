"""A student of few steps and no guidance, from the agent as its guided teacher (Wan-Streamer v0.1, section 3).

First the student follows the teacher's path from noise to clean on sessions of the data. Then it lives through
sessions of its own, unit after unit with its own history (self-forcing), and what it makes in one random step of each
unit is matched to the teacher's distribution (DMD2): the teacher's denoiser against that of a critic, which is trained
on what the student makes, several times as often. No gradient flows into the history, and text is held to what the
teacher would have written.

All of it is the one forward over sessions: of the data, or of the student's own.

B windows, U units, T text tokens.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.flow import guided, noised, solver_times, velocity
from wanstreamer_jax.model import Latents, part
from wanstreamer_jax.training import pictures
from wanstreamer_jax.training.config import DistillWeights, Training
from wanstreamer_jax.training.distillation import (
    Field,
    at_step,
    chords,
    clean_at,
    matching_loss,
    solver_path,
)
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.rollout import roll_out
from wanstreamer_jax.training.stage import Batch, Metrics, Objective, Params, Stage, Trees
from wanstreamer_jax.training.stages.interact import (
    add_up,
    decode,
    draw_noise,
    draw_times,
    layers_again,
    mean_over_units,
    predict,
    text_loss,
    token_scores,
    velocity_errors,
    written_tokens,
)
from wanstreamer_jax.training.stages.sessions import Windows, seconds_of_window, window_source, windows
from wanstreamer_jax.transformer import FlowTime

STUDENT, CRITIC, TEACHER = "student", "critic", "transformer"
FROZEN = ("transformer", "perception", "video_vae", "audio_vae")
TIMES = (0.02, 0.98)  # between which distributions are compared: at the ends there is nothing to tell


def init(config: Config, weights: DistillWeights, parts: Trees, key: jax.Array) -> Trees:
    """Student and critic begin as the teacher."""
    del config, weights, key
    return {STUDENT: parts[TEACHER], CRITIC: parts[TEACHER]}


def objectives(training: Training) -> tuple[Objective, ...]:
    """The teacher's path until `match_from`; from then on a critic, and the student every so often."""
    weights: DistillWeights = training.weights
    start = weights.match_from
    follow, criticise, match = (
        functools.partial(loss, again=layers_again(training)) for loss in (following, criticism, matching)
    )
    return (
        Objective(STUDENT, follow, stop=start),
        Objective(CRITIC, criticise, start=start),
        Objective(STUDENT, match, every=weights.every, start=start),
    )


# ---- Losses


def following(
    config: Config,
    weights: DistillWeights,
    trainees: Trees,
    frozen: Trees,
    batch: Batch,
    key: jax.Array,
    again: bool = True,
) -> tuple[jax.Array, Metrics]:
    """The student's steps against the teacher's path, and text against the data."""
    noise_key, step_key = jax.random.split(key)
    n_steps, fine = config.flow.solver_steps, times_of(config, weights.teacher_steps)
    if weights.teacher_steps % n_steps:
        raise TrainingError(
            f"teacher_steps {weights.teacher_steps} do not divide by the agent's {n_steps} solver steps"
        )
    teacher, student = (windows(config, _with(frozen, tree), batch) for tree in (frozen[TEACHER], trainees[STUDENT]))
    path = solver_path(guided_field(teacher, weights.guidance), draw_noise(noise_key, teacher.session.clean), fine)
    chosen = jax.random.randint(step_key, batch["unit_mask"].shape, 0, n_steps)
    points, tau, wanted = chords(path, fine, n_steps, chosen)
    predicted = predict(student, points, FlowTime(*tau), _nobody(batch), again=again)
    text, more = text_loss(config, predicted.text_logits, student, batch)
    terms = velocity_errors(predicted.velocities, wanted, batch) | {"text": text}
    return add_up(weights, terms), terms | more


def criticism(
    config: Config,
    weights: DistillWeights,
    trainees: Trees,
    frozen: Trees,
    batch: Batch,
    key: jax.Array,
    again: bool = True,
) -> tuple[jax.Array, Metrics]:
    """Flow matching of what the student makes, in the student's own sessions."""
    make_key, key = jax.random.split(key)
    own, made, _ = make(config, trainees[STUDENT], frozen, batch, make_key)
    made = jax.lax.stop_gradient(made)
    points, noise, tau = between(config, made, key)
    critic = windows(config, _with(frozen, trainees[CRITIC]), own)
    predicted = predict(critic, points, tau, _nobody(batch), again=again)
    terms = velocity_errors(predicted.velocities, velocity(made, noise), batch)
    return add_up(weights, terms), terms


def matching(
    config: Config,
    weights: DistillWeights,
    trainees: Trees,
    frozen: Trees,
    batch: Batch,
    key: jax.Array,
    again: bool = True,
) -> tuple[jax.Array, Metrics]:
    """What the student makes, moved along the difference of teacher and critic; text as the teacher would write it."""
    make_key, key = jax.random.split(key)
    own, made, logits = make(config, trainees[STUDENT], frozen, batch, make_key, again)
    points, _, tau = between(config, jax.lax.stop_gradient(made), key)
    teacher, critic = (windows(config, _with(frozen, tree), own) for tree in (frozen[TEACHER], trainees[CRITIC]))
    real = clean_at(points, Latents(*tau), guided_field(teacher, weights.guidance)(points, Latents(*tau)))
    fake = clean_at(points, Latents(*tau), predict(critic, points, tau, _nobody(batch)).velocities)
    losses = matching_loss(made, real, fake)
    terms = {name: mean_over_units(x, name, batch) for name, x in losses._asdict().items()}
    taught = predict(teacher, points, tau, _nobody(batch)).text_logits
    terms["text"] = _divergence(config, jax.lax.stop_gradient(taught), logits, teacher, batch)
    return add_up(weights, terms), terms | _balance(made, real, fake)


def make(
    config: Config, student: Params, frozen: Trees, batch: Batch, key: jax.Array, again: bool = False
) -> tuple[Batch, Latents, jax.Array]:
    """Sessions of the student's own, the clean latents that it sees in one random step of each unit, and its text.

    Returns the batch with what it wrote and made, latents with a gradient through that step, and text logits.
    """
    roll_key, noise_key, step_key = jax.random.split(key, 3)
    parts = _with(frozen, student)
    own = lived(config, parts, batch, roll_key)
    seen = windows(config, parts, own)
    n_steps = config.flow.solver_steps
    times = jax.tree.map(lambda t: t[:-1], times_of(config, n_steps))
    field = conditional_field(seen)
    path = solver_path(field, draw_noise(noise_key, seen.session.clean), times)
    chosen = jax.random.randint(step_key, batch["unit_mask"].shape, 0, n_steps)
    points, tau = at_step(path, chosen), jax.tree.map(lambda t: t[chosen], times)
    predicted = predict(seen, points, FlowTime(*tau), _nobody(batch), again=again, cut=True)
    return own, clean_at(points, tau, predicted.velocities), predicted.text_logits


def lived(config: Config, parts: Trees, batch: Batch, key: jax.Array) -> Batch:
    """A batch with what the agent of `parts` writes and makes in the place of what was written and made."""
    seen = windows(config, parts, batch)
    rolled = roll_out(config, parts, seen.world[0], seen.session, key)
    made = {"audio_mean": rolled.latents.audio, "video_mean": rolled.latents.video}
    return batch | made | {"agent_text": rolled.text, "n_agent_text": rolled.n_text}


def between(config: Config, made: Latents, key: jax.Array) -> tuple[Latents, Latents, FlowTime]:
    """Points on the way from what was made to noise, the noise, and the times."""
    noise_key, time_key = jax.random.split(key)
    noise = draw_noise(noise_key, made)
    drawn = draw_times(time_key, config.flow, made.audio.shape[:2], coupled=0.5)
    tau = FlowTime(*(jnp.clip(t, *TIMES) for t in drawn))
    return noised(made, noise, Latents(*tau)), noise, tau


def times_of(config: Config, n_steps: int) -> Latents:
    """Times [n_steps + 1] of the solver, from 1 to 0, of sound and of picture."""
    times = np.array(solver_times(config.with_solver_steps(n_steps).flow), np.float32)
    return Latents(jnp.asarray(times[:, 0]), jnp.asarray(times[:, 1]))


def guided_field(seen: Windows, guidance: float) -> Field:
    """Velocities with classifier-free guidance: away from what would be made without condition; 1: as they are."""
    if guidance == 1:
        return conditional_field(seen)

    def field(points: Latents, tau: Latents) -> Latents:
        everyone = jnp.ones(tau.audio.shape, bool)
        conditional, alone = (predict(seen, points, FlowTime(*tau), x).velocities for x in (~everyone, everyone))
        return guided(conditional, alone, guidance)

    return field


def conditional_field(seen: Windows) -> Field:
    """Velocities as they are."""
    return lambda points, tau: predict(seen, points, FlowTime(*tau), jnp.zeros(tau.audio.shape, bool)).velocities


def _divergence(config: Config, taught: jax.Array, logits: jax.Array, seen: Windows, batch: Batch) -> jax.Array:
    """Kullback-Leibler divergence of a unit's text from the teacher's, nats."""
    wanted, actual = token_scores(config, taught), token_scores(config, logits)
    terms = jnp.where(jnp.isfinite(wanted), jnp.exp(wanted) * (wanted - actual), 0.0)
    nats = jnp.sum(jnp.where(written_tokens(seen), jnp.sum(terms, axis=-1), 0.0), axis=2)
    return mean_over_units(nats, "text", batch)


def _balance(made: Latents, real: Latents, fake: Latents) -> Metrics:
    """How far the critic is from the teacher, in units of how far what was made is from the teacher's."""

    def ratio(x: jax.Array, real: jax.Array, fake: jax.Array) -> jax.Array:
        return jnp.mean(jnp.abs(fake - real)) / (jnp.mean(jnp.abs(x - real)) + 1e-6)

    return {f"{name}_balance": x for name, x in jax.tree.map(ratio, made, real, fake)._asdict().items()}


def _with(frozen: Trees, transformer: Params) -> Trees:
    return frozen | {TEACHER: transformer}


def _nobody(batch: Batch) -> jax.Array:
    return jnp.zeros(batch["unit_mask"].shape, bool)


# ---- Looking at it


def measure(
    config: Config, weights: DistillWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """How far from the teacher's path, and how loud and bright it is: in closed loop, in one step, and in truth."""
    follow_key, live_key, noise_key = jax.random.split(key, 3)
    _, metrics = following(config, weights, trainees, frozen, batch, follow_key)
    parts = _with(frozen, trainees[STUDENT])
    closed, one_step = closed_and_one_step(config, parts, batch, live_key, noise_key)
    seen = windows(config, parts, batch)
    shown = {"closed_loop": closed, "one_step": one_step, "real": seen.session.clean}
    levels = {
        f"{name}_{kind}": x
        for name, latents in shown.items()
        for kind, x in _levels(config, frozen, seen.portrait, latents).items()
    }
    gaps = {f"{kind}_gap": jnp.abs(levels[f"closed_loop_{kind}"] - levels[f"real_{kind}"]) for kind in LEVELS}
    return {f"path_{name}": x for name, x in metrics.items()} | levels | gaps


LEVELS = ("loudness_db", "brightness")


def closed_and_one_step(
    config: Config, parts: Trees, batch: Batch, live_key: jax.Array, noise_key: jax.Array
) -> tuple[Latents, Latents]:
    """Latents of a session of the agent's own, and of the data's session in one step from noise."""
    own = lived(config, parts, batch, live_key)
    seen = windows(config, parts, batch)
    noise = draw_noise(noise_key, seen.session.clean)
    ones = jax.tree.map(lambda z: jnp.ones(z.shape[:2]), noise)
    one_step = clean_at(noise, ones, conditional_field(seen)(noise, ones))
    return Latents(own["audio_mean"], own["video_mean"]), one_step


def _levels(config: Config, frozen: Trees, portrait: jax.Array, latents: Latents) -> Metrics:
    """Root mean square of sound in dB of full scale, and mean pixel, 0 black to 1 white."""
    audio = latents.audio.reshape(len(latents.audio), -1, latents.audio.shape[-1])
    samples = part(config, frozen, "audio_vae").decoder(audio)
    brightness = (jnp.mean(decode(config, frozen, portrait, latents)) + 1) / 2
    return {"loudness_db": 10 * jnp.log10(jnp.mean(jnp.square(samples)) + 1e-10), "brightness": brightness}


def preview(
    config: Config, weights: DistillWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """The first window as it was, in one step, and as the student lives it."""
    del weights
    first = jax.tree.map(lambda x: x[:1], batch)
    parts = _with(frozen, trainees[STUDENT])
    closed, one_step = closed_and_one_step(config, parts, first, *jax.random.split(key))
    seen = windows(config, parts, first)
    shown = {"real": seen.session.clean, "one_step": one_step, "closed_loop": closed}
    return {name: decode(config, frozen, seen.portrait, latents) for name, latents in shown.items()}


def draw(shown: Mapping[str, np.ndarray], folder: Path) -> None:
    """Six moments of each, and all as a film, one above the other."""
    pictures.write_compared(folder, "closed_loop", [shown[name] for name in ("real", "one_step", "closed_loop")])


def finish(config: Config, trainees: Trees, measured: Mapping[str, np.ndarray]) -> tuple[Config, Trees]:
    """The student, which needs no guidance."""
    del measured
    flow = dataclasses.replace(config.flow, guidance=1.0)
    return dataclasses.replace(config, flow=flow), {TEACHER: trainees[STUDENT]}


stage = Stage(
    name="distill",
    parts=(TEACHER,),
    init=init,
    frozen=FROZEN,
    objectives=objectives,
    source=window_source,
    measure=measure,
    preview=preview,
    draw=draw,
    finish=finish,
    helpers=(CRITIC,),
    unit="s of session",
    units_per_sample=seconds_of_window,
)
