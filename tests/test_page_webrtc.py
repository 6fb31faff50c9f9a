"""The page over WebRTC in a real Chromium: heard and seen both ways; over a WebSocket where only that gets through."""

import asyncio
import json

import numpy as np
import pytest

from tests.chromium import BINARY
from tests.test_page import STATE, WATCH, begin, devices, on_a_page  # noqa: F401 - devices is a fixture
from wanstreamer_jax.serving import webrtc

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed (Debian: apt-get install chromium)")

# Typed again and again: a machine that is too slow for a ping in 4 s begins another conversation, as it should.
TYPE = "document.getElementById('type').value = 'hello there'; document.getElementById('type-form').requestSubmit()"
# What the agent said, in however many paragraphs: a slow machine makes pauses.
SAID = "[...document.querySelectorAll('#transcript .agent')].map((item) => item.textContent.slice(7)).join('')"
LOOPBACK = "--allow-loopback-in-peer-connection"  # for machines that have no other network


async def choose(page, transport):
    await page.eval(f"document.getElementById('transport-select').value = '{transport}'")


def test_units_go_both_ways_and_figures_are_told(devices):  # noqa: F811
    async def test(page, server):
        await choose(page, "webrtc")
        await begin(page)
        await page.eval(f"(() => {{ {WATCH} }})()")
        await page.click("#figures-button")
        await page.eval(f"setInterval(() => {{ {TYPE} }}, 1000)")
        await page.until(f"{SAID}.includes('there')")
        await page.until("window.heard > 0.2 && new Set(window.levels).size > 5", within_s=30)
        await page.until("document.getElementById('figure-latency').textContent !== '\\u2013'")
        figures = await page.eval("document.getElementById('figures-panel').innerText")
        levels = json.loads(await page.eval("JSON.stringify(levels)"))
        await page.click("#stop")
        await page.until(f"{STATE} === 'ended'")
        freed_s = await server.until_free()
        return np.array(levels), figures, freed_s, server.service.metrics.page().decode(), page.console

    levels, figures, freed_s, metrics, console = on_a_page(devices, test, LOOPBACK)
    assert console == []
    assert "WebRTC" in figures
    assert np.ptp(levels) > 20
    assert freed_s < 2
    assert 'wanstreamer_sessions_total{transport="webrtc"} 1.0' in metrics


def test_where_webrtc_does_not_get_through_a_websocket_does(devices, monkeypatch):  # noqa: F811
    async def never(self, offer):
        await asyncio.sleep(60)

    from wanstreamer_jax.serving.rtc.peer import Peer

    monkeypatch.setattr(Peer, "answer", never)
    monkeypatch.setattr(webrtc, "ANSWER_WITHIN_S", 0.5)

    async def test(page, server):
        await page.eval("import('/page/connection.js').then((m) => m.HERE.clear())")  # as if it were far away
        await begin(page)
        await page.click("#figures-button")
        return await page.until("document.getElementById('figure-transport').textContent.slice(0, 9)")

    assert on_a_page(devices, test, LOOPBACK) == "WebSocket"


def test_automatic_is_a_websocket_on_this_machine(devices):  # noqa: F811
    async def test(page, server):
        await begin(page)
        return server.service.metrics.page().decode()

    assert 'wanstreamer_sessions_total{transport="websocket"} 1.0' in on_a_page(devices, test)


def test_a_goodbye_is_shown_and_a_page_that_crashes_frees_its_slot_within_5_s(devices):  # noqa: F811
    async def test(page, server):
        await choose(page, "webrtc")
        await begin(page)
        (session,) = server.service._seats
        server.service.end(session)
        await page.until(f"{STATE} === 'ended'")
        said = await page.eval("document.getElementById('welcome-text').textContent")
        await server.until_free()
        await begin(page)
        crash = asyncio.create_task(page.call("Page.crash"))  # there is nobody left to answer
        freed_s = await server.until_free(within_s=8)
        crash.cancel()
        return said, freed_s

    said, freed_s = on_a_page(devices, test, LOOPBACK)
    assert "ended by request" in said
    assert freed_s < 5
