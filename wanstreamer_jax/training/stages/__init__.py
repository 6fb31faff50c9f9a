"""The stages of the recipe, one module each (`wanstreamer_jax.training.stage` is their contract)."""
