"""Offers of WebRTC and what is sent to the port: refused in words, without a trace, and without cost for others."""

import asyncio
import random
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from aiohttp import ClientSession
from aiortc import RTCSessionDescription

from tests.rtc_cases import SDP, Caller, calling, of_type, posted, unit_after
from tests.server_cases import EchoSlot, served
from wanstreamer_jax.serving import webrtc
from wanstreamer_jax.serving.access import Access
from wanstreamer_jax.serving.rtc import client as rtc_client
from wanstreamer_jax.serving.rtc import peer


def mutated(offer, draw):
    """An offer with something wrong in it, or not."""
    lines = offer.split("\r\n")
    kind = draw.randrange(6)
    at = draw.randrange(len(lines))
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[draw.randrange(len(lines))])
    elif kind == 2:
        line = lines[at]
        cut = draw.randrange(len(line) + 1)
        lines[at] = line[:cut] + draw.choice(["", "\x00", "-1", "99999999999", "é", " "]) + line[cut + 1 :]
    elif kind == 3:
        lines = lines[:at]
    elif kind == 4:
        other = draw.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = lines[at].translate(str.maketrans("0123456789", "9876543210"))
    return "\r\n".join(lines)


async def idle(n_tasks, within_s=12.0):
    """Wait until no more than so many tasks are left."""
    async with asyncio.timeout(within_s):
        while len(asyncio.all_tasks()) > n_tasks:
            await asyncio.sleep(0.05)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts files in /proc")
def test_mutated_offers_are_refused_in_words_and_leave_nothing_behind(monkeypatch):
    monkeypatch.setattr(rtc_client, "CONNECT_WITHIN_S", 0.2)
    draw = random.Random(1)

    async def run():
        slots = [EchoSlot() for _ in range(8)]
        async with served(slots) as server, ClientSession() as http:
            caller = Caller()
            offer = await caller.offer()
            await caller.close()
            before = open_files(), threading.active_count(), len(asyncio.all_tasks())
            found = []
            for _ in range(80):
                body = mutated(offer, draw).encode(errors="replace")
                while True:
                    async with http.post(server.url("/v1/rtc"), data=body, headers=SDP) as response:
                        status, text = response.status, await response.text()
                    if status != 503:
                        break
                    await asyncio.sleep(0.1)
                found.append((status, text))
            await server.until_free(within_s=20)
            await idle(before[2] + 1)
            after = open_files(), threading.active_count()
            return found, before, after

    found, before, after = asyncio.run(run())
    assert {status for status, _ in found} == {201, 400}
    assert all(text.endswith(".") and "\n" not in text for status, text in found if status == 400)
    assert after[0] <= before[0] + 2
    assert after[1] <= before[1] + 6  # of asyncio's pool, which stay


async def offering(*kinds):
    """An offer of a data channel and such sections."""
    caller = Caller(media=False, kinds=kinds)
    offer = await caller.offer()
    await caller.close()
    return offer


def test_what_is_no_offer_is_refused():
    async def run():
        async with served() as server:
            offer = await offering("audio", "video")
            too_few = await offering("video")
            too_many = await offering("audio", "video", "video")
            candidates = "a=candidate:1 1 udp 2130706431 10.0.0.1 5000 typ host\r\n" * (peer.MOST_CANDIDATES + 1)
            bodies = ["", "{}", "v=0\r\n", "\x00" * 100, too_few, too_many, offer + candidates]
            found = [(await posted(server, body))[0] for body in bodies]
            json = (await posted(server, offer, **{"Content-Type": "application/json"}))[0]
            large = (await posted(server, "a" * (1 << 17)))[0]
            return found, json, large, server.service.load.n_used

    found, json, large, n_used = asyncio.run(run())
    assert set(found) == {400}
    assert (json, large, n_used) == (415, 413, 0)


