"""The path, the solver and guidance: exact where they can be, and separate for sound and picture."""

import jax.numpy as jnp
import numpy as np
import pytest

from wanstreamer_jax.config import FlowConfig
from wanstreamer_jax.flow import flow_loss, guided, noised, shifted, solve, solver_times, velocity
from wanstreamer_jax.model import Latents
from wanstreamer_jax.transformer import FlowTime

RNG = np.random.default_rng(0)


def latents():
    return Latents(jnp.asarray(RNG.normal(size=(2, 2, 3))), jnp.asarray(RNG.normal(size=(2, 2, 2, 4))))


def test_path_runs_from_clean_to_noise_at_two_paces():
    clean, noise = latents(), latents()
    z = noised(clean, noise, Latents(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.25])))
    np.testing.assert_allclose(z.audio[0], clean.audio[0])
    np.testing.assert_allclose(z.audio[1], noise.audio[1])
    np.testing.assert_allclose(z.video[0], noise.video[0])
    np.testing.assert_allclose(z.video[1], 0.75 * clean.video[1] + 0.25 * noise.video[1], rtol=1e-6)


def test_velocity_is_the_derivative_of_the_path():
    clean, noise = latents(), latents()
    at = [noised(clean, noise, Latents(*(jnp.full(2, t),) * 2)) for t in (0.3, 0.4)]
    np.testing.assert_allclose((at[1].video - at[0].video) / 0.1, velocity(clean, noise).video, atol=1e-5)


@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_solver_is_exact_on_straight_paths(n_steps):
    clean, noise = latents(), latents()
    solved = solve(lambda z, tau: velocity(clean, noise), noise, FlowConfig(solver_steps=n_steps))
    np.testing.assert_allclose(solved.audio, clean.audio, atol=1e-6)
    np.testing.assert_allclose(solved.video, clean.video, atol=1e-6)


def test_solver_tells_the_model_both_times():
    seen = []

    def velocity_at(z, tau):
        seen.append((float(tau.audio[0]), float(tau.video[0])))
        return z

    flow = FlowConfig(solver_steps=4, audio_shift=1.0, video_shift=3.0)
    solve(velocity_at, latents(), flow)
    np.testing.assert_allclose(seen, [(1, 1), (0.75, 0.9), (0.5, 0.75), (0.25, 0.5)], atol=1e-6)
    assert solver_times(flow)[-1] == (0.0, 0.0)


def test_solver_converges_to_the_flow_of_a_curved_field():
    start = latents()
    errors = []
    for n in (8, 16, 32):
        flow = FlowConfig(solver_steps=n, audio_shift=2.0, video_shift=3.0)
        solved = solve(lambda z, tau: z, start, flow)  # dz/dtau = z: z(0) = z(1) / e
        errors.append(float(jnp.max(jnp.abs(solved.video - start.video / np.e))))
    assert errors[0] > 1.8 * errors[1] > 3.2 * errors[2]  # first order


def test_shift_keeps_the_ends_and_the_order():
    tau = np.linspace(0, 1, 9)
    assert shifted(0.0, 5.0) == 0 and shifted(1.0, 5.0) == 1
    assert np.all(np.diff(shifted(tau, 5.0)) > 0) and np.all(shifted(tau[1:-1], 5.0) > tau[1:-1])


def test_loss_is_zero_at_the_velocity_and_separate():
    clean, noise = latents(), latents()
    exact = velocity(clean, noise)
    off = exact._replace(audio=exact.audio + 0.5)
    np.testing.assert_allclose(flow_loss(exact, clean, noise), (0, 0), atol=1e-12)
    np.testing.assert_allclose(flow_loss(off, clean, noise), (0.25, 0), atol=1e-6)


def test_guidance_of_one_is_the_condition():
    a, b = FlowTime(jnp.array([3.0]), jnp.array([1.0])), FlowTime(jnp.array([1.0]), jnp.array([1.0]))
    assert guided(a, b, 1.0).audio[0] == 3 and guided(a, b, 2.0).audio[0] == 5 and guided(a, b, 2.0).video[0] == 1
