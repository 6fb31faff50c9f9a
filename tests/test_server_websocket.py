"""Conversations over a WebSocket: units out as units in, whatever the client, the agent or another client does."""

import asyncio
import json
import struct
import time

import numpy as np
import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from tests.server_cases import (
    CHUNK,
    HEADER,
    PICTURE,
    PORTRAIT,
    SOUND,
    VOICE,
    EchoSlot,
    connected,
    grey,
    heard_from,
    jpeg,
    of_type,
    packed,
    pcm,
    served,
    speak,
    unpacked_jpeg,
    unpacked_pcm,
)
from wanstreamer_jax.serving import client
from wanstreamer_jax.serving.outbox import MOST_UNITS, Outbox, Unit
from wanstreamer_jax.serving.service import Rules
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_UNIT, UNIT_MS


def last_unit(n):
    return lambda message: message["type"] == "unit" and message["unit"] >= n


async def a_conversation(server, seconds=2.0, start=None, **media):
    """What is heard from a server in so long, while it is spoken to; it may take its time to begin."""
    async with connected(server, start or {}) as ws:
        speaking = asyncio.create_task(speak(ws, 60, **media))
        messages = await heard_from(ws, last_unit(seconds * 1000 // UNIT_MS - 2), 30)
        speaking.cancel()
        return messages


def test_units_come_in_order_whole_and_at_25_frames_a_second():
    async def run():
        async with served() as server:
            return await a_conversation(server, sound=lambda k: 0.3 * np.sin(np.arange(k * CHUNK, (k + 1) * CHUNK) / 9))

    messages = asyncio.run(run())
    units = [m for m in messages if m["type"] == "unit"]
    assert [m["unit"] for m in units] == list(range(len(units)))
    sounds = [m for m in messages if m["type"] == SOUND]
    assert [m["time_ms"] for m in sounds] == [k * UNIT_MS for k in range(len(sounds))]
    assert {len(m["data"]) for m in sounds} == {2 * SAMPLES_PER_UNIT}
    pictures = [m for m in messages if m["type"] == PICTURE]
    assert [m["time_ms"] for m in pictures] == [k * 40.0 for k in range(len(pictures))]
    assert len(pictures) == 4 * len(sounds)
    heard = np.concatenate([unpacked_pcm(m["data"]) for m in sounds])
    assert np.std(heard[-3 * SAMPLES_PER_UNIT :]) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)
    answered = [m["seen_ms"] for m in units if m["seen_ms"] is not None]
    assert np.all(np.abs(np.diff(answered) - UNIT_MS) <= 30) or len(answered) < len(units)


def test_what_is_shown_is_what_the_camera_saw():
    async def run():
        async with served() as server:
            return await a_conversation(server, picture=lambda k: grey(min(4 * k, 255)))

    messages = asyncio.run(run())
    levels = [unpacked_jpeg(m["data"])[:30, :30].mean() for m in messages if m["type"] == PICTURE]
    grown = np.diff(levels[8:])
    assert np.all(grown >= -1)
    assert levels[-1] > 100


def test_typed_text_reaches_the_agent_and_the_agents_text_the_client():
    async def run():
        async with served() as server, connected(server, {}) as ws:
            await ws.send_str(json.dumps({"type": "text", "text": "  hello   there "}))
            said = ""
            while len(said) < len("hello there"):
                said += (await heard_from(ws, of_type("text")))[-1]["text"]
            await ws.send_str(json.dumps({"type": "text", "text": "you"}))
            while len(said) < len("hello there you"):
                said += (await heard_from(ws, of_type("text")))[-1]["text"]
            return said

    assert asyncio.run(run()) == "hello there you"


def test_the_world_of_a_client_is_the_one_it_begins_with():
    async def run():
        async with served() as server, connected(server) as ws:
            await ws.send_bytes(packed(PORTRAIT, 0.0, jpeg(grey(77))))
            await ws.send_bytes(packed(VOICE, 0.0, pcm(np.full(3000, 0.25))))
            await ws.send_str(json.dumps({"type": "start", "persona": "kind", "seed": 5}))
            await heard_from(ws, last_unit(0))
            return server.slots[0].began[0]

    setting, seed = asyncio.run(run())
    assert (setting.persona, seed) == ("kind", 5)
    assert setting.portrait.shape == (32, 48, 3)
    assert abs(int(setting.portrait[16, 24, 0]) - 77) < 5
    np.testing.assert_allclose(setting.voice, 0.25, atol=1e-4)


def test_one_more_client_is_refused_before_the_upgrade_and_costs_the_others_nothing():
    async def run():
        async with served([EchoSlot(), EchoSlot()]) as server:
            async with connected(server, {}) as one, connected(server, {}):
                began = time.monotonic()
                async with ClientSession() as client, client.get(server.url("/v1/ws"), headers=UPGRADE) as response:
                    refused = response.status, response.headers["Retry-After"], await response.text()
                took_s = time.monotonic() - began
                await heard_from(one, last_unit(5))
            freed_s = await server.until_free()
            async with connected(server, {}) as again:
                await heard_from(again, last_unit(1))
            return refused, took_s, freed_s

    (status, retry, text), took_s, freed_s = asyncio.run(run())
    assert status == 503
    assert int(retry) > 0
    assert "2 places" in text
    assert took_s < 1
    assert freed_s < 1


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def test_a_plain_get_is_told_that_this_is_a_websocket():
    async def run():
        async with served() as server, ClientSession() as client, client.get(server.url("/v1/ws")) as response:
            return response.status, server.service.load.n_used

    assert asyncio.run(run()) == (426, 0)


def test_a_dead_client_frees_its_slot_within_5_s():
    async def run():
        async with served() as server, connected(server, {}, autoping=False) as ws:  # it hears, and answers no ping
            await heard_from(ws, last_unit(0))
            return await server.until_free(within_s=5.0)

    assert asyncio.run(run()) < 5


def test_a_client_that_never_reads_costs_no_memory_and_nobody_else(monkeypatch):
    async def run():
        async with served([EchoSlot(), EchoSlot()]) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**10)
            lines = [f"{name}: {value}" for name, value in {"Host": "127.0.0.1", **UPGRADE}.items()]
            writer.write("\r\n".join(["GET /v1/ws HTTP/1.1", *lines, "", ""]).encode())
            start = json.dumps({"type": "start"}).encode()
            writer.write(bytes([0x81, 0x80 | len(start), 0, 0, 0, 0]) + start)
            await asyncio.sleep(0.5)
            messages = await a_conversation(server, 1.5)
            assert server.service.load.n_used >= 1
            writer.transport.abort()
            del reader
            return messages

    units = [m for m in asyncio.run(run()) if m["type"] == "unit"]
    assert [m["unit"] for m in units] == list(range(len(units)))


