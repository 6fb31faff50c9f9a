"""The page in a real Chromium with a microphone and a camera from files: seen, heard, typed, lost and found again."""

import asyncio
import json
import os
import time

import numpy as np
import pytest

from tests.chromium import BINARY, GRANT, chromium, write_camera, write_microphone
from tests.server_cases import served
from wanstreamer_jax.serving import client
from wanstreamer_jax.serving.access import Access
from wanstreamer_jax.serving.conversation import FAILED
from wanstreamer_jax.serving.service import Rules

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed (Debian: apt-get install chromium)")

SECONDS = float(os.environ["PAGE_SECONDS"]) if "PAGE_SECONDS" in os.environ else None
HEIGHT, WIDTH = 96, 96
STATE = "document.body.dataset.state"
TONE_HZ = 500


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """Flags of a camera whose grey grows by 2 a frame, and of a microphone with a beep each second."""
    folder = tmp_path_factory.mktemp("devices")
    levels = np.arange(16, 236, 2).astype(np.uint8)
    camera = np.broadcast_to(levels[:, None, None], (len(levels), HEIGHT, WIDTH))
    at = np.arange(24_000)
    beep = 0.4 * np.sin(2 * np.pi * TONE_HZ * at / 24_000) * (at < 6000)
    return write_camera(folder / "camera.y4m", camera), write_microphone(folder / "mic.wav", beep.astype(np.float32))


def on_a_page(devices, test, *flags, slots=None, **options):
    """Run a test with a page of a server: `test(page, server)`."""

    async def run():
        flags_of_devices = (GRANT, *devices) if devices else ()
        async with (
            served(slots, **options) as server,
            chromium(*flags_of_devices, *flags) as open_page,
            open_page(server.url("/")) as page,
        ):
            await page.until("document.getElementById('status').classList.contains('ready')")
            return await test(page, server)

    return asyncio.run(run())


async def begin(page):
    await page.click("#start")
    await page.until(f"{STATE} === 'live'")


WATCH = """
  window.drawn = []; window.levels = []; window.heard = 0;
  const canvas = document.getElementById('agent'), context = canvas.getContext('2d', {willReadFrequently: true});
  const draw = context.drawImage.bind(context);
  context.drawImage = (...rest) => {
    draw(...rest);
    window.drawn.push(performance.now());
    window.levels.push(context.getImageData(8, 8, 1, 1).data[0]);
  };
  new MutationObserver(() => {
    const level = Number(document.documentElement.style.getPropertyValue('--level'));
    window.heard = Math.max(window.heard, level);
  }).observe(document.documentElement, {attributes: true});
"""


def watched(devices, seconds: float):
    """When pictures were drawn, their greys, the loudest sound, units lived, and what the console said."""

    async def test(page, server):
        await begin(page)
        await asyncio.sleep(2)
        await page.eval(f"(() => {{ {WATCH} }})()")
        await asyncio.sleep(seconds)
        drawn, levels, heard = json.loads(await page.eval("JSON.stringify([drawn, levels, heard])"))
        return np.array(drawn), np.array(levels), heard, server.slots[0].session.n_lived, page.console

    return on_a_page(devices, test)


def test_pictures_move_and_sound_is_heard(devices):
    drawn, levels, heard, n_lived, console = watched(devices, 4.0)
    assert console == []
    assert min(len(drawn), n_lived) > 5
    assert len(set(levels)) > 5
    assert heard > 0.2


@pytest.mark.skipif(SECONDS is None, reason="needs a machine that does nothing else: PAGE_SECONDS=60 pytest -n0 ...")
def test_pictures_come_at_25_a_second_without_a_freeze(devices):
    drawn, levels, _, n_lived, _ = watched(devices, SECONDS)
    assert n_lived >= (SECONDS + 1) / 0.16
    assert (len(drawn) - 1) / (drawn[-1] - drawn[0]) * 1000 == pytest.approx(25, abs=0.5)
    assert np.max(np.diff(drawn)) < 400
    assert np.median(np.diff(levels)) == 2  # 25 a second in, 25 a second out: each picture once


def test_what_is_typed_is_answered_and_both_are_in_the_transcript(devices):
    async def test(page, server):
        await begin(page)
        await page.eval("document.getElementById('type').value = 'hello <b>there</b>'")
        await page.eval("document.getElementById('type-form').requestSubmit()")
        await page.until("document.querySelector('#transcript .agent')?.textContent.includes('there</b>')")
        assert await page.eval("document.querySelectorAll('#transcript b').length") == 0
        return await page.eval("document.querySelector('#transcript .user').textContent")

    assert on_a_page(devices, test) == "You: hello <b>there</b>"


