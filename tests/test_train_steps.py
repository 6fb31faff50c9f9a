"""Laws of a step: any mesh, any pieces, one seed; what is due, what is skipped."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import train_toy as toy
from wanstreamer_jax.model import init_params
from wanstreamer_jax.presets import load_preset, load_training
from wanstreamer_jax.training.config import MeshShape
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.flops import count_flops
from wanstreamer_jax.training.sharding import batch_sharding, check_batch, make_mesh, put_batch
from wanstreamer_jax.training.stage import Objective
from wanstreamer_jax.training.stages import STAGES, find_stage
from wanstreamer_jax.training.state import move_average
from wanstreamer_jax.training.step import Program

MESHES = [(1, 1, 1), (8, 1, 1), (2, 2, 2), (1, 8, 1), (1, 1, 4)]


def program(mesh=(1, 1, 1), stage=toy.stage, **changes) -> Program:
    training = dataclasses.replace(toy.TRAINING, **{"mesh": MeshShape(*mesh)} | changes)
    return Program(stage, toy.CONFIG, training, make_mesh(training.mesh))


def a_batch(p: Program, indices=range(8)) -> dict:
    samples = [p.stage.source(p.config, p.training, False, None)[i] for i in indices]
    stacked = jax.tree.map(lambda *x: np.stack(x), *samples)
    return put_batch(stacked, batch_sharding(p.mesh, p.stage.batch_axes))


def begin(p: Program):
    return jax.jit(p.init, out_shardings=p.shardings(jax.eval_shape(p.init, {})))({})


def step(p: Program, state, batch, number=0):
    return jax.jit(p.train_step, static_argnames="due")(state, {}, batch, due=p.due(number))


def close(a, b, tolerance=1e-5):
    """Equal to `tolerance` of the largest number of each array."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * np.abs(np.asarray(y)).max())


def gradient_of(p: Program) -> tuple:
    """An objective's gradient and metrics, accumulated in two pieces."""
    state = begin(p)
    key = jax.random.key(3)
    update = jax.jit(lambda t, b: p.accumulate(p.objectives[0], p.computed(t), {}, b, key))(
        state.trainees, a_batch(p, range(16))
    )
    return jax.tree.map(np.asarray, update)


@pytest.mark.parametrize("mesh", MESHES[1:])
def test_loss_and_gradients_are_equal_on_any_mesh(mesh):
    close(gradient_of(program(mesh, accumulation=2, batch=16)), gradient_of(program(accumulation=2, batch=16)))


@pytest.mark.parametrize("name", ["video_vae", "audio_vae"])
def test_memory_per_device_falls_as_fsdp_grows(name):
    """Of parameters and optimiser state of the tiny preset's VAEs, from their shardings."""
    config, training = load_preset("tiny"), load_training("tiny")[name]

    def megabytes(fsdp: int) -> float:
        p = Program(find_stage(name), config, training, make_mesh(MeshShape(1, fsdp)))
        parts = jax.eval_shape(lambda: {name: init_params(config, 0)[name]})
        shapes = jax.eval_shape(p.init, parts)
        sizes = jax.tree.map(lambda x, s: np.prod(s.shard_shape(x.shape)) * 4, shapes, p.shardings(shapes))
        return sum(jax.tree.leaves(sizes)) / 1e6

    whole = megabytes(1)
    for fsdp in (2, 4, 8):
        assert megabytes(fsdp) < 1.1 * whole / fsdp


