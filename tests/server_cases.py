"""A live server in the test's own process, with an agent that gives back what it sees and hears, at once."""

import asyncio
import io
import json
import struct
import time
from contextlib import asynccontextmanager

import numpy as np
from aiohttp import ClientSession, WSMsgType
from aiohttp.test_utils import TestServer
from PIL import Image

from tests import small_preset
from wanstreamer_jax.agent import Agent
from wanstreamer_jax.serving.access import Access
from wanstreamer_jax.serving.metrics import Metrics
from wanstreamer_jax.serving.server import CONNECTIONS, make_app
from wanstreamer_jax.serving.service import Opened, Rules, Service
from wanstreamer_jax.serving.world_file import Setting, make_start
from wanstreamer_jax.stream.pace import first_pace
from wanstreamer_jax.stream.placement import STEPS, Reply
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLE_RATE_HZ
from wanstreamer_jax.tokens import byte_tokenizer

CONFIG = small_preset.config
AGENT = Agent(CONFIG, {}, byte_tokenizer(), trained=False)
HEADER = struct.Struct("<Bd")
PICTURE, SOUND, PORTRAIT, VOICE = 1, 2, 3, 4
CHUNK = SAMPLE_RATE_HZ // 50  # samples of 20 ms


class Echo:
    """A session whose agent says, shows and writes what the user did; a unit takes `unit_ms`."""

    def __init__(self, unit_ms=1.0):
        self.unit_ms = unit_ms
        self.n_lived = 0
        self.fails_at = None

    def step(self, seen, solver_steps):
        del solver_steps
        time.sleep(self.unit_ms / 1000)
        if self.n_lived == self.fails_at:
            raise RuntimeError("out of order")
        self.n_lived += 1
        picture, (_, _, height, width, _) = CONFIG.picture, seen.frames.shape
        frames = np.zeros((1, FRAMES_PER_UNIT, picture.height, picture.width, 3), np.uint8)
        frames[:, :, :height, :width] = np.asarray(seen.frames)[:, :, : picture.height, : picture.width]
        text = [np.asarray(ids)[:n].tolist() for ids, n in zip(seen.text, seen.n_text, strict=True)]
        step_ms = dict.fromkeys(STEPS, self.unit_ms / len(STEPS))
        return Reply(self.n_lived - 1, frames, np.asarray(seen.samples), text, step_ms)

    def skip(self):
        pass


class EchoSlot:
    """A slot of such a session; what it began with is kept."""

    def __init__(self, unit_ms=1.0):
        self.session = Echo(unit_ms)
        self.began = []

    def begin(self, setting, seed):
        make_start(CONFIG, AGENT.tokenizer, [setting], [seed])
        self.began.append((setting, seed))
        self.session.n_lived = 0
        return first_pace({1: 1.0})

    def close(self):
        pass


class Served:
    """A server that runs, and how to reach it."""

    def __init__(self, server, service, slots):
        self.server, self.service, self.slots = server, service, slots
        self.port = server.port

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    async def until_free(self, within_s=5.0):
        """Seconds until all slots are free."""
        began = time.monotonic()
        while self.service.load.n_used:
            assert time.monotonic() - began < within_s, "a slot is not free"
            await asyncio.sleep(0.01)
        return time.monotonic() - began


@asynccontextmanager
async def served(slots=None, rules=None, access=None, setting=None):
    """A server on a port of this machine."""
    slots = [EchoSlot()] if slots is None else slots
    service = Service(rules or Rules(), Metrics())
    server = TestServer(make_app(service, access or Access("127.0.0.1")), host="127.0.0.1")
    await server.start_server(**CONNECTIONS)
    await service.open(lambda: Opened(AGENT, setting or Setting(), list(slots)))
    try:
        yield Served(server, service, slots)
    finally:
        if not service.stopping:
            await service.stop()
        await server.close()


@asynccontextmanager
async def connected(server, start=None, **options):
    """A WebSocket to it; `start` is sent when given, also when empty."""
    async with (
        ClientSession() as client,
        client.ws_connect(server.url("/v1/ws"), protocols=["wan-streamer.v1"], **options) as ws,
    ):
        if start is not None:
            await ws.send_str(json.dumps({"type": "start", **start}))
        yield ws


async def heard_from(ws, until, within_s=10.0):
    """All messages, parsed, up to and with the first for which `until` holds."""
    messages = []
    async with asyncio.timeout(within_s):
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                messages.append(json.loads(message.data))
            else:
                kind, time_ms = HEADER.unpack_from(message.data)
                messages.append({"type": kind, "time_ms": time_ms, "data": message.data[HEADER.size :]})
            if until(messages[-1]):
                return messages
    raise AssertionError(f"closed ({ws.close_code}) after {[m['type'] for m in messages][-5:]}")


def of_type(kind):
    """Whether a message is of a type."""
    return lambda message: message["type"] == kind


async def speak(ws, seconds, sound=None, picture=None):
    """Send sound every 20 ms and a picture every 40 ms, in time; each is made of its number."""
    began = time.monotonic()
    for k in range(round(seconds * 50)):
        await ws.send_bytes(packed(SOUND, k * 20.0, pcm(sound(k) if sound else np.zeros(CHUNK))))
        if k % 2 == 0:
            await ws.send_bytes(packed(PICTURE, k * 20.0, jpeg(picture(k // 2) if picture else grey(k % 256))))
        await asyncio.sleep(max(0.0, began + (k + 1) * 0.02 - time.monotonic()))


def packed(kind, time_ms, payload):
    return HEADER.pack(kind, time_ms) + payload


def pcm(samples):
    return np.round(np.asarray(samples) * 32767).astype("<i2").tobytes()


def unpacked_pcm(data):
    return np.frombuffer(data, "<i2") / 32767


def grey(level):
    return np.full((32, 32, 3), level, np.uint8)


def jpeg(image):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def unpacked_jpeg(data):
    return np.asarray(Image.open(io.BytesIO(data)))
