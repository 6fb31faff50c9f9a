"""One verifier for every causal part and for the whole model: the laws of `wanstreamer_jax.vae.causal`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.vae.causal import reset_sessions


class Part(NamedTuple):
    """A causal part as three functions, params closed over; inputs and outputs are pytrees with time on axis 1."""

    call: Callable[[Any], Any]
    init_state: Callable[[int], Any]
    step: Callable[[Any, Any], tuple[Any, Any]]


def verify_contract(part: Part, pieces: list[Any], rtol: float = 2e-5) -> None:
    """Assert every law on the sequence made of `pieces` (at least 3, of batch 2).

    `rtol` is the largest difference allowed, relative to the largest output.
    """
    whole = part.call(_concat(pieces))
    stepped = run_steps(part, pieces)
    assert_close(_concat(stepped), whole, rtol)
    _verify_reset(part, pieces, stepped, rtol)
    _verify_future_may_be_nan(part, pieces, stepped, rtol)


def run_steps(part: Part, pieces: list[Any]) -> list[Any]:
    """Outputs of stepping through `pieces`; the state must keep its structure, shapes and dtypes."""
    state, outputs = part.init_state(batch_of(pieces)), []
    for piece in pieces:
        y, new_state = part.step(piece, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        outputs.append(y)
        state = new_state
    return outputs


def _verify_reset(part: Part, pieces: list[Any], stepped: list[Any], rtol: float) -> None:
    """The second session ends in the middle: it starts afresh, the first one does not notice."""
    batch, middle = batch_of(pieces), len(pieces) // 2
    ended = jnp.arange(batch) == batch - 1
    state, outputs = part.init_state(batch), []
    for i, piece in enumerate(pieces):
        if i == middle:
            state = reset_sessions(state, part.init_state(batch), ended)
        y, state = part.step(piece, state)
        outputs.append(y)
    fresh = run_steps(part, pieces[middle:])
    assert_close(_session(_concat(outputs), 0), _session(_concat(stepped), 0), rtol)
    assert_close(_session(_concat(outputs[middle:]), batch - 1), _session(_concat(fresh), batch - 1), rtol)


def _verify_future_may_be_nan(part: Part, pieces: list[Any], stepped: list[Any], rtol: float) -> None:
    middle = len(pieces) // 2
    poisoned = pieces[:middle] + [jax.tree.map(_nan, p) for p in pieces[middle:]]
    n_past = [y.shape[1] for y in jax.tree.leaves(_concat(stepped[:middle]))]
    leaves, treedef = jax.tree.flatten(part.call(_concat(poisoned)))
    past = jax.tree.unflatten(treedef, [y[:, :n] for y, n in zip(leaves, n_past, strict=True)])
    assert_close(past, _concat(stepped[:middle]), rtol)


def assert_close(actual: Any, expected: Any, rtol: float) -> None:
    """Assert that trees agree within `rtol` of the largest expected value, and hold no NaN."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * float(jnp.max(jnp.abs(e))) + 1e-30, equal_nan=False)


def batch_of(pieces: list[Any]) -> int:
    """Sessions in the sequence."""
    return jax.tree.leaves(pieces[0])[0].shape[0]


def _nan(x: jax.Array) -> jax.Array:
    return jnp.full_like(x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _concat(pieces: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *pieces)


def _session(tree: Any, b: int) -> Any:
    return jax.tree.map(lambda y: y[b], tree)