def test_a_client_that_is_behind_misses_the_oldest_media_and_no_words():
    async def run():
        outbox = Outbox()
        for k in range(10):
            outbox.put_unit(Unit([b"%d" % k], [f"unit {k}"]))
        outbox.close()
        return [await outbox.take() for _ in range(2)], outbox.n_missed

    messages, n_missed = asyncio.run(run())
    assert [m for m in messages[0] if isinstance(m, str)] == [f"unit {k}" for k in range(10)]
    assert messages[1] == []
    assert n_missed == 10 - MOST_UNITS


@pytest.mark.parametrize("unit_ms", [250.0])
def test_a_slow_agent_is_concealed_and_never_falls_behind(unit_ms):
    async def run():
        async with served([EchoSlot(unit_ms)]) as server:
            return await a_conversation(server, 3.0)

    units = [m for m in asyncio.run(run()) if m["type"] == "unit"]
    assert [m["unit"] for m in units] == list(range(len(units)))
    assert units[-1]["skipped"] + units[-1]["late"] > 0
    assert units[-1]["unit"] >= 3.0 * 1000 // UNIT_MS - 2


def test_an_agent_that_fails_says_goodbye_and_its_slot_is_free():
    async def run():
        slot = EchoSlot()
        slot.session.fails_at = 3
        async with served([slot]) as server:
            async with connected(server, {}) as ws:
                goodbye = (await heard_from(ws, of_type("goodbye")))[-1]
            await server.until_free()
            return goodbye

    assert asyncio.run(run())["name"] == "failed"


