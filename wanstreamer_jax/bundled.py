"""What comes with the package: a tiny agent, and the world that its sessions begin with."""

from importlib import resources
from pathlib import Path

_ASSETS = Path(str(resources.files("wanstreamer_jax"))) / "assets"

AGENT = _ASSETS / "tiny"
WORLD = _ASSETS / "tiny_world" / "world.json"
