"""A conversation with an agent that is late now and then; replay files with something else in them."""

import itertools
import json
import time
from contextlib import suppress

import numpy as np

from tests import small, small_preset
from wanstreamer_jax.agent import Agent
from wanstreamer_jax.serving.conversation import Conversation, Plan
from wanstreamer_jax.serving.replay.lines import LineWriter, ReplayError
from wanstreamer_jax.serving.replay.reading import open_recording
from wanstreamer_jax.serving.slots import PlacementSlot
from wanstreamer_jax.serving.world_file import Setting
from wanstreamer_jax.stream.live import WALL_CLOCK
from wanstreamer_jax.stream.unified import Unified
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, VIDEO_FPS
from wanstreamer_jax.tokens import byte_tokenizer

CONFIG = small_preset.config.with_solver_steps(2)
AGENT = Agent(CONFIG, small.small_params(small_preset.config), byte_tokenizer(), trained=False)
LATE_MS = {2: 450, 3: 0, 6: 250, 9: 170}  # units that take so much longer
SEED = 11
FRAME_MS = 1000 / VIDEO_FPS


def place(agent, devices, events=None):
    """On one device; programs come from JAX's cache, which outlives a change of the sources."""
    assert devices is None
    return Unified(agent.config, agent.params, events)


class LateSession:
    """A session whose units are late now and then."""

    def __init__(self, session, fails_at=None):
        self.session, self.fails_at, self.n_lived = session, fails_at, 0

    def step(self, seen, solver_steps):
        time.sleep(LATE_MS.get(self.n_lived, 0) / 1000)
        if self.n_lived == self.fails_at:
            raise RuntimeError("out of order")
        self.n_lived += 1
        return self.session.step(seen, solver_steps)

    def skip(self):
        self.session.skip()


class LateSlot:
    """A slot of such a session."""

    def __init__(self, slot: PlacementSlot, fails_at=None):
        self.slot, self.session = slot, LateSession(slot.session, fails_at)

    def begin(self, setting, seed):
        self.session.n_lived = 0
        return self.slot.begin(setting, seed)

    def close(self):
        pass


def a_setting():
    rng = np.random.default_rng(4)
    portrait = rng.integers(0, 256, (CONFIG.picture.height, CONFIG.picture.width, 3), np.uint8)
    return Setting("kind", portrait, rng.normal(size=9999).astype(np.float32) / 5)


def converse(slot, recorder, n_lived, during=lambda: None):
    """Talk, show pictures and type until so many units have been lived, or it fails; returns what was shown."""
    shown, endings = [], []
    conversation = Conversation(AGENT, slot, Plan(a_setting(), SEED, recorder), shown.append, endings.append)
    conversation.start()
    rng, size = np.random.default_rng(5), CONFIG.vision.picture
    began_ms = WALL_CLOCK.now_ms()
    for k in itertools.count():
        if endings or slot.session.n_lived >= n_lived:
            break
        WALL_CLOCK.sleep_until(began_ms + k * FRAME_MS)
        pcm = rng.integers(-3000, 3000, SAMPLE_RATE_HZ // VIDEO_FPS)
        conversation.inbox.hear(WALL_CLOCK.now_ms(), k * FRAME_MS, pcm.astype(np.float32) / 2**15)
        picture = rng.integers(0, 256, (size.height, size.width, 3), np.uint8)
        conversation.inbox.see(WALL_CLOCK.now_ms(), k * FRAME_MS, picture)
        if k % 17 == 5:
            conversation.type("hi you")
    during()
    conversation.stop()
    assert conversation.join()
    conversation.keep()
    return shown, endings


def meanwhile(path, within_s=30.0):
    """What a replay file says while it is being written, as soon as there is a reply in it."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        with suppress(ReplayError):
            recording = open_recording(path)
            if recording.n_replies:
                return recording
        time.sleep(0.05)
    raise AssertionError(f"{path} holds no reply")


def lines_of(path):
    """The lines of a replay file, without their checksums."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "crc32"} for line in lines]


def write_lines(path, lines):
    """Lines with checksums that are right, whatever they say."""
    header = {name: value for name, value in lines[0].items() if name not in ("format", "version")}
    writer = LineWriter(path, header)
    for line in lines[1:]:
        writer.write(line)
    writer.close()
    return path


def the(lines, kind, unit):
    """The line that tells of a unit."""
    return next(line for line in lines if line.get(kind) == unit)