def test_a_persona_that_does_not_fit_is_said_to_the_one_who_sent_it():
    async def run():
        async with served() as server, connected(server, {"persona": "x" * 100}) as ws:
            return (await heard_from(ws, of_type("goodbye")))[-1]

    goodbye = asyncio.run(run())
    assert goodbye["name"] == "bad_world"
    assert "100 tokens" in goodbye["message"]


WRONG = {
    "no JSON": ("{", "bad_json"),
    "a list": ("[]", "bad_json"),
    "deep": ("[" * 9000, "bad_json"),
    "unknown type": ('{"type": "dance"}', "unknown_type"),
    "no type": ("{}", "unknown_type"),
    "unknown field": ('{"type": "text", "text": "a", "to": "b"}', "unknown_field"),
    "no text": ('{"type": "text"}', "bad_field"),
    "text is a number": ('{"type": "text", "text": 5}', "bad_field"),
    "a megabyte of text": (json.dumps({"type": "text", "text": "x" * 10**6}), "text_too_long"),
    "3000 characters": (json.dumps({"type": "text", "text": "x" * 3000}), "text_too_long"),
    "ping of NaN": ('{"type": "ping", "time_ms": NaN}', "bad_field"),
    "started again": ('{"type": "start"}', "started"),
    "empty": (b"", "no_message"),
    "short": (b"\x01abc", "no_message"),
    "time NaN": (packed(SOUND, float("nan"), pcm(np.zeros(9))), "bad_time"),
    "time infinite": (packed(SOUND, float("inf"), pcm(np.zeros(9))), "bad_time"),
    "unknown kind": (packed(9, 0.0, b"x"), "unknown_kind"),
    "no picture": (packed(PICTURE, 0.0, b"GIF89a"), "bad_picture"),
    "picture too wide": (packed(PICTURE, 0.0, jpeg(np.zeros((16, 4000, 3), np.uint8))), "bad_picture"),
    "odd sound": (packed(SOUND, 0.0, b"xyz"), "bad_sound"),
    "two seconds of sound": (packed(SOUND, 0.0, pcm(np.zeros(2 * SAMPLE_RATE_HZ))), "bad_sound"),
    "portrait too late": (packed(PORTRAIT, 0.0, jpeg(grey(9))), "started"),
}


