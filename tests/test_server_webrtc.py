"""Conversations over WebRTC: units both ways, whatever is lost on the way."""

import asyncio

import aiortc
import aiortc.rtcrtpreceiver
import numpy as np
import pytest
from aiohttp import ClientSession

from tests.rtc_cases import TONE_HZ, Caller, calling, lose, of_type, posted, unit_after
from tests.server_cases import PORTRAIT, VOICE, EchoSlot, grey, jpeg, packed, pcm, served
from wanstreamer_jax.serving import client
from wanstreamer_jax.serving.inbox import Inbox
from wanstreamer_jax.serving.rtc import client as rtc_client
from wanstreamer_jax.serving.rtc.tap import Tap
from wanstreamer_jax.serving.service import Rules
from wanstreamer_jax.stream.live import WALL_CLOCK
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, UNIT_MS


def tone_hz(samples):
    """The strongest tone of a second of sound at 48 kHz."""
    spectrum = np.abs(np.fft.rfft(samples[-48_000:]))
    return np.argmax(spectrum[20:]) + 20


def test_units_go_both_ways_in_step_with_what_is_said_of_them():
    async def run():
        async with served() as server, calling(server, {"seed": 5}) as caller:
            await caller.heard(unit_after(18))
            return caller, server.service.metrics.page().decode()

    caller, metrics = asyncio.run(run())
    assert caller.messages[0]["type"] == "hello"
    assert caller.location == f"/v1/sessions/{caller.messages[0]['session']}"
    assert caller.of("started")[0]["seed"] == 5
    units = [message["unit"] for message in caller.of("unit")]
    assert units == list(range(len(units)))
    heard = np.concatenate([frame.to_ndarray().reshape(-1)[::2] for _, frame in caller.frames["audio"]])
    assert abs(tone_hz(heard.astype(float)) - TONE_HZ) < 20
    greys = {int(frame.to_ndarray(format="rgb24")[:30, :30].mean()) for _, frame in caller.frames["video"][-25:]}
    assert len(greys) > 4
    sent = caller.of("sent")
    assert len(sent) > 8
    assert [message["unit"] for message in sent] == sorted({message["unit"] for message in sent})
    assert 'wanstreamer_sessions_total{transport="webrtc"} 1.0' in metrics


def test_a_unit_is_shown_with_the_stamp_that_was_said(monkeypatch):
    came = set()
    add = aiortc.rtcrtpreceiver.JitterBuffer.add  # the caller's; the server has its own

    def noting(self, packet):
        came.add(packet.timestamp)
        return add(self, packet)

    monkeypatch.setattr(aiortc.rtcrtpreceiver.JitterBuffer, "add", noting)

    async def run():
        async with served() as server, calling(server, {}) as caller:
            await caller.heard(lambda message: message["type"] == "sent" and message["unit"] >= 6)
            await asyncio.sleep(0.5)
            return {message["rtp_timestamp"] for message in caller.of("sent")}

    assert asyncio.run(run()) <= came


def test_the_world_comes_in_parts_and_text_both_ways():
    async def run():
        async with served() as server, calling(server, media=False) as caller:
            caller.send_long(packed(PORTRAIT, 0.0, jpeg(grey(77))), size=100)
            caller.send_long(packed(VOICE, 0.0, pcm(np.full(SAMPLE_RATE_HZ * 9, 0.25))))
            caller.say("start", persona="kind", seed=5)
            caller.say("text", text="hello there")
            while "hello there" not in "".join(message["text"] for message in caller.of("text")):
                await asyncio.sleep(0.05)
            return server.slots[0].began[0]

    setting, seed = asyncio.run(run())
    assert (setting.persona, seed) == ("kind", 5)
    assert abs(int(setting.portrait[16, 24, 0]) - 77) < 5
    assert setting.voice.shape == (SAMPLE_RATE_HZ * 9,)


def test_wrong_messages_have_names_and_the_conversation_goes_on():
    async def run():
        async with served() as server, calling(server, {}) as caller:
            await caller.heard(of_type("started"))
            for wrong in ("{", packed(1, 0.0, jpeg(grey(1))), b"", packed(16, 9e9, b"x")):
                caller.channel.send(wrong)
            caller.say("forms", pictures="h264", sound="pcm")
            while len(caller.of("error")) < 5:
                await asyncio.sleep(0.05)
            await caller.heard(unit_after(caller.of("unit")[-1]["unit"] + 2 if caller.of("unit") else 2))
            return [message["name"] for message in caller.of("error")]

    assert asyncio.run(run()) == ["bad_json", "unknown_kind", "no_message", "bad_part", "bad_field"]


def test_one_more_is_refused_before_anything_is_set_up_and_delete_ends_it():
    async def run():
        async with served() as server, calling(server, {}) as caller:
            await caller.heard(of_type("started"))
            other = Caller()
            offer = await other.offer()
            status, headers, text = await posted(server, offer)
            await other.close()
            async with ClientSession() as http, http.delete(server.url(caller.location)) as response:
                assert response.status == 204
            goodbye = await caller.heard(of_type("goodbye"))
            await caller.close()
            await server.until_free()
            return status, int(headers["Retry-After"]), text, goodbye["name"]

    status, retry_s, text, name = asyncio.run(run())
    assert status == 503
    assert retry_s > 0
    assert "1 places" in text
    assert name == "deleted"