def test_a_client_with_another_certificate_than_it_said_gets_nothing(monkeypatch):
    monkeypatch.setattr(rtc_client, "CONNECT_WITHIN_S", 3.0)

    async def run():
        async with served() as server:
            caller = Caller()
            lines = (await caller.offer()).split("\r\n")
            false = [
                line[:-2] + ("00" if line[-2:] != "00" else "11") if "fingerprint" in line else line for line in lines
            ]
            status, _, answer = await posted(server, "\r\n".join(false))
            await caller.connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            await server.until_free(within_s=6)
            await caller.close()
            return status, caller.messages

    assert asyncio.run(run()) == (201, [])


def test_access_is_checked_before_an_offer_is_read():
    token = "0123456789abcdefTOKEN"

    async def run():
        async with served(access=Access("127.0.0.1", token)) as server:
            wrong = [
                (await posted(server, "x"))[0],
                (await posted(server, "x", Authorization="Bearer nonsense"))[0],
                (await posted(server, "x", Authorization=f"Bearer {token}", Origin="http://evil.example"))[0],
                (await posted(server, "x", Authorization=f"Bearer {token}"))[0],
            ]
            caller = Caller(media=False)
            await caller.call(server, {"Authorization": f"Bearer {token}"})
            hello = await caller.heard(of_type("hello"))
            await caller.close()
            return wrong, hello["type"]

    assert asyncio.run(run()) == ([401, 401, 403, 400], "hello")


def test_without_the_extra_the_server_says_so(monkeypatch):
    monkeypatch.setattr(webrtc, "find_spec", lambda name: None)

    async def run():
        async with served() as server, ClientSession() as http:
            async with http.get(server.url("/v1/config")) as response:
                config = await response.json()
            return config["webrtc"], *(await posted(server, "v=0"))

    has_it, status, _, text = asyncio.run(run())
    assert (has_it, status) == (False, 501)
    assert "wanstreamer-jax[webrtc]" in text


def test_a_server_on_loopback_offers_loopback_alone():
    async def run():
        async with served() as server:
            caller = Caller()
            _, _, answer = await posted(server, await caller.offer())
            await caller.close()
            return [line.split()[4] for line in answer.splitlines() if line.startswith("a=candidate")]

    assert set(asyncio.run(run())) == {"127.0.0.1"}


# ---- What is sent to the port


def test_junk_costs_a_conversation_nothing():
    async def run():
        async with served() as server, calling(server, {}) as caller:
            await caller.heard(unit_after(1))
            port = int(caller.connection.remoteDescription.sdp.split("a=candidate")[1].split()[5])
            await asyncio.to_thread(send_junk, port, 2000)
            n = caller.of("unit")[-1]["unit"]
            await caller.heard(unit_after(n + 5))
            return server.service.load.n_used

    assert asyncio.run(run()) == 1


def send_junk(port, n):
    """Datagrams that begin as STUN, DTLS, RTP and RTCP do, and go on as they like."""
    draw = random.Random(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for k in range(n):
            first = draw.choice([0, 1, 20, 22, 23, 63, 128, 144, 200, 255])
            out.sendto(bytes([first]) + draw.randbytes(draw.randrange(1400)), ("127.0.0.1", port))
            if k % 50 == 0:
                time.sleep(0.01)


def test_a_message_without_end_ends_the_conversation():
    async def run():
        async with served() as server, calling(server, {}, media=False) as caller:
            await caller.heard(unit_after(0))
            caller.connection.sctp._remote_max_message_size = 0  # it is the client's own to keep to
            caller.channel.send(bytes(6 << 20))
            return await server.until_free(within_s=30)

    assert asyncio.run(run()) < 30


def test_aiortc_has_what_is_used_of_its_insides():
    async def run():
        caller = Caller()
        has = [
            hasattr(caller.connection.getReceivers()[0], peer.JITTER_BUFFER),
            hasattr(caller.connection.getSenders()[0], peer.SENT_STAMP),
            hasattr(caller.connection.sctp, "_advertised_rwnd"),
        ]
        await caller.close()
        return has

    assert all(asyncio.run(run()))
