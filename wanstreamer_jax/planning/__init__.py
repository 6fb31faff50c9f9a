"""What an agent asks of the devices that serve it, by arithmetic on its configuration; see `wanstreamer_jax.plan`."""