WATCH_BOTH = """
  window.captured = []; window.drawn = [];
  const note = (list, context, at) => list.push([context.getImageData(at, at, 1, 1).data[0], performance.now()]);
  const camera = OffscreenCanvasRenderingContext2D.prototype, capture = camera.drawImage;
  camera.drawImage = function (...rest) { capture.apply(this, rest); note(captured, this, this.canvas.height / 2); };
  const agent = document.getElementById('agent').getContext('2d', {willReadFrequently: true});
  const draw = agent.drawImage.bind(agent);
  agent.drawImage = (...rest) => { draw(...rest); note(drawn, agent, 8); };
"""


def test_the_figures_agree_with_what_is_seen_from_outside(devices):
    """The grey of a camera's picture is its number: when it was captured, and when the agent was seen to show it."""

    async def test(page, server):
        await begin(page)
        await page.click("#figures-button")
        await page.eval(f"(() => {{ {WATCH_BOTH} }})()")
        await asyncio.sleep(6)
        seen = "JSON.stringify([captured, drawn, document.getElementById('figure-latency').textContent])"
        return json.loads(await page.eval(seen))

    captured, drawn, figure = on_a_page(devices, test)
    delay_ms = np.median([shown_after_ms(np.array(captured), *picture) for picture in drawn[-100:]])
    # A picture waits for the end of its unit, and then for its place in the answer: 160 ms together, less the up to
    # 40 ms that the camera's last picture of a unit was taken before the end.
    assert float(figure.split()[0]) == pytest.approx(delay_ms - 140, abs=20 if SECONDS else 150)


def shown_after_ms(captured, level, at_ms):
    """How long before it was shown a picture of this grey was captured."""
    levels, times_ms = captured[(captured[:, 1] < at_ms) & (captured[:, 1] > at_ms - 2000)].T
    return at_ms - times_ms[np.argmin(np.abs(levels - level))]


def test_mute_end_and_again(devices):
    async def test(page, server):
        await begin(page)
        await page.click("#mic-button")
        assert await page.eval("document.getElementById('mic-button').getAttribute('aria-pressed')") == "true"
        await page.click("#stop")
        await page.until(f"{STATE} === 'ended'")
        await server.until_free()
        await begin(page)
        await page.click("#stop")
        return await server.until_free()

    assert on_a_page(devices, test) < 5


def test_a_full_server_is_waited_for(devices):
    async def test(page, server):
        seat = server.service.admit()
        await page.click("#start")
        await page.until(f"{STATE} === 'full'")
        server.service.leave(seat)
        await page.until(f"{STATE} === 'live'", within_s=5)

    on_a_page(devices, test)


def test_a_conversation_that_breaks_off_begins_again_by_itself(devices):
    async def test(page, server):
        await begin(page)
        for seat in list(server.service._seats.values()):
            seat.end(FAILED)
        await page.until(f"{STATE} !== 'live'")
        began = time.monotonic()
        await page.until(f"{STATE} === 'live'", within_s=5)
        return time.monotonic() - began

    assert on_a_page(devices, test) < 5


def test_without_permission_there_is_a_reason_and_a_way_on():
    async def test(page, server):
        await page.call("Browser.setPermission", permission={"name": "camera"}, setting="denied")
        await page.call("Browser.setPermission", permission={"name": "microphone"}, setting="denied")
        await page.click("#start")
        await page.until(f"{STATE} === 'denied'")
        reason = await page.eval("document.getElementById('welcome-text').textContent")
        await page.click("#keyboard")
        await page.until(f"{STATE} === 'live'")
        return reason

    assert "refused" in on_a_page((), test)


def test_a_token_is_asked_for_and_taken_from_the_address(devices):
    token = "0123456789abcdefTOKEN"

    async def test(page, server):
        await page.click("#start")
        await page.until(f"{STATE} === 'failed'")
        assert "token" in await page.eval("document.getElementById('welcome-text').textContent")
        assert not await page.eval("document.getElementById('token-fieldset').hidden")
        await page.eval(f"document.getElementById('token').value = '{token}'")
        await begin(page)

    on_a_page(devices, test, access=Access("127.0.0.1", token))


def test_a_recording_is_a_file_of_the_users_own(devices):
    async def test(page, server):
        await begin(page)
        await page.eval("URL.createObjectURL = (blob) => { window.saved = blob; return 'blob:x'; }")
        await page.click("#record-button")
        await asyncio.sleep(1.5)
        await page.click("#record-button")
        return await page.until("window.saved?.size"), await page.eval("window.saved.type")

    size, kind = on_a_page(devices, test)
    assert size > 1000
    assert kind.startswith("video/")


def test_the_time_limit_is_said_before(devices, monkeypatch):
    monkeypatch.setattr(client, "WARNED_S", 1.0)

    async def test(page, server):
        await begin(page)
        await page.until("document.getElementById('transcript').textContent.includes('s are left')")
        await page.until(f"{STATE} === 'ended'")
        return await page.eval("document.getElementById('welcome-text').textContent")

    assert "time" in on_a_page(devices, test, rules=Rules(time_limit_s=2.5))
