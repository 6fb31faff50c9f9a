"""Laws of the clock: whole frames and samples, groups in their order, and a position is a time."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanstreamer_jax import timeline
from wanstreamer_jax.timeline import Group, Picture, UnitLayout

grids = st.tuples(st.integers(1, 6), st.integers(1, 6))
layouts = st.builds(
    UnitLayout,
    max_user_text=st.integers(0, 20),
    max_agent_text=st.integers(1, 10),
    user_grid=grids,
    user_frames=st.integers(1, timeline.FRAMES_PER_UNIT),
    agent_grid=grids,
)


def test_a_unit_is_whole_frames_samples_and_latents() -> None:
    assert timeline.FRAMES_PER_UNIT == 4
    assert timeline.SAMPLES_PER_UNIT == 3840
    assert timeline.FRAMES_PER_UNIT * 1000 == timeline.UNIT_MS * timeline.VIDEO_FPS
    assert timeline.SAMPLES_PER_UNIT * 1000 == timeline.UNIT_MS * timeline.SAMPLE_RATE_HZ
    assert timeline.SAMPLES_PER_FRAME * timeline.FRAMES_PER_UNIT == timeline.SAMPLES_PER_UNIT
    assert timeline.SAMPLES_PER_AUDIO_LATENT * timeline.AUDIO_LATENTS_PER_UNIT == timeline.SAMPLES_PER_UNIT


@pytest.mark.parametrize(("picture", "n_tokens"), [((112, 64), 28), ((336, 192), 252), ((640, 368), 920)])
def test_video_tokens_of_the_published_pictures(picture: tuple[int, int], n_tokens: int) -> None:
    rows, columns = Picture(*picture).latent_grid
    assert Picture(*picture).n_tokens == n_tokens == rows * columns // 4


def test_only_text_is_token_causal() -> None:
    assert [group.token_causal for group in Group] == [True, False, True, False]


def _groups(layout: UnitLayout) -> list[np.ndarray]:
    return [
        layout.user_text_positions(),
        layout.user_media_positions(),
        layout.agent_text_positions(),
        layout.agent_media_positions(),
    ]


@settings(deadline=None)
@given(layout=layouts)
def test_groups_follow_each_other_and_fill_the_unit(layout: UnitLayout) -> None:
    times = [group[:, 0] for group in _groups(layout)]
    assert sorted({int(t) for group in times for t in group}) == list(range(layout.advance))
    spans = [(group.min(), group.max()) for group in times if group.size]
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


@settings(deadline=None)
@given(layout=layouts)
def test_token_counts_are_the_positions(layout: UnitLayout) -> None:
    user_text, user_media, agent_text, agent_media = (len(group) for group in _groups(layout))
    assert (user_text, agent_text) == (layout.max_user_text, layout.max_agent_text)
    assert (user_media, agent_media) == (layout.n_user_media, layout.n_agent_media)
    assert layout.n_observed == agent_media + user_text + user_media
    assert layout.n_slice == layout.n_observed + agent_text


@settings(deadline=None)
@given(layout=layouts)
def test_text_and_sound_stand_in_time_only_and_pictures_in_rows_and_columns_too(layout: UnitLayout) -> None:
    user_text, user_media, agent_text, agent_media = _groups(layout)
    n_sound = timeline.AUDIO_LATENTS_PER_UNIT
    for group in (user_text, user_media[-n_sound:], agent_text, agent_media[:n_sound]):
        assert (group == group[:, :1]).all()
    n_frame = layout.user_grid[0] * layout.user_grid[1]
    frames = [user_media[i : i + n_frame] for i in range(0, len(user_media) - n_sound, n_frame)]
    for frame, grid in [*((f, layout.user_grid) for f in frames), (agent_media[n_sound:], layout.agent_grid)]:
        assert len({int(t) for t in frame[:, 0]}) == 1
        row_and_column = frame[:, 1:] - frame[:, :1]
        assert row_and_column.tolist() == [[row, column] for row in range(grid[0]) for column in range(grid[1])]


@settings(deadline=None)
@given(us=st.integers(1, 10**11))
def test_units_cover_a_recording_and_no_unit_is_empty(us: int) -> None:
    unit_us = timeline.UNIT_MS * 1000
    n = timeline.n_units(us / 1e6)
    assert (n - 1) * unit_us < us <= n * unit_us


@settings(deadline=None)
@given(n=st.integers(0, 10**6))
def test_whole_units_have_no_partial_one(n: int) -> None:
    assert timeline.n_units(n * 0.16) == n
    assert timeline.n_units(n * timeline.SAMPLES_PER_UNIT / timeline.SAMPLE_RATE_HZ) == n
