"""The families of public checkpoints that an agent can start from, by the name that the command line calls them."""

from wanstreamer_jax.convert import mimi, qwen3, siglip2, wan_vae
from wanstreamer_jax.convert.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family for family in (qwen3.FAMILY, wan_vae.FAMILY, mimi.FAMILY, siglip2.FAMILY)
}
