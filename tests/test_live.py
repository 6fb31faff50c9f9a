"""The paced loop on a real placement: a second and a half of a live session on the wall clock."""

import numpy as np

from tests import small
from wanstreamer_jax.config import FlowConfig
from wanstreamer_jax.stream.live import Live, measure
from wanstreamer_jax.stream.pace import first_screen
from wanstreamer_jax.stream.placement import Start
from wanstreamer_jax.stream.unified import Unified
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT

CONFIG = small.small_config(flow=FlowConfig(solver_steps=2))


def test_a_live_session_fills_every_unit_in_order():
    placement, seen = Unified(CONFIG, small.small_params(CONFIG)), small.observations(CONFIG, 1)[0]
    start = Start(small.a_world(CONFIG), np.array([7, 4]), [1, 2])
    placement.begin(start)
    pace = measure(placement, seen, [2, 1])
    placement.begin(start)
    black = np.zeros((2, CONFIG.picture.height, CONFIG.picture.width, 3), np.uint8)
    live = Live(placement, lambda _unit: seen, pace, first_screen(black))
    shown = []
    for unit in live.units():
        shown.append(unit)
        if len(shown) == 9:
            live.close()
    placement.close()
    assert [s.unit for s in shown] == list(range(9))
    assert {s.frames.shape[:2] for s in shown} == {(2, FRAMES_PER_UNIT)}
    assert {s.samples.shape for s in shown} == {(2, SAMPLES_PER_UNIT)}
    assert live.counters.lag_max_ms < 160
    assert live.counters.units == 9
    assert not all(s.concealed for s in shown)
