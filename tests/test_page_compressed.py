"""The page in compressed forms in a real Chromium: seen and heard both ways, in time, and plain where that fails."""

import json

import numpy as np
import pytest

from tests.chromium import BINARY
from tests.test_page import STATE, WATCH, begin, devices, on_a_page  # noqa: F401 - devices is a fixture
from wanstreamer_jax.serving.codecs import SoundDecoder, SoundEncoder
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed (Debian: apt-get install chromium)")

TRANSCRIPT = "document.getElementById('transcript').textContent"
HEARD_AND_SEEN = "window.heard > 0.2 && new Set(window.levels).size > 5"
COUNT = """
  window.sent = {}; window.decoded = {};
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function(data) {
    if (data instanceof Uint8Array) sent[data[0]] = (sent[data[0]] ?? 0) + 1;
    return send.call(this, data);
  };
  for (const decoder of [VideoDecoder, AudioDecoder]) {
    const decode = decoder.prototype.decode;
    decoder.prototype.decode = function(chunk) {
      decoded[decoder.name] = (decoded[decoder.name] ?? 0) + 1;
      return decode.call(this, chunk);
    };
  }
"""
# Codecs that give up after a moment: one that is fed what it cannot decode, one that says so.
FAIL = """
  const decode = VideoDecoder.prototype.decode;
  VideoDecoder.prototype.decode = function(chunk) {
    const { type, timestamp } = chunk;
    const data = window.failing ? new Uint8Array(50).fill(7) : new Uint8Array(chunk.byteLength);
    window.failing || chunk.copyTo(data);
    return decode.call(this, new EncodedVideoChunk({ type, timestamp, data }));
  };
  const Encoder = AudioEncoder;
  window.AudioEncoder = class extends Encoder {
    constructor(init) { super(init); window.fail = () => { init.error(new Error("no more")); this.close(); }; }
  };
"""


async def choose(page, forms):
    await page.eval(f"document.getElementById('forms-select').value = '{forms}'")


def test_pictures_are_drawn_and_sound_is_heard(devices):  # noqa: F811
    async def test(page, server):
        await page.eval(f"(() => {{ {COUNT} }})()")
        await choose(page, "compressed")
        await begin(page)
        await page.eval(f"(() => {{ {WATCH} }})()")
        await page.until(HEARD_AND_SEEN)
        levels, sent, decoded = json.loads(await page.eval("JSON.stringify([levels, sent, decoded])"))
        return np.array(levels), sent, decoded, await page.eval(TRANSCRIPT), page.console

    levels, sent, decoded, transcript, console = on_a_page(devices, test)
    assert console == []
    assert "plain" not in transcript
    assert set(sent) == {"5", "6", "7"}
    assert sent["6"] > sent["5"]
    assert set(decoded) == {"VideoDecoder", "AudioDecoder"}
    assert np.ptp(levels) > 10


def test_on_this_machine_media_are_plain_unless_wanted_otherwise(devices):  # noqa: F811
    async def test(page, server):
        await page.eval(f"(() => {{ {COUNT} }})()")
        await begin(page)
        await page.eval(f"(() => {{ {WATCH} }})()")
        await page.until(HEARD_AND_SEEN)
        return json.loads(await page.eval("JSON.stringify([Object.keys(sent), Object.keys(decoded)])"))

    assert on_a_page(devices, test) == [["1", "2"], []]


def test_where_the_browser_gives_up_the_conversation_goes_on_in_plain_forms(devices):  # noqa: F811
    async def test(page, server):
        await page.eval(f"(() => {{ {FAIL} {COUNT} }})()")
        await choose(page, "compressed")
        await begin(page)
        await page.until("window.decoded.VideoDecoder > 4 && window.sent[7] > 4")
        await page.eval("window.failing = true; window.fail()")
        await page.until(f"{TRANSCRIPT}.includes('pictures are received plain')")
        assert "sound is sent plain" in await page.eval(TRANSCRIPT)
        await page.eval(f"(() => {{ {WATCH} }})()")
        await page.until(f"{HEARD_AND_SEEN} && window.sent[2] > 4")
        return await page.eval(STATE)

    assert on_a_page(devices, test) == "live"


# What the page's classes make of a sweep, and of packets of one.
ENCODE = """(async () => {
  const { SoundEncoder } = await import("/page/codecs.js");
  const packets = [];
  const take = (timeMs, bytes) => packets.push([timeMs, [...bytes]]);
  const encoder = new SoundEncoder({ sample_rate_hz: 24000 }, take, (error) => { throw error; });
  const samples = new Float32Array(%s);
  for (let at = 0; at < samples.length; at += 480) {
    encoder.encode(1000 + at / 24, samples.slice(at, at + 480));
  }
  await encoder.encoder.flush();
  return JSON.stringify(packets);
})()"""
DECODE = """(async () => {
  const { SoundDecoder } = await import("/page/codecs.js");
  const pieces = [];
  const play = (timeMs, samples, rateHz) => pieces.push([timeMs, [...samples], rateHz]);
  const decoder = new SoundDecoder({ play, failed: (error) => { throw error; } });
  for (const [timeMs, bytes] of %s) {
    decoder.decode(timeMs, new Uint8Array(bytes));
  }
  await decoder.decoder.flush();
  return JSON.stringify(pieces);
})()"""


def sweep(at_s):
    """A tone that rises for a second from 0 on, and is nowhere like itself."""
    return 0.4 * np.sin(2 * np.pi * (300 + 600 * at_s) * at_s) * ((at_s >= 0) & (at_s < 1))


def late_ms(pieces, rate_hz, began_ms):
    """How much later than it was, sound is that is given as times and samples."""
    best, of = -np.inf, 0.0
    for shift_ms in np.arange(-12, 12, 0.25):
        alike = 0.0
        for time_ms, samples in pieces:
            at_s = (time_ms - began_ms - shift_ms) / 1000 + np.arange(len(samples)) / rate_hz
            alike += float(np.dot(samples, sweep(at_s)))
        best, of = max((best, of), (alike, float(shift_ms)))
    return of


def test_sound_keeps_its_time_between_the_browsers_codecs_and_the_servers():
    samples = sweep(np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ).astype(np.float32)
    packets = [[time_ms, list(data)] for time_ms, data in SoundEncoder().encode(1000.0, samples)]

    async def test(page, server):
        encoded = await page.eval(ENCODE % json.dumps(samples.round(4).tolist()))
        return json.loads(encoded), json.loads(await page.eval(DECODE % json.dumps(packets)))

    encoded, pieces = on_a_page((), test)
    decoder = SoundDecoder()
    up = [decoder.decode(float(time_ms), bytes(data)) for time_ms, data in encoded]
    assert abs(late_ms(up, SAMPLE_RATE_HZ, 1000)) <= 1
    (rate_hz,) = {rate_hz for _, _, rate_hz in pieces}
    assert abs(late_ms([piece[:2] for piece in pieces], rate_hz, 1000)) <= 1
