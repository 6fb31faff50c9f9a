"""The stage that makes a student: it follows its teacher, then matches it with a critic."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import small
from tests.session_cases import agent_config, batch_of, learned, parts
from wanstreamer_jax.training.config import DistillWeights
from wanstreamer_jax.training.stages import distill


def test_distill_follows_its_teacher():
    batch, frozen = batch_of(2), parts()
    weights = DistillWeights(units=2, teacher_steps=4, match_from=60)
    before, after, _ = learned(distill.stage, weights, batch, n_steps=60, rate=3e-3)

    @small.quick_jit
    def error(trainees):
        keys = jax.random.split(jax.random.key(9), 4)
        terms = [distill.following(agent_config(), weights, trainees, frozen, batch, key)[1] for key in keys]
        return jnp.mean(jnp.array([t["audio"] + t["video"] for t in terms]))

    assert error(after) < 0.8 * error(before)


def test_distill_then_matches_with_a_critic_that_is_updated_more_often():
    weights = DistillWeights(units=2, teacher_steps=2, match_from=0, every=3)
    before, after, logged = learned(distill.stage, weights, batch_of(2), n_steps=4, rate=1e-3)
    moved = [sorted({name.split("/")[0] for name in m}) for m in logged]
    assert moved == [["critic", "student"], ["critic"], ["critic"], ["critic", "student"]]
    for name in ("student", "critic"):
        assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before[name], after[name])), strict=True))
    assert {"student/audio_balance", "student/video_balance"} <= logged[0].keys()
