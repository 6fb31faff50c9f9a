"""What comes with the package: a tiny agent, the world that its sessions begin with, and a clip to try it on."""

from importlib import resources
from pathlib import Path

_ASSETS = Path(str(resources.files("wanstreamer_jax"))) / "assets"

AGENT = _ASSETS / "tiny"
WORLD = _ASSETS / "tiny_world" / "world.json"
