"""What one update of `interact` asks of a device, counted in the traced program itself.

The program is traced for one window and one device, with one layer and with two: what it computes, and what is alive in
each of its phases, are linear in the number of layers. No array is ever made.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from wanstreamer_jax.attention_tiles import traced_for
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.record import AgentLatents, Record, Streams
from wanstreamer_jax.model import init_params
from wanstreamer_jax.planning.liveness import Listing, buffers_of
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT
from wanstreamer_jax.tokens import byte_tokenizer
from wanstreamer_jax.training.config import MeshShape, Training
from wanstreamer_jax.training.flops import count_flops
from wanstreamer_jax.training.sharding import make_mesh
from wanstreamer_jax.training.stages import interact
from wanstreamer_jax.training.stages.sessions import Window
from wanstreamer_jax.training.step import Program

TRACED = (1, 2)  # layers


class Alive(NamedTuple):
    """Bytes of one window's pass, by how they are shared out."""

    window: float  # over ulysses: XLA splits all of a window as its tokens are, by units
    gradients: float  # over fsdp


@dataclasses.dataclass(frozen=True)
class Step:
    """One window's forward and backward pass."""

    phases: tuple[tuple[np.ndarray, np.ndarray], ...]  # bytes alive [I, 2], with one layer and with two
    n_more: int  # layers, besides the first
    flop: float
    moved: Alive  # what is written and read in all

    def peak(self, windows: float, gradients: float) -> Alive:
        """What is alive at the moment when most is, of such shares of a window and of the gradients."""
        share = np.array([windows, gradients])
        most = [self._at_all(*(_largest(alive * share) for alive in phase)) for phase in self.phases]
        return Alive(*max(most, key=np.sum))

    def _at_all(self, of_one: Any, of_two: Any) -> Any:
        return of_one + self.n_more * (of_two - of_one)


def _largest(alive: np.ndarray) -> np.ndarray:
    return alive[alive.sum(axis=1).argmax()]


def trace_step(config: Config, training: Training) -> Step:
    """Trace one window of a configuration through its losses and gradients."""
    one, two = (trace_layers(_with_layers(config, n), training) for n in TRACED)
    n_more = config.transformer.layers - TRACED[0]
    phases = zip(_phases(one), _phases(two), strict=True)
    flop = one.flop + n_more * (two.flop - one.flop)
    moved = one.moved + n_more * (two.moved - one.moved)
    return Step(tuple(phases), n_more, float(flop), Alive(*moved.tolist()))


def _phases(traced: "Traced") -> tuple[np.ndarray, ...]:
    """Until the losses, the last layer's backward pass, the first one's, and the rest, whose end is all gradients."""
    alive, last, first = traced.alive, traced.layers[0], traced.layers[-1]
    parts = (slice(last.start), slice(last.start, last.stop), slice(first.start, first.stop), slice(first.stop, None))
    return (*(alive[part] for part in parts), alive[-1:])


def _with_layers(config: Config, n: int) -> Config:
    return dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, layers=n))


class Traced(NamedTuple):
    """A window's pass as it is, all layers traced."""

    alive: np.ndarray  # bytes at each instruction [I, 2], as in `Alive`
    moved: np.ndarray  # bytes [2]
    flop: int
    layers: tuple[range, ...]  # instructions of each layer's backward pass, the last layer's first


def trace_layers(config: Config, training: Training) -> Traced:
    """Trace every layer; `trace_step` needs two of them only."""
    with traced_for("gpu"):
        jaxpr = jax.make_jaxpr(_gradients(config, training))(*arguments(config, training)).jaxpr
    listing = Listing.of(jaxpr)
    buffers = buffers_of(listing)
    n_bytes = listing.n_bytes(buffers.value)
    of_gradients = np.array([x in buffers.of_results for x in buffers.value])
    sizes = n_bytes[:, None] * np.stack([~of_gradients, of_gradients], axis=1)
    alive = buffers.alive(sizes, len(listing.instructions))
    passes = sorted(listing.repeated, key=len)  # those of layers; that of the whole loss, if there is one, is longer
    layers = sorted(passes[: config.transformer.layers], key=lambda x: x.start)
    moved = np.array(buffers.n_moves) @ sizes + np.array([listing.moved, 0])
    return Traced(alive, moved, count_flops(jaxpr), tuple(layers))


# ---- What is traced


def program_of(config: Config, training: Training) -> Program:
    """The stage on one device."""
    return Program(interact.stage, config, training, make_mesh(MeshShape(1, 1, 1)))


def _gradients(config: Config, training: Training) -> Any:
    program = program_of(config, training)
    (objective,) = program.objectives
    return functools.partial(program.differentiate, objective)


def arguments(config: Config, training: Training) -> tuple[Any, ...]:
    """Shapes of trainees and frozen parts as a loss sees them, of one window, and of a key."""
    trainees, frozen = parts_of(config)
    cast = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(x.shape, training.compute))
    return cast(trainees), cast(frozen), batch_of(config, training.weights.units, 1), jax.eval_shape(jax.random.key, 0)


def parts_of(config: Config) -> tuple[Any, Any]:
    """Shapes of the trainees and of the frozen parts."""
    parts = jax.eval_shape(functools.partial(init_params, config, 0))
    trainees = {interact.AGENT: {name: parts[name] for name in interact.TRAINED}}
    return trainees, {name: parts[name] for name in interact.FROZEN}


def batch_of(config: Config, units: int, n: int, *, encoded: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of n windows; `encoded`: latents were prepared."""
    layout = Layout.of(config, byte_tokenizer())
    sample = Window(config, layout, units)(_record(config, units, encoded), np.random.default_rng(0))
    return {name: jax.ShapeDtypeStruct((n, *np.shape(x)), np.asarray(x).dtype) for name, x in sample.items()}


def _record(config: Config, U: int, encoded: bool) -> Record:
    """A session in which nothing happens."""
    text, world, seen, shown = config.text, config.world, config.vision.picture, config.picture
    sound = (config.audio_vae.latent_channels,)
    grid = (*shown.latent_grid, config.video_vae.latent_channels)
    half = functools.partial(np.zeros, dtype=np.float16)
    per_unit = (U, config.layout.n_agent_audio, *sound)
    latents = AgentLatents(
        *(half(shape) for shape in (per_unit, per_unit, (U, *grid), (U, *grid), grid, (world.max_voice, *sound)))
    )
    count, samples = np.zeros(U, np.int32), np.zeros((U, SAMPLES_PER_UNIT), np.int16)
    said = np.zeros((U, text.max_agent), np.int32)
    frames = functools.partial(np.zeros, dtype=np.uint8)
    portrait = frames((shown.height, shown.width, 3))
    return Record(
        name="", licence="", first_unit=0, words=[], words_moved=0, labels={}, streams=Streams(*(True,) * 7),
        user_frames=frames((U, FRAMES_PER_UNIT, seen.height, seen.width, 3)), user_samples=samples,
        agent_frames=frames((U, FRAMES_PER_UNIT, shown.height, shown.width, 3)), agent_samples=samples,
        frame_before=portrait, user_text=np.zeros((U, text.max_user), np.int32), n_user_text=count,
        agent_text=said, n_agent_text=count, heard=said, n_heard=count, persona=np.zeros(world.max_text, np.int32),
        portrait=portrait, voice=np.zeros(world.n_voice_samples, np.int16),
        latents=latents if encoded else None,
    )  # fmt: skip