def test_a_server_that_stops_says_goodbye_and_leaves_nothing_behind():
    async def run():
        async with served() as server:
            async with calling(server, {}) as caller:
                await caller.heard(unit_after(2))
                stopping = asyncio.create_task(server.service.stop())
                goodbye = await caller.heard(of_type("goodbye"))
                await caller.close()
                await stopping
            return goodbye["name"]

    assert asyncio.run(run()) == "server_stops"


@pytest.mark.parametrize("what", ["connection", "channel"])
def test_a_client_that_hangs_up_frees_its_slot_at_once(what):
    async def run():
        async with served() as server, calling(server, {}) as caller:
            await caller.heard(unit_after(1))
            if what == "connection":
                await caller.close()
            else:
                caller.channel.close()
            return await server.until_free()

    assert asyncio.run(run()) < 3


def test_a_dead_client_frees_its_slot_within_5_s(monkeypatch):
    async def run():
        async with served() as server, calling(server, {}) as caller:
            await caller.heard(unit_after(1))
            lose(monkeypatch, 1.0)  # nothing comes and goes any more, and nobody says so
            monkeypatch.setattr(aiortc.RTCDtlsTransport, "_send_data", _nothing)
            return await server.until_free(within_s=6.0)

    assert asyncio.run(run()) < 5


async def _nothing(self, data):
    del self, data


def test_a_client_that_sends_media_is_there_without_pings(monkeypatch):
    monkeypatch.setattr(rtc_client, "SILENT_MS", 1500.0)

    async def run():
        async with served() as server, calling(server, {}, pings=False) as caller:
            await caller.heard(unit_after(20))
            return server.service.load.n_used

    assert asyncio.run(run()) == 1


def test_a_peer_that_never_connects_is_let_go(monkeypatch):
    monkeypatch.setattr(rtc_client, "CONNECT_WITHIN_S", 0.5)

    async def run():
        async with served() as server:
            caller = Caller()
            status, _, _ = await posted(server, await caller.offer())
            used = server.service.load.n_used
            await server.until_free(within_s=4.0)
            await caller.close()
            return status, used

    assert asyncio.run(run()) == (201, 1)


def test_a_client_that_never_starts_and_one_whose_time_is_over(monkeypatch):
    monkeypatch.setattr(client, "START_WITHIN_S", 2.0)
    monkeypatch.setattr(client, "WARNED_S", 0.5)

    async def run():
        async with (
            served([EchoSlot(), EchoSlot()], rules=Rules(time_limit_s=4.0)) as server,
            calling(server) as silent,
            calling(server, {}) as other,
        ):
            return await silent.heard(of_type("goodbye")), await other.heard(of_type("goodbye")), other.messages

    silent, other, messages = asyncio.run(run())
    assert silent["name"] == "no_start"
    assert other["name"] == "time_limit"
    assert any(message["type"] == "warning" for message in messages)


# ---- What is lost on the way


class Heard:
    """What comes to the inbox, and how long it was held after it had come."""

    def __init__(self, monkeypatch):
        self.held_ms, self.pictures, self.sounds = [], [], []
        came_ms = {}
        add, release, see, hear = Tap.add, Tap._release, Inbox.see, Inbox.hear

        def noting_add(tap, packet):
            came_ms[tap, packet.timestamp] = WALL_CLOCK.now_ms()
            return add(tap, packet)

        def noting_release(tap):
            frames = tap._frames
            tap._frames = lambda frame, now_ms: (
                self.held_ms.append(now_ms - came_ms[tap, frame.timestamp]),
                frames(frame, now_ms),
            )
            release(tap)
            tap._frames = frames

        def noting(calls, method):
            return lambda inbox, now_ms, *media: (calls.append(now_ms), method(inbox, now_ms, *media))

        monkeypatch.setattr(Tap, "add", noting_add)
        monkeypatch.setattr(Tap, "_release", noting_release)
        monkeypatch.setattr(Inbox, "see", noting(self.pictures, see))
        monkeypatch.setattr(Inbox, "hear", noting(self.sounds, hear))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
def test_lost_packets_cost_what_they_held_and_no_delay(monkeypatch, share):
    heard = Heard(monkeypatch)

    async def run():
        async with served() as server, calling(server, {}) as caller:
            await caller.heard(unit_after(2))
            stop = lose(monkeypatch, share)
            await caller.heard(unit_after(17))
            stop()
            stopped_ms = WALL_CLOCK.now_ms()
            await caller.heard(unit_after(17 + 2000 // UNIT_MS))
            return stopped_ms, server.service.load.n_used

    stopped_ms, n_used = asyncio.run(run())
    assert n_used == 1
    assert np.median(heard.held_ms) < 5
    assert np.quantile(heard.held_ms, 0.95) <= 60  # what was held was held for a moment
    for calls, a_second in ((heard.pictures, 25), (heard.sounds, 50)):
        assert sum(now_ms > stopped_ms for now_ms in calls) > a_second  # of two seconds
