"""Every test runs on CPU in float32, with the collective time-outs that two cores need."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.config.update("jax_threefry_partitionable", True)