def test_devices_hold_what_the_shardings_say():
    state = begin(program((1, 8, 1)))
    kernel = state.optimizer["student"][1][0].mu["kernel"]
    assert {shard.data.nbytes for shard in kernel.addressable_shards} == {kernel.nbytes // 8}


def test_pieces_change_nothing_but_noise():
    """The gradient of a batch is the mean of its pieces' gradients."""
    quiet = toy.ToyWeights(noise=0.0)
    one, four = (program(accumulation=n, weights=quiet) for n in (1, 4))
    first, second = (step(p, begin(p), a_batch(p))[0].trainees for p in (one, four))
    close(first, second)


def test_a_step_is_the_same_to_the_bit():
    p = program()
    (a, _), (b, _) = (step(p, begin(p), a_batch(p)) for _ in range(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_noise_depends_on_seed_and_step():
    def loss(seed, number):
        p = program(seed=seed, weights=toy.ToyWeights(noise=10.0))
        state = begin(program())._replace(step=jnp.int32(number))
        return float(step(p, state, a_batch(p))[1]["student/loss"])

    assert len({loss(0, 0), loss(0, 1), loss(1, 0)}) == 3


def test_objectives_are_due_when_they_say():
    objective = Objective("student", toy.fit, every=3, start=2, stop=9)
    assert [s for s in range(12) if objective.due(s)] == [2, 5, 8]
    assert [program().due(s) for s in range(4)] == [(0,), (0,), (0, 1), (0,)]


def test_losses_of_a_step_see_the_trainees_before_it():
    p = program()
    state, batch = begin(p), a_batch(p)
    both, metrics = step(p, state, batch, number=2)
    alone = p.differentiate(p.objectives[1], state.trainees, {}, batch, jax.random.key(0))
    close(metrics["critic/loss"], alone.metrics["loss"])
    assert not np.array_equal(both.trainees["student"]["kernel"], state.trainees["student"]["kernel"])


def test_an_update_that_is_not_finite_is_left_out_and_counted():
    p = program(weights=toy.ToyWeights(poison=3))
    state = begin(p)
    before = jax.tree.map(np.asarray, (state.trainees["student"], state.optimizer["student"]))
    bad, metrics = step(p, state, a_batch(p))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, (bad.trainees["student"], bad.optimizer["student"])))
    assert (int(bad.step), metrics["student/skipped"], metrics["student/skipped_in_a_row"]) == (1, 1, 1)
    good, metrics = step(p, bad, a_batch(p, range(8, 16)))
    assert (metrics["student/skipped"], metrics["student/skipped_in_a_row"]) == (1, 0)
    assert not np.array_equal(before[0]["kernel"], good.trainees["student"]["kernel"])


@pytest.mark.parametrize("name", STAGES)
def test_averages_are_of_all_that_goes_into_an_agent(name: str):
    """A trainee need not have the name of a part: `interact` trains two parts as one."""
    stage = find_stage(name)
    training = dataclasses.replace(load_training("tiny")[name], ema=0.9, mesh=MeshShape(1, 1, 1))
    trees = {objective.trainee: {"kernel": jnp.zeros(3)} for objective in stage.objectives(training)}
    bare = dataclasses.replace(stage, init=lambda *_: trees)
    for ema, averaged in ((0.9, trees.keys() - stage.helpers), (0.0, set())):
        p = Program(bare, toy.CONFIG, dataclasses.replace(training, ema=ema), make_mesh(training.mesh))
        assert p.init({}).ema.keys() == averaged


def test_averages_follow():
    average = {"kernel": jnp.zeros(3)}
    for i in range(200):
        average = move_average(average, {"kernel": jnp.ones(3)}, jnp.int32(i), 0.9)
        assert i > 0 or average["kernel"][0] == pytest.approx(0.9)  # young: a tenth of the old is kept
    assert average["kernel"][0] == pytest.approx(1, abs=1e-6)


def test_bfloat16_keeps_float32_masters():
    p = program(compute="bfloat16")
    state, metrics = step(p, begin(p), a_batch(p))
    assert {x.dtype for x in jax.tree.leaves(state.trainees)} == {np.dtype("float32")}
    exact = step(program(), begin(program()), a_batch(p))[1]
    np.testing.assert_allclose(metrics["student/loss"], exact["student/loss"], rtol=0.02)
    assert metrics["student/loss"] != exact["student/loss"]


def test_recomputing_changes_no_number():
    one, other = program(), program(remat="elementwise")
    close(step(one, begin(one), a_batch(one))[0].trainees, step(other, begin(other), a_batch(other))[0].trainees)


def test_arithmetic_is_counted_through_loops():
    x = jnp.zeros((8, 16))
    w = jnp.zeros((16, 16))
    looped = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, _: (c @ w, None), x, length=5)[0])(x)
    assert count_flops(looped.jaxpr) == 5 * 2 * 8 * 16 * 16
    image, kernel = jnp.zeros((1, 10, 10, 3)), jnp.zeros((3, 3, 3, 7))
    layout = ("NHWC", "HWIO", "NHWC")
    convolved = jax.make_jaxpr(
        lambda x: jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
    )(image)
    assert count_flops(convolved.jaxpr) == 2 * 27 * 700


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        ((0, 4, 1), "9 devices do not divide by fsdp 4 x ulysses 1 = 4"),
        ((4, 4, 1), "needs more than the 9 devices"),
        ((1, 0, 1), "at least 1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_sentence(mesh, words):
    with pytest.raises(TrainingError, match=words):
        make_mesh(MeshShape(*mesh))


def test_a_batch_that_does_not_divide_is_one_sentence():
    training = dataclasses.replace(toy.TRAINING, batch=10)
    with pytest.raises(TrainingError, match="batch 10 does not divide by accumulation 1 x 8 devices"):
        check_batch(training, make_mesh(MeshShape(4, 2)), ("data", "fsdp"))
