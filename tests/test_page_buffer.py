"""The page's buffer of sound, in a real Chromium, on a clock of its own: what waits, what is made up for, no clicks."""

import asyncio

import pytest

from tests.chromium import BINARY, chromium
from tests.server_cases import served

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed (Debian: apt-get install chromium)")

TONE_STEP = 0.06  # more than between two samples of a 440 Hz tone at 48 kHz, a hundredth faster

# Plays units of a tone that come `arrivals[k]` ms after the session began, with the worklet's clock in our hands.
PLAY = """
(async (arrivals, seconds) => {
  let Playback = null;
  globalThis.sampleRate = 48000;
  globalThis.currentTime = 0;
  globalThis.AudioWorkletProcessor = class { port = { postMessage() {} }; };
  globalThis.registerProcessor = (_, made) => { Playback = made; };
  await import("/page/playback-worklet.js?" + Math.random());
  const player = new Playback(), output = new Float32Array(128), behind = [];
  let gaps = 0, step = 0, last = 0, k = 0;
  for (let block = 0; block < seconds * 375; block++) {
    globalThis.currentTime = block * 128 / 48000;
    for (; k < arrivals.length && arrivals[k] <= currentTime * 1000; k++) {
      const tone = (_, i) => Math.sin(2 * Math.PI * 440 * (k * 3840 + i) / 24000);
      const samples = Float32Array.from({ length: 3840 }, tone);
      player.take({ timeMs: k * 160, samples, rateHz: 24000 });
    }
    const played = player.playing;
    player.process([], [[output]]);
    gaps += played && !player.playing;
    for (const value of output) {
      step = Math.max(step, Math.abs(value - last));
      last = value;
    }
    const unit = player.units[0];
    behind.push(player.playing && unit ? currentTime * 1000 - unit.startMs - unit.used / 48 : null);
  }
  return { gaps, step, behind: behind.filter((_, i) => i % 375 === 374) };
})
"""


@pytest.fixture(scope="module")
def play():
    """Play units with the page's worklet: gaps, the largest step of a sample, how far it is behind each second."""

    async def run(arrivals, seconds):
        async with served() as server, chromium() as open_page, open_page(server.url("/")) as page:
            return await page.eval(f"({PLAY})({arrivals}, {seconds})")

    return lambda arrivals, seconds: asyncio.run(run(arrivals, seconds))


def units(seconds, late_ms):
    """When units come: 30 ms after they are complete at the server, and as much later as `late_ms` says of each."""
    return [160 * k + 30 + late_ms(k) for k in range(round(seconds / 0.16) + 1)]


def test_what_comes_in_time_waits_for_little_and_never_runs_out(play):
    played = play(units(10, lambda k: 12 * (k % 2)), 10)
    assert played["gaps"] == 0
    assert played["step"] < TONE_STEP
    assert max(played["behind"]) < 30 + 12 + 10 + 10


def test_a_first_unit_that_was_late_is_made_up_for_without_a_click(play):
    played = play(units(16, lambda k: 90 * (k == 0)), 16)
    assert played["gaps"] == 0
    assert played["step"] < TONE_STEP
    assert played["behind"][1] > 120
    assert played["behind"][-1] < 30 + 10 + 10


def test_after_a_pause_of_the_network_more_is_held_and_the_backlog_goes(play):
    played = play(units(20, lambda k: max(0, 700 - 160 * (k - 20)) if k >= 20 else 0), 20)
    assert played["gaps"] == 1
    assert played["step"] < TONE_STEP  # a cut fades out and in
    assert 30 + 20 < played["behind"][-1] < 30 + 30 + 10
