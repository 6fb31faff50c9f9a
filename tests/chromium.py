"""A headless Chromium with a microphone and a camera that are files, driven over its own protocol (CDP)."""

import asyncio
import base64
import itertools
import json
import shutil
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
from aiohttp import ClientSession, WSMsgType
from av import VideoFrame

from wanstreamer_jax.media.sound import write_wav
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-gpu",
    "--mute-audio",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
)
GRANT = "--use-fake-ui-for-media-stream"


class PageError(AssertionError):
    """JavaScript that raised, or a condition that did not come true."""


class Page:
    """A tab."""

    def __init__(self, ws):
        self._ws = ws
        self._ids = itertools.count(1)
        self._answers = {}
        self.console = []  # errors
        self._reader = asyncio.create_task(self._read())

    async def _read(self):
        async for message in self._ws:
            if message.type is not WSMsgType.TEXT:
                continue
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.console.append(str(said["params"]["exceptionDetails"].get("exception", {}).get("description")))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.console.append(said["params"]["entry"]["text"])

    async def call(self, method, **params):
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._ws.send_str(json.dumps({"id": number, "method": method, "params": params}))
        answer = await asyncio.wait_for(self._answers[number], 60)
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    async def eval(self, script):
        """The value of an expression, awaited."""
        options = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        result = await self.call("Runtime.evaluate", **options)
        if "exceptionDetails" in result:
            raise PageError(str(result["exceptionDetails"].get("exception", {}).get("description")))
        return result["result"].get("value")

    async def until(self, script, within_s=60.0):
        """Wait until an expression is true."""
        for _ in range(round(within_s * 20)):
            if value := await self.eval(script):
                return value
            await asyncio.sleep(0.05)
        state = await self.eval("document.body.dataset.state + ': ' + document.getElementById('note').textContent")
        raise PageError(f"not within {within_s} s: {script}; the page is {state}; {self.console[-3:]}")

    async def click(self, selector):
        await self.eval(f"document.querySelector({json.dumps(selector)}).click()")

    async def screenshot(self, path):
        picture = await self.call("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(picture["data"]))

    async def look(self, width, height, *, dark=False, mobile=False):
        """Size and colours."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def close(self):
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader


@asynccontextmanager
async def chromium(*flags):
    """A browser with an empty profile; gives a function that opens a page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            BINARY, *FLAGS, f"--user-data-dir={profile}", *flags, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            port = await asyncio.wait_for(_port(Path(profile, "DevToolsActivePort")), 60)
            async with ClientSession() as client:
                yield lambda url: _opened(client, port, url)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _port(file):
    """The port of its protocol, which it writes into its profile."""
    while not (file.exists() and (lines := file.read_text().split())):
        await asyncio.sleep(0.05)
    return int(lines[0])


@asynccontextmanager
async def _opened(client, port, url):
    async with client.put(f"http://127.0.0.1:{port}/json/new?about:blank") as response:
        address = (await response.json())["webSocketDebuggerUrl"]
    async with client.ws_connect(address, max_msg_size=0) as ws:
        page = Page(ws)
        for domain in ("Page", "Runtime", "Log"):
            await page.call(f"{domain}.enable")
        await page.call("Page.navigate", url=url)
        await page.until("location.href !== 'about:blank' && document.readyState === 'complete'")
        try:
            yield page
        finally:
            await page.close()


def write_camera(path, frames, fps=25):
    """Frames [n, h, w] of grey, or [n, h, w, 3] in colour, as a Y4M file, which the fake camera plays for ever."""
    n, height, width = frames.shape[:3]
    grey = np.full(height * width // 2, 128, np.uint8).tobytes()
    with Path(path).open("wb") as out:
        out.write(f"YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg\n".encode())
        for i in range(n):
            out.write(b"FRAME\n" + (frames[i].tobytes() + grey if frames.ndim == 3 else _yuv420p(frames[i])))
    return f"--use-file-for-fake-video-capture={path}"


def _yuv420p(frame):
    return VideoFrame.from_ndarray(frame).reformat(format="yuv420p").to_ndarray().tobytes()


def write_microphone(path, samples):
    """Sound at 24 kHz as the fake microphone, played for ever."""
    assert len(samples) >= SAMPLE_RATE_HZ // 10
    write_wav(Path(path), samples)
    return f"--use-file-for-fake-audio-capture={path}"
