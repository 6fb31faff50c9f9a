"""Distillation on a problem with a known answer: a mixture of Gaussians in the place of latents.

The teacher is exact: the velocity of a mixture is arithmetic. Guidance moves it away from the mixture of all classes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wanstreamer_jax.flow import guided, noised, velocity
from wanstreamer_jax.training.distillation import (
    at_step,
    chords,
    clean_at,
    everywhere,
    matching_loss,
    solver_path,
)

# Two modes of the class that is asked for; without a class, four more.
OWN = jnp.array([[2.0, 1.0], [2.0, -1.0]])
ALL = jnp.concatenate([OWN, jnp.array([[-2.0, 0.0], [0.0, 2.0], [0.0, -2.0], [-1.0, 1.5]])])
STD, GUIDANCE, STUDENT_STEPS, TEACHER_STEPS = 0.15, 2.0, 2, 32
FINE = jnp.linspace(1.0, 0.0, TEACHER_STEPS + 1)
COARSE = jnp.linspace(1.0, 0.0, STUDENT_STEPS + 1)


def mixture_field(centres):
    """The velocity E[noise - clean | z at tau] of a mixture of equal Gaussians."""

    def field(z, tau):
        tau = tau[..., None]
        variance = (1 - tau) ** 2 * STD**2 + tau**2
        offsets = z[..., None, :] - (1 - tau)[..., None] * centres  # [B, U, modes, 2]
        weights = jax.nn.softmax(-jnp.sum(offsets**2, -1) / (2 * variance), axis=-1)
        mean = jnp.einsum("BUm,mc->BUc", weights, centres)
        excess = (z - (1 - tau) * mean) / variance
        return tau * excess - (mean + (1 - tau) * STD**2 * excess)

    return field


def teacher(z, tau):
    return guided(mixture_field(OWN)(z, tau), mixture_field(ALL)(z, tau), GUIDANCE)


def init_network(key, width=96):
    keys = jax.random.split(key, 3)
    sizes = [(8, width), (width, width), (width, 2)]
    return [(jax.random.normal(k, s) * s[0] ** -0.5, jnp.zeros(s[1])) for k, s in zip(keys, sizes, strict=True)]


def network(params, z, tau):
    tau = tau[..., None]
    x = jnp.concatenate([z, tau, jnp.cos(3 * tau), jnp.sin(3 * tau), z * tau, tau**2], axis=-1)
    for i, (kernel, bias) in enumerate(params):
        x = x @ kernel + bias
        x = jax.nn.silu(x) if i < 2 else x
    return x


def noise_of(key, n=512):
    return jax.random.normal(key, (n, 1, 2))


def distance(a, b, n_directions=64):
    """Sliced Wasserstein distance of two sets of points."""
    angles = np.linspace(0, np.pi, n_directions, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    x, y = (np.sort(np.asarray(s).reshape(-1, 2) @ directions, axis=0) for s in (a, b))
    return float(np.mean(np.abs(x - y)))


def follow(params, key):
    noise_key, step_key = jax.random.split(key)
    path = solver_path(teacher, noise_of(noise_key), FINE)
    chosen = jax.random.randint(step_key, (512, 1), 0, STUDENT_STEPS)
    points, tau, wanted = chords(path, FINE, STUDENT_STEPS, chosen)
    return jnp.mean(jnp.square(network(params, points, tau) - wanted))


def make(params, key):
    noise_key, step_key = jax.random.split(key)
    path = solver_path(functools.partial(network, params), noise_of(noise_key), COARSE[:-1])
    chosen = jax.random.randint(step_key, (512, 1), 0, STUDENT_STEPS)
    points, tau = at_step(path, chosen), COARSE[chosen]
    return clean_at(points, tau, network(params, points, tau))


def between(made, key):
    noise_key, time_key = jax.random.split(key)
    noise, tau = jax.random.normal(noise_key, made.shape), jax.random.uniform(time_key, made.shape[:2], minval=0.05)
    return noised(made, noise, tau), noise, tau


def match(params, critic, key, field):
    make_key, key = jax.random.split(key)
    made = make(params, make_key)
    points, _, tau = between(jax.lax.stop_gradient(made), key)
    real, fake = (clean_at(points, tau, f(points, tau)) for f in (field, functools.partial(network, critic)))
    return jnp.mean(matching_loss(made, real, fake))


def criticise(critic, params, key):
    make_key, key = jax.random.split(key)
    made = jax.lax.stop_gradient(make(params, make_key))
    points, noise, tau = between(made, key)
    return jnp.mean(jnp.square(network(critic, points, tau) - velocity(made, noise)))


def train(loss, params, n_steps, seed, rate=2e-3):
    optimizer = optax.adam(rate)

    def step(state, key):
        params, optimizer_state = state
        gradient = jax.grad(loss)(params, key)
        change, optimizer_state = optimizer.update(gradient, optimizer_state)
        return (optax.apply_updates(params, change), optimizer_state), None

    keys = jax.random.split(jax.random.key(seed), n_steps)
    return jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), keys)[0][0])(params)


def match_distribution(params, field, n_rounds, seed, ratio=5):
    """The student once for every `ratio` updates of the critic."""
    student_optimizer, critic_optimizer = optax.adam(3e-4, b1=0.5), optax.adam(2e-3, b1=0.5)

    def round_of(state, key):
        params, critic, ours, theirs = state
        keys = jax.random.split(key, ratio + 1)
        for k in keys[1:]:
            change, theirs = critic_optimizer.update(jax.grad(criticise)(critic, params, k), theirs)
            critic = optax.apply_updates(critic, change)
        change, ours = student_optimizer.update(jax.grad(match)(params, critic, keys[0], field), ours)
        return (optax.apply_updates(params, change), critic, ours, theirs), None

    critic = train(lambda c, k: criticise(c, params, k), init_network(jax.random.key(seed)), 500, seed)
    state = params, critic, student_optimizer.init(params), critic_optimizer.init(critic)
    keys = jax.random.split(jax.random.key(seed), n_rounds)
    return jax.jit(lambda s: jax.lax.scan(round_of, s, keys)[0][0])(state)


def sample(field, times, seed, n=4096):
    return solver_path(field, noise_of(jax.random.key(seed), n), times)[-1]


@pytest.fixture(scope="module")
def student():
    return train(follow, init_network(jax.random.key(0)), 1500, seed=1)


def test_two_steps_reach_the_guided_teacher_where_plain_sampling_does_not(student):
    truth = sample(teacher, FINE, seed=100)
    same = distance(truth, sample(teacher, FINE, seed=101))  # of two draws of one distribution
    plain = distance(truth, sample(teacher, COARSE, seed=102))
    followed = distance(truth, sample(functools.partial(network, student), COARSE, seed=103))
    matched = match_distribution(student, teacher, 300, seed=2)
    reached = distance(truth, sample(functools.partial(network, matched), COARSE, seed=104))
    assert same < 0.05
    assert plain > 0.2
    assert followed < plain / 6
    assert reached < plain / 2  # what guided denoisers describe is not quite what guided sampling draws


def test_matching_alone_finds_the_distribution():
    """From a student that makes something else altogether, without guidance, where the answer is exact."""
    field = mixture_field(OWN)
    truth = sample(field, FINE, seed=100)

    def elsewhere(params, key):
        z = noise_of(key)
        return jnp.mean(jnp.square(network(params, z, jax.random.uniform(key, z.shape[:2])) - 1.5))

    shifted = train(elsewhere, init_network(jax.random.key(3)), 200, seed=3)
    before = distance(truth, sample(functools.partial(network, shifted), COARSE, seed=105))
    found = match_distribution(shifted, field, 600, seed=4)
    after = distance(truth, sample(functools.partial(network, found), COARSE, seed=106))
    assert before > 1
    assert after < before / 8


def test_chords_join_the_points_of_the_path():
    path = solver_path(teacher, noise_of(jax.random.key(0), 8), FINE)
    chosen = jnp.arange(8).reshape(8, 1) % STUDENT_STEPS
    points, tau, velocities = chords(path, FINE, STUDENT_STEPS, chosen)
    stride = TEACHER_STEPS // STUDENT_STEPS
    for b in range(8):
        k = int(chosen[b, 0])
        np.testing.assert_array_equal(points[b], path[k * stride, b])
        step = FINE[(k + 1) * stride] - tau[b, 0]
        np.testing.assert_allclose(points[b] + step * velocities[b], path[(k + 1) * stride, b], atol=1e-5)


def test_the_gradient_of_matching_is_the_difference_of_the_denoisers():
    made, real, fake = (jax.random.normal(jax.random.key(i), (3, 2, 5)) for i in range(3))
    gradient = jax.grad(lambda x: jnp.sum(matching_loss(x, real, fake)))(made)
    weight = jnp.mean(jnp.abs(made - real), axis=2, keepdims=True) * 5
    np.testing.assert_allclose(gradient, (fake - real) / weight, rtol=1e-4)


def test_the_clean_point_of_the_true_velocity_is_the_clean_point():
    clean, noise = (jax.random.normal(jax.random.key(i), (2, 3, 4)) for i in range(2))
    tau = jnp.full((2, 3), 0.7)
    np.testing.assert_allclose(clean_at(noised(clean, noise, tau), tau, velocity(clean, noise)), clean, atol=1e-6)
    assert everywhere(0.5, clean).shape == (2, 3)
