"""AdamW as the recipes use it: warm-up, cosine decay, a bounded gradient, no decay of biases and gains."""

from typing import Any

import jax
import optax

from wanstreamer_jax.training.config import OptimizerConfig


def make_optimizer(cfg: OptimizerConfig, n_updates: int) -> optax.GradientTransformation:
    """The optimiser of a trainee that is updated `n_updates` times."""
    warmup = min(cfg.warmup, n_updates // 2)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=cfg.learning_rate / (warmup + 1),
        peak_value=cfg.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(n_updates, warmup + 1),
        end_value=cfg.final_share * cfg.learning_rate,
    )
    adamw = optax.adamw(schedule, cfg.b1, cfg.b2, cfg.eps, weight_decay=cfg.weight_decay, mask=_decayed)
    return optax.chain(optax.clip_by_global_norm(cfg.clip), adamw, _slow_senses(cfg.senses))


def _slow_senses(share: float) -> optax.GradientTransformation:
    """Updates of the part `perception`, if it is in the tree, times a share."""

    def slowed(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        is_sense = jax.tree_util.keystr(path[:1], simple=True) == "perception"
        return share * update if is_sense else update

    return optax.stateless(lambda updates, _params: jax.tree_util.tree_map_with_path(slowed, updates))


def _decayed(params: Any) -> Any:
    """Matrices and kernels decay; gains, biases and other vectors do not."""
    return jax.tree.map(lambda x: x.ndim > 1, params)
