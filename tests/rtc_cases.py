"""A client over WebRTC, in the test's own process: what a browser does, with media that can be told from each other."""

import asyncio
import json
import random
from contextlib import asynccontextmanager, suppress
from fractions import Fraction

import numpy as np
from aiohttp import ClientSession
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcdtlstransport import RTCDtlsTransport
from av import AudioFrame, VideoFrame

from wanstreamer_jax.serving.rtc.parts import PART
from wanstreamer_jax.serving.rtc.peer import loopback

SDP = {"Content-Type": "application/sdp"}
CHANNEL = "wan-streamer.v1"
TONE_HZ = 500
PING_EVERY_S = 0.5


class Microphone(MediaStreamTrack):
    """A tone at 48 kHz, 20 ms at a time."""

    kind = "audio"

    def __init__(self):
        super().__init__()
        self.n, self.began_s = 0, None

    async def recv(self):
        await _until(self, 0.02)
        at = np.arange((self.n - 1) * 960, self.n * 960) / 48_000
        wave = np.round(8000 * np.sin(2 * np.pi * TONE_HZ * at)).astype(np.int16)
        frame = AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, (self.n - 1) * 960, Fraction(1, 48_000)
        return frame


class Camera(MediaStreamTrack):
    """A grey that grows by 2 a picture, 25 a second."""

    kind = "video"

    def __init__(self, size=96):
        super().__init__()
        self.n, self.began_s, self.size = 0, None, size

    async def recv(self):
        await _until(self, 0.04)
        pixels = np.full((self.size, self.size, 3), 20 + 2 * self.n % 200, np.uint8)
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = (self.n - 1) * 3600, Fraction(1, 90_000)
        return frame


DEVICES = {"audio": Microphone, "video": Camera}


async def _until(track, every_s):
    now_s = asyncio.get_running_loop().time()
    track.began_s = now_s if track.began_s is None else track.began_s
    await asyncio.sleep(max(0.0, track.began_s + track.n * every_s - now_s))
    track.n += 1


class Caller:
    """A connection, what came over it, and how to say something."""

    def __init__(self, media=True, pings=True, kinds=("audio", "video")):
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel = self.connection.createDataChannel(CHANNEL)
        self.opened = asyncio.Event()
        self.frames = {"audio": [], "video": []}
        self.location = None
        self.messages = []
        self._came = asyncio.Event()
        self._pings, self._tasks = pings, []
        self.channel.on("message", self._hear)
        self.channel.on("open", self.opened.set)
        self.connection.on("track", lambda track: self._tasks.append(asyncio.create_task(self._watch(track))))
        for kind in kinds:
            if media:
                self.connection.addTrack(DEVICES[kind]())
            else:
                self.connection.addTransceiver(kind, "recvonly")

    async def offer(self):
        with loopback(only=True):
            await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def call(self, server, headers=None):
        """Offer, take the answer, and wait for the channel."""
        async with (
            ClientSession() as http,
            http.post(server.url("/v1/rtc"), data=await self.offer(), headers={**SDP, **(headers or {})}) as response,
        ):
            assert response.status == 201, (response.status, await response.text())
            self.location, answer = response.headers["Location"], await response.text()
        await self.connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await asyncio.wait_for(self.opened.wait(), 20)
        self._tasks.append(asyncio.create_task(self._ping()))

    def say(self, kind, **facts):
        self.channel.send(json.dumps({"type": kind, **facts}))

    def send_long(self, message, size=60_000):
        for at in range(0, len(message), size):
            part = np.array([len(message)], "<f8").tobytes()
            self.channel.send(bytes([PART]) + part + message[at : at + size])

    async def heard(self, until, within_s=30.0):
        """The first message for which `until` holds."""
        async with asyncio.timeout(within_s):
            while True:
                for message in self.messages:
                    if until(message):
                        return message
                self._came.clear()
                await self._came.wait()

    def of(self, kind):
        return [message for message in self.messages if message["type"] == kind]

    async def close(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.connection.close()

    def _hear(self, message):
        self.messages.append(json.loads(message))
        self._came.set()

    async def _ping(self):
        while self._pings and self.channel.readyState == "open":
            self.say("ping", time_ms=0)
            await asyncio.sleep(PING_EVERY_S)

    async def _watch(self, track):
        with suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                self.frames[track.kind].append((asyncio.get_running_loop().time(), frame))


@asynccontextmanager
async def calling(server, start=None, **options):
    """A client that has called; `start` is sent when given, also when empty."""
    caller = Caller(**options)
    try:
        await caller.call(server)
        if start is not None:
            caller.say("start", **start)
        yield caller
    finally:
        await caller.close()


async def posted(server, offer, **headers):
    """Status, headers and text of the answer to an offer."""
    async with (
        ClientSession() as http,
        http.post(server.url("/v1/rtc"), data=offer, headers={**SDP, **headers}) as response,
    ):
        return response.status, response.headers, await response.text()


def unit_after(n):
    return lambda message: message["type"] == "unit" and message["unit"] >= n


def of_type(kind):
    return lambda message: message["type"] == kind


def lose(monkeypatch, share, seed=0):
    """From now on every connection of this process loses packets of media, both ways; returns how to stop it."""
    draw, loses = random.Random(seed), [True]
    send, take = RTCDtlsTransport._send_rtp, RTCDtlsTransport._handle_rtp_data

    async def lossy_send(self, data):
        if not (loses[0] and draw.random() < share):
            await send(self, data)

    async def lossy_take(self, data, arrival_time_ms):
        if not (loses[0] and draw.random() < share):
            await take(self, data, arrival_time_ms=arrival_time_ms)

    monkeypatch.setattr(RTCDtlsTransport, "_send_rtp", lossy_send)
    monkeypatch.setattr(RTCDtlsTransport, "_handle_rtp_data", lossy_take)
    return lambda: loses.__setitem__(0, False)
