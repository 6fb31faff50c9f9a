"""Take `docs/page.png`: the page in Chromium during a conversation, its camera and microphone the sample clip.

    apt-get install chromium
    pip install -e '.[dev]'
    python docs/page_picture.py

The clip is played over and over; the picture is taken when the agent has answered for the second time.
"""

import asyncio
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from make_sample import WORLD

from wanstreamer_jax.media import open_media

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.chromium import GRANT, chromium, write_camera, write_microphone  # noqa: E402 - found from here only

SAMPLE = ROOT / "wanstreamer_jax" / "assets" / "sample.mp4"
STATE = "document.body.dataset.state"
N_ANSWERS, SEEN_S = 2, 0.7


def devices(folder: Path) -> tuple[str, str]:
    """The clip as what Chromium plays for a camera and a microphone: their flags."""
    with open_media(SAMPLE, WORLD.user_picture) as clip:
        units = list(clip)
    camera = write_camera(folder / "camera.y4m", np.concatenate([unit.frames for unit in units]))
    return camera, write_microphone(folder / "microphone.wav", np.concatenate([unit.samples for unit in units]))


async def take(url: str, folder: Path) -> None:
    """Begin a conversation, wait for answers, and take the picture."""
    async with chromium(GRANT, *devices(folder)) as open_page, open_page(url) as page:
        await page.until("document.getElementById('status').classList.contains('ready')", 120)
        await page.look(1280, 800)
        await page.click("#start")
        await page.until(f"{STATE} === 'live'")
        await page.click("#figures-button")
        await page.until(f"document.querySelectorAll('#transcript .agent').length >= {N_ANSWERS}")
        await asyncio.sleep(SEEN_S)
        await page.screenshot(ROOT / "docs" / "page.png")


def main() -> None:
    """Start the server with the bundled agent, and look at its page."""
    command = [sys.executable, "serve.py", "--port", "0", "--sessions", "1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:  # noqa: S603
        try:
            assert server.stderr is not None
            url = next(found[0] for line in server.stderr if (found := re.search(r"http://127\S+/", line)))
            with tempfile.TemporaryDirectory() as folder:
                asyncio.run(take(url, Path(folder)))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
