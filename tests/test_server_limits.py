"""Clients that take their time, or send far too much: cut off at the limit, at nobody else's cost."""

import asyncio
import contextlib
import resource
import socket
import time

import numpy as np
import pytest

from tests.server_cases import (
    CHUNK,
    PICTURE,
    SOUND,
    EchoSlot,
    connected,
    heard_from,
    of_type,
    packed,
    pcm,
    served,
    speak,
)
from wanstreamer_jax.serving import idle, webrtc, wire
from wanstreamer_jax.serving.server import IDLE, MOST_BODY_BYTES

HEAD = b"POST /v1/sessions/x HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@contextlib.asynccontextmanager
async def raw(server):
    """A connection on which anything can be sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def closing_idle(server, monkeypatch):
    monkeypatch.setattr(idle, "IDLE_S", 0.5)
    monkeypatch.setattr(idle, "LOOK_EVERY_S", 0.1)
    task = asyncio.create_task(server.server.app[IDLE].close_idle(server.server.runner.server))
    yield
    task.cancel()


def test_half_a_request_is_not_waited_for(monkeypatch):
    async def test():
        async with served() as server, closing_idle(server, monkeypatch), raw(server) as (reader, writer):
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    writer.write(b"G")  # a letter at a time, as long as it takes
                    await writer.drain()
                    if reader.at_eof():
                        break
                    await asyncio.sleep(0.05)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            return time.monotonic() - began

    assert asyncio.run(test()) < 4


def test_a_conversation_is_not_idle(monkeypatch):
    async def test():
        async with served() as server, closing_idle(server, monkeypatch), connected(server, {}) as ws:
            await speak(ws, 1.5)
            await heard_from(ws, lambda message: message["type"] == "unit" and message["unit"] >= 8)

    asyncio.run(test())


def test_answered_requests_do_not_end_a_connection_at_once(monkeypatch):
    async def test():
        async with served() as server, closing_idle(server, monkeypatch), raw(server) as (reader, writer):
            for _ in range(8):
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert (await asyncio.wait_for(reader.readuntil(b"ok\n"), 5)).startswith(b"HTTP/1.1 200")
                await asyncio.sleep(0.2)
            assert await asyncio.wait_for(reader.read(), 5) == b""

    asyncio.run(test())


@pytest.mark.parametrize("line", [b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", HEAD + b"X: " + b"b" * 20_000])
def test_headers_without_end_are_refused(line):
    async def test():
        async with served() as server, raw(server) as (reader, writer):
            writer.write(line + b"\r\n\r\n")
            return await asyncio.wait_for(reader.readline(), 5)

    assert asyncio.run(test()).split()[1] == b"400"


def test_an_offer_that_comes_drop_by_drop_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(webrtc, "READ_WITHIN_S", 0.3)
    head = b"POST /v1/rtc HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/sdp\r\nContent-Length: 9\r\n\r\nv="

    async def test():
        async with served() as server, raw(server) as (reader, writer):
            writer.write(head)
            answer = await asyncio.wait_for(reader.readline(), 5)
            return answer, server.service.load.n_used

    answer, n_used = asyncio.run(test())
    assert (answer.split()[1], n_used) == (b"408", 0)


def test_a_body_without_end_is_neither_kept_nor_read_for_long():
    async def test():
        async with served() as server, raw(server) as (_reader, writer):
            writer.write(HEAD + b"Content-Length: 1000000000000\r\n\r\n")
            piece, began = bytes(MOST_BODY_BYTES), time.monotonic()
            with contextlib.suppress(ConnectionError):
                while time.monotonic() - began < 20:
                    writer.write(piece)
                    await writer.drain()
            return time.monotonic() - began

    before = peak_mb()
    assert asyncio.run(test()) < 10
    assert peak_mb() - before < 40


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_frame_that_comes_byte_by_byte_is_no_more_than_a_frame():
    async def test():
        async with served() as server, connected(server, {}) as ws:
            connection = ws.get_extra_info("socket")
            connection = socket.socket(fileno=socket.dup(connection.fileno()))
            frame = masked_text(b'{"type": "ping", "time_ms": 7}')
            for byte in frame:
                connection.send(bytes([byte]))
                await asyncio.sleep(0.002)
            connection.close()
            said = await heard_from(ws, of_type("pong"))
            return said[-1]["time_ms"]

    assert asyncio.run(test()) == 7


def masked_text(payload):
    """A WebSocket frame of text, as a client sends it."""
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


def test_a_flood_of_small_messages_costs_the_others_nothing():
    async def flood(ws):
        tiny = packed(SOUND, 0.0, pcm(np.zeros(1)))
        with contextlib.suppress(ConnectionError):
            for k in range(100_000):
                await ws.send_bytes(tiny)
                if k % 100 == 0:
                    await asyncio.sleep(0)

    async def test():
        async with (
            served([EchoSlot(), EchoSlot()]) as server,
            connected(server, {}) as calm,
            connected(server, {}) as wild,
        ):
            flooding = asyncio.create_task(flood(wild))
            sound = packed(SOUND, 0.0, pcm(np.full(CHUNK, 0.1)))
            await calm.send_bytes(sound)
            said = await heard_from(calm, lambda m: m["type"] == "unit" and m["unit"] >= 12, within_s=30)
            flooding.cancel()
            return sum(message["type"] == PICTURE for message in said)

    assert asyncio.run(test()) > 4 * 6  # most units; client and server share a core here


def test_a_message_is_cut_off_at_its_limit_while_it_is_read():
    """A frame whose head says that it is a gigabyte closes the connection before a megabyte of it was sent."""

    async def test():
        async with served() as server, connected(server, {}) as ws:
            connection = socket.socket(fileno=socket.dup(ws.get_extra_info("socket").fileno()))
            connection.setblocking(False)
            connection.send(bytes([0x82, 0x80 | 127]) + (10**9).to_bytes(8, "big") + bytes(4))
            connection.close()
            return await heard_from_close(ws)

    assert asyncio.run(test()) == 1009
    assert wire.MOST_MESSAGE_BYTES < 2e6


async def heard_from_close(ws):
    async with asyncio.timeout(10):
        async for _ in ws:
            pass
    return ws.close_code