def absurd_jpeg():
    """A JPEG that says it is 65,500 pixels wide and high."""
    data = bytearray(jpeg(grey(1)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def test_every_wrong_message_has_a_name_and_the_conversation_goes_on():
    async def run():
        async with served() as server, connected(server, {}) as ws:
            await heard_from(ws, of_type("started"))
            names = []
            for message, _ in WRONG.values():
                await (ws.send_str(message) if isinstance(message, str) else ws.send_bytes(message))
                names.append((await heard_from(ws, lambda m: m["type"] in ("error", "goodbye")))[-1])
                if len(names) % 15 == 14:
                    return names, ws
            return names, ws

    websocket_limit = client.MOST_WRONG
    names, _ = asyncio.run(run())
    assert websocket_limit > len(names)
    assert [m["name"] for m in names] == [name for _, name in WRONG.values()][: len(names)]


@pytest.mark.parametrize("name", list(WRONG)[14:])
def test_wrong_media_have_names(name):
    message, error = WRONG[name]

    async def run():
        async with served() as server, connected(server, {}) as ws:
            await heard_from(ws, of_type("started"))
            await ws.send_bytes(message)
            said = (await heard_from(ws, of_type("error")))[-1]
            await heard_from(ws, last_unit(1))
            return said

    said = asyncio.run(run())
    assert said["name"] == error
    assert said["message"]


def test_an_absurd_picture_is_refused_by_its_head():
    async def run():
        async with served() as server, connected(server, {}) as ws:
            await heard_from(ws, of_type("started"))
            began = time.monotonic()
            await ws.send_bytes(packed(PICTURE, 0.0, absurd_jpeg()))
            return (await heard_from(ws, of_type("error")))[-1]["name"], time.monotonic() - began

    name, took_s = asyncio.run(run())
    assert name == "bad_picture"
    assert took_s < 1


def test_too_many_wrong_messages_end_it():
    async def run():
        async with served() as server, connected(server, {}) as ws:
            for _ in range(client.MOST_WRONG):
                await ws.send_str("{}")
            return (await heard_from(ws, of_type("goodbye")))[-1]["name"]

    assert asyncio.run(run()) == "too_many_wrong_messages"


def test_a_message_over_the_limit_closes_with_1009():
    async def run():
        async with served() as server, connected(server, {}, max_msg_size=0) as ws:
            await ws.send_bytes(bytes(2 * 2**20))
            async with asyncio.timeout(5):
                while not ws.closed:
                    await ws.receive()
            await server.until_free()
            return ws.close_code

    assert asyncio.run(run()) == 1009


def test_media_before_start_and_a_client_that_never_starts(monkeypatch):
    monkeypatch.setattr(client, "START_WITHIN_S", 0.5)

    async def run():
        async with served() as server, connected(server) as ws:
            await ws.send_bytes(packed(SOUND, 0.0, pcm(np.zeros(CHUNK))))
            error = (await heard_from(ws, of_type("error")))[-1]["name"]
            return error, (await heard_from(ws, of_type("goodbye")))[-1]["name"]

    assert asyncio.run(run()) == ("not_started", "no_start")


def test_a_time_limit_warns_and_then_says_goodbye(monkeypatch):
    monkeypatch.setattr(client, "WARNED_S", 0.5)

    async def run():
        async with served(rules=Rules(time_limit_s=1.0)) as server, connected(server, {}) as ws:
            return await heard_from(ws, of_type("goodbye"))

    messages = asyncio.run(run())
    warning = next(m for m in messages if m["type"] == "warning")
    assert (warning["name"], warning["seconds_left"]) == ("time_limit", 0.5)
    assert messages[-1]["name"] == "time_limit"


def test_stop_delete_and_a_server_that_stops_say_goodbye():
    async def run():
        names = []
        async with served([EchoSlot(), EchoSlot(), EchoSlot()]) as server:
            async with connected(server, {}) as ws:
                await ws.send_str('{"type": "stop"}')
                names.append((await heard_from(ws, of_type("goodbye")))[-1]["name"])
            async with connected(server, {}) as ws, ClientSession() as client:
                session = (await heard_from(ws, of_type("hello")))[-1]["session"]
                for path, status in ((session[:-1], 404), (session, 204)):
                    async with client.delete(server.url(f"/v1/sessions/{path}")) as response:
                        assert response.status == status
                names.append((await heard_from(ws, of_type("goodbye")))[-1]["name"])
            async with connected(server, {}) as ws:
                await heard_from(ws, last_unit(1))
                stopping = asyncio.create_task(server.service.stop())
                names.append((await heard_from(ws, of_type("goodbye")))[-1]["name"])
                with pytest.raises(WSServerHandshakeError, match="503"):
                    async with connected(server, {}):
                        pass
                await stopping
        return names

    assert asyncio.run(run()) == ["stopped", "deleted", "server_stops"]


def test_a_ping_is_answered_with_its_time():
    async def run():
        async with served() as server, connected(server) as ws:
            await ws.send_str('{"type": "ping", "time_ms": 12.5}')
            return (await heard_from(ws, of_type("pong")))[-1]

    pong = asyncio.run(run())
    assert (pong["type"], pong["time_ms"]) == ("pong", 12.5)
    assert pong["server_ms"] > 0


def test_the_header_is_nine_bytes():
    assert HEADER.size == 9
