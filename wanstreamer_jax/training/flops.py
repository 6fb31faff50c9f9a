"""Arithmetic of a step, counted in its program, and what the machine could do at most."""

import functools
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from wanstreamer_jax.config import Dtype
from wanstreamer_jax.planning.hardware import GPUS

_MEASURED = {"cpu": 1024}  # rows of the matrices whose product is timed
_REPEATS = 5


def count_flops(jaxpr: Any) -> int:
    """Multiplications and additions of all products and convolutions in a program, those of loops as often as run."""
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shared = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        return 2 * shared * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel, layout = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        taps = math.prod(kernel) // kernel[layout[0]]
        return 2 * taps * math.prod(equation.outvars[0].aval.shape)
    times = params.get("length", 1) if name == "scan" else 1
    return times * sum(count_flops(inner) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The programs inside an equation: bodies of loops, branches, functions that are called."""
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


@functools.cache
def peak_flops(dtype: Dtype) -> float:
    """FLOP/s of one device at best: a GPU's from its data sheet, any other's measured on a product of matrices."""
    device = jax.local_devices()[0]
    for gpu in GPUS.values():
        if gpu.name.split()[0].lower() in device.device_kind.lower():
            return gpu.peak_flops(dtype)
    return _measure_product(dtype, _MEASURED.get(device.platform, 4096)) / _sharing(device)


def _sharing(device: jax.Device) -> int:
    """Devices that are one piece of hardware: virtual CPU devices share its cores."""
    return jax.local_device_count() if device.platform == "cpu" else 1


def _measure_product(dtype: Dtype, n: int) -> float:
    x = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    times = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2.0 * n**3 / min(times[1:])
