"""Slots on a real agent: isolation bit for bit, no compilation after warm-up, nothing left of who was there before."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests import small, small_preset
from tests.server_cases import Echo, EchoSlot
from wanstreamer_jax.agent import Agent
from wanstreamer_jax.serving import slots as slots_module
from wanstreamer_jax.serving.placing import observation
from wanstreamer_jax.serving.report import CompileCounter
from wanstreamer_jax.serving.slots import PlacementSlot, Slots, open_slots, solver_choices
from wanstreamer_jax.serving.world_file import Setting
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, UNIT_MS
from wanstreamer_jax.tokens import byte_tokenizer

CONFIG = small_preset.config
AGENT = Agent(CONFIG, small.small_params(CONFIG), byte_tokenizer(), trained=False)
N_UNITS = 6


@pytest.fixture(scope="module")
def two():
    """Two slots, warmed up."""
    pair = [PlacementSlot(AGENT, None) for _ in range(2)]
    yield pair
    for slot in pair:
        slot.close()


def user(seed):
    """Units of a user of noise."""
    rng, picture = np.random.default_rng(seed), CONFIG.vision.picture
    return [
        observation(
            CONFIG,
            rng.integers(0, 256, (FRAMES_PER_UNIT, picture.height, picture.width, 3)).astype(np.uint8),
            rng.normal(0, 0.2, SAMPLES_PER_UNIT).astype(np.float32),
            rng.integers(0, 200, seed % CONFIG.text.max_user).tolist(),
        )
        for _ in range(N_UNITS)
    ]


def lived(slot, seed):
    """A conversation: everything that came out of it, as bytes."""
    slot.begin(Setting(persona=f"p{seed}"), seed)
    replies = [slot.session.step(seen, solver_choices(CONFIG)[0]) for seen in user(seed)]
    return [(reply.frames.tobytes(), reply.samples.tobytes(), reply.text) for reply in replies]


def test_conversations_side_by_side_and_after_each_other_are_what_each_is_alone(two):
    alone = {seed: lived(two[0], seed) for seed in (1, 2, 3)}
    assert alone[1] != alone[2]
    with ThreadPoolExecutor(2) as pool:
        for seeds in ((1, 2), (3, 1), (2, 2)):
            together = list(pool.map(lived, two, seeds))
            assert together == [alone[seed] for seed in seeds]


def test_nothing_is_compiled_after_the_warm_up_whatever_the_world(two):
    picture = CONFIG.picture
    portrait = np.full((picture.height, picture.width, 3), 99, np.uint8)
    compiled = CompileCounter()
    for setting in (Setting(), Setting("hello", portrait, np.full(9999, 0.1, np.float32)), Setting("again")):
        for slot in two:
            pace = slot.begin(setting, 2**31 - 1)
            for n in pace.least_ms:
                slot.session.step(user(1)[0], n)
            slot.session.skip()
            slot.session.step(user(1)[1], max(pace.least_ms))
    compiled.close()
    assert compiled.n == 0


def test_solver_steps_are_halved_down_to_one():
    assert solver_choices(CONFIG.with_solver_steps(8)) == [8, 4, 2, 1]
    assert solver_choices(CONFIG.with_solver_steps(1)) == [1]


class Timed(PlacementSlot):
    """A slot whose units take so long for each slot in use."""

    n_made = 0

    def __init__(self, alone_ms):
        self._placement = Echo()
        self.alone_ms = alone_ms
        Timed.n_made += 1

    def slowest_ms(self, n_units):
        assert n_units > 0
        return self.alone_ms * Timed.n_made

    def close(self):
        Timed.n_made -= 1


@pytest.mark.parametrize(
    ("alone_ms", "wanted", "n"), [(20, None, 6), (50, None, 2), (100, None, 1), (500, None, 1), (100, 3, 3)]
)
def test_as_many_slots_as_keep_pace_together(monkeypatch, alone_ms, wanted, n):
    Timed.n_made = 0
    monkeypatch.setattr(slots_module, "BEARABLE", 0.75)
    told = []
    assert len(open_slots(lambda: Timed(alone_ms), wanted, told.append)) == n
    assert alone_ms * n <= 0.75 * UNIT_MS or wanted or n == 1
    assert told


def test_a_slot_is_somebodys_until_it_is_given_back():
    one, other = EchoSlot(), EchoSlot()
    slots = Slots([one, other])
    assert [slots.take() for _ in range(3)] == [one, other, None]
    assert slots.load == (2, 2)
    slots.give_back(one)
    assert slots.load == (2, 1)
    assert slots.take() is one
