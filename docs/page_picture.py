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

import av
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.chromium import GRANT, chromium, write_microphone  # noqa: E402 - no package, so only found from here

SAMPLE = ROOT / "wanstreamer_jax" / "assets" / "sample.mp4"
STATE = "document.body.dataset.state"
N_ANSWERS, SEEN_S = 2, 0.7


def camera(file: Path) -> str:
    """The clip's picture as what Chromium plays for a camera: its flag."""
    with av.open(str(SAMPLE)) as clip, file.open("wb") as out:
        stream = clip.streams.video[0]
        out.write(f"YUV4MPEG2 W{stream.width} H{stream.height} F25:1 Ip A1:1 C420jpeg\n".encode())
        for frame in clip.decode(stream):
            out.write(b"FRAME\n" + frame.reformat(format="yuv420p").to_ndarray().tobytes())
    return f"--use-file-for-fake-video-capture={file}"


def microphone(file: Path) -> str:
    """The clip's sound as a microphone: its flag."""
    resampler = av.AudioResampler("flt", "mono", 24_000)
    with av.open(str(SAMPLE)) as clip:
        pieces = [x.to_ndarray()[0] for frame in clip.decode(audio=0) for x in resampler.resample(frame)]
    return write_microphone(file, np.concatenate(pieces))


async def take(url: str, folder: Path) -> None:
    """Begin a conversation, wait for answers, and take the picture."""
    flags = GRANT, camera(folder / "camera.y4m"), microphone(folder / "microphone.wav")
    async with chromium(*flags) as open_page, open_page(url) as page:
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
