"""Somebody who talks to a live server over a WebSocket, and notes when everything comes back."""

import asyncio
import dataclasses
import io
import json
import struct
import time

import numpy as np
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType
from PIL import Image

from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, UNIT_MS

HEADER = struct.Struct("<Bd")
PICTURE, SOUND = 1, 2
CHUNK_MS = 20


@dataclasses.dataclass
class Heard:
    """What came of one conversation; times in ms of this machine's clock."""

    latency_ms: list[float] = dataclasses.field(default_factory=list)  # end of the user's unit to its first picture
    unit_ms: list[float] = dataclasses.field(default_factory=list)  # of the model, of the same units
    arrived_ms: list[float] = dataclasses.field(default_factory=list)  # of pictures
    facts: dict = dataclasses.field(default_factory=dict)  # of the last unit


def now_ms() -> float:
    """This machine's clock."""
    return time.monotonic() * 1000


def waves(width: int, height: int, n: int) -> np.ndarray:
    """Grey pictures of something that moves, [n, height, width]."""
    rows, columns = np.mgrid[:height, :width]
    pictures = [127 + 60 * np.sin((columns + 4 * k) / 17) + 60 * np.cos((rows - 3 * k) / 11) for k in range(n)]
    return np.stack(pictures).astype(np.uint8)


def camera(width: int, height: int, n: int = 25) -> list[bytes]:
    """The same as JPEGs."""
    pictures = []
    for grey in waves(width, height, n):
        out = io.BytesIO()
        Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(out, "JPEG", quality=85)
        pictures.append(out.getvalue())
    return pictures


async def converse(url: str, seconds: float, pictures: list[bytes]) -> Heard:
    """Talk for so long, 25 pictures and 50 pieces of sound a second, each when it is complete."""
    heard = Heard()
    async with ClientSession() as client, client.ws_connect(f"{url}v1/ws", protocols=["wan-streamer.v1"]) as ws:
        await ws.send_str(json.dumps({"type": "start"}))
        listening = asyncio.create_task(_listen(ws, heard))
        await _talk(ws, seconds, pictures)
        await ws.send_str(json.dumps({"type": "stop"}))
        await asyncio.wait_for(listening, 10)
    return heard


async def _talk(ws: ClientWebSocketResponse, seconds: float, pictures: list[bytes]) -> None:
    began = now_ms()
    at = np.arange(SAMPLE_RATE_HZ * CHUNK_MS // 1000) / SAMPLE_RATE_HZ
    tone = np.round(3000 * np.sin(2 * np.pi * 200 * at)).astype("<i2").tobytes()
    for k in range(round(seconds * 1000 / CHUNK_MS)):
        await asyncio.sleep((began + (k + 1) * CHUNK_MS - now_ms()) / 1000)
        await ws.send_bytes(HEADER.pack(SOUND, began + k * CHUNK_MS) + tone)
        if k % 2 == 0:
            await ws.send_bytes(HEADER.pack(PICTURE, began + k * CHUNK_MS) + pictures[k // 2 % len(pictures)])


async def _listen(ws: ClientWebSocketResponse, heard: Heard) -> None:
    """What is said of a unit comes before its pictures."""
    said: dict[int, dict] = {}  # of units whose first picture has not come
    async for message in ws:
        if message.type is WSMsgType.BINARY:
            kind, time_ms = HEADER.unpack_from(message.data)
            if kind == PICTURE:
                heard.arrived_ms.append(now_ms())
                _first_picture(said.pop(int(time_ms / UNIT_MS + 1e-6), {}), heard)
        elif message.type is WSMsgType.TEXT:
            facts = json.loads(message.data)
            if facts["type"] == "unit":
                heard.facts = said[facts["unit"]] = facts


def _first_picture(facts: dict, heard: Heard) -> None:
    if facts.get("seen_ms") is not None:
        heard.latency_ms.append(heard.arrived_ms[-1] - facts["seen_ms"])
        heard.unit_ms.append(facts["unit_ms"])
