"""Laws of a session of the world: the same to the bit, whole units, labels that the signals bear out."""

import dataclasses
import functools
import hashlib
import json

import numpy as np
import pytest

from wanstreamer_jax.data.world import (
    Composition,
    Identity,
    Kind,
    Session,
    Split,
    Who,
    World,
    make_session,
    make_sessions,
    measure_nod,
    measure_opening,
    mouth_box,
)
from wanstreamer_jax.data.world.camera import PALETTE, PAPER
from wanstreamer_jax.data.world.character import portray
from wanstreamer_jax.data.world.identity import Pose
from wanstreamer_jax.data.world.motion import bumps
from wanstreamer_jax.timeline import (
    FRAMES_PER_UNIT,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_FRAME,
    SAMPLES_PER_UNIT,
    UNIT_MS,
    Picture,
)

PER_MS = SAMPLE_RATE_HZ // 1000
SEEDS = range(4)


@functools.cache
def sessions(split: Split) -> tuple[Session, ...]:
    return tuple(make_sessions(SEEDS, World(split=split, seconds=12.8)))


@functools.cache
def session_of(kind: Kind, seed: int = 0) -> Session:
    return make_session(seed, World(mixture={kind: 1.0}, seconds=19.2, agent_picture=Picture(32, 16)))


def digest(session: Session) -> str:
    arrays = session.user_frames, session.user_samples, session.agent_frames, session.agent_samples, session.portrait
    total = hashlib.sha256(json.dumps(session.labels.to_json()).encode())
    for array in arrays:
        total.update(array.tobytes())
    return total.hexdigest()


def envelope(samples: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(samples.reshape(-1, SAMPLES_PER_FRAME) ** 2, axis=1))


def level(samples: np.ndarray, start_ms: int, end_ms: int) -> float:
    return float(np.sqrt(np.mean(samples[start_ms * PER_MS : end_ms * PER_MS] ** 2)))


def test_a_seed_is_a_session_to_the_bit_in_any_process_and_order() -> None:
    world = World(seconds=4.0)
    here = {seed: digest(make_session(seed, world)) for seed in (3, 1, 2)}
    there = dict(zip((1, 2, 3), map(digest, make_sessions((1, 2, 3), world, workers=2)), strict=True))
    assert here == there
    assert len(set(here.values())) == len(here)


def test_a_mixture_is_the_same_in_whatever_order_it_is_written() -> None:
    one = make_session(5, World(seconds=6.0, mixture={Kind.REPEAT: 1.0, Kind.COLOUR: 2.0}))
    other = make_session(5, World(seconds=6.0, mixture={Kind.COLOUR: 2.0, Kind.REPEAT: 1.0}))
    assert digest(one) == digest(other)


@pytest.mark.parametrize("seconds", [0.01, 0.16, 3.2, 3.21])
def test_sessions_are_whole_units(seconds: float) -> None:
    session = make_session(0, World(seconds=seconds))
    assert session.n_units * UNIT_MS >= seconds * 1000 > (session.n_units - 1) * UNIT_MS
    for frames, samples in (
        (session.user_frames, session.user_samples),
        (session.agent_frames, session.agent_samples),
    ):
        assert len(frames) == session.n_units * FRAMES_PER_UNIT
        assert len(samples) == session.n_units * SAMPLES_PER_UNIT
        assert np.abs(samples).max() <= 1
    assert len(session.labels.viseme) == len(session.labels.mouth_opening) == len(session.user_frames)
    assert len(session.labels.card_in_view) == len(session.user_frames)


@pytest.mark.parametrize("split", list(Split))
def test_the_agent_is_heard_where_its_words_are_and_nowhere_else(split: Split) -> None:
    for session in sessions(split):
        samples, silent = session.agent_samples, np.ones(len(session.agent_samples), bool)
        for start, end in session.labels.agent_ms:
            assert level(samples, start, end) > 0.04
            silent[start * PER_MS : end * PER_MS] = False
        assert not samples[silent].any()
        for word in session.labels.words:
            if word.who is Who.AGENT and word.end_ms - word.start_ms > 80:
                assert level(samples, word.start_ms, word.end_ms) > 0.02, word


@pytest.mark.parametrize("split", list(Split))
def test_the_user_is_louder_than_the_room(split: Split) -> None:
    for session in sessions(split):
        samples, labels = session.user_samples, session.labels
        quiet = np.ones(len(samples), bool)
        for start, end in (*labels.user_ms, *labels.background_ms):
            quiet[start * PER_MS : end * PER_MS] = False
        floor = np.sqrt(np.mean(samples[quiet] ** 2))
        for start, end in labels.user_ms:
            assert level(samples, start, end) > 3 * floor


@pytest.mark.parametrize(
    ("composition", "picture"),
    [
        (Composition.CLOSE_UP, Picture(112, 64)),
        (Composition.MID_SHOT, Picture(112, 64)),
        (Composition.MID_SHOT, Picture(336, 192)),
    ],
)
def test_the_mouth_in_the_pixels_is_the_mouth_of_the_labels(composition: Composition, picture: Picture) -> None:
    world = World(seconds=6.4, mixture={Kind.COUNT: 1.0}, composition=composition, agent_picture=picture)
    session = make_session(2, world)
    seen = measure_opening(session.agent_frames, composition)
    assert np.corrcoef(seen, session.labels.mouth_opening)[0, 1] > 0.95


@pytest.mark.parametrize("seed", range(8))
def test_the_mouth_can_be_measured_whoever_the_agent_is(seed: int) -> None:
    ramp = np.linspace(0, 1, 12, dtype=np.float32)
    pose = Pose.rest(12)._replace(opening=ramp)
    for composition in Composition:
        frames = portray(Identity.from_seed(seed), composition, Picture(112, 64), pose)
        assert np.corrcoef(measure_opening(frames, composition), ramp)[0, 1] > 0.95


def test_mouth_and_sound_coincide() -> None:
    lags, correlations = np.arange(-5, 6), []
    for session in sessions(Split.TRAIN):
        sound = envelope(session.agent_samples)
        mouth = measure_opening(session.agent_frames, session.labels.composition)
        if sound.any():
            correlations.append([np.corrcoef(sound[5:-5], mouth[5 + lag : len(mouth) - 5 + lag])[0, 1] for lag in lags])
    mean = np.mean(correlations, axis=0)
    assert abs(lags[np.argmax(mean)]) <= 1  # frames of 40 ms
    assert mean[5] > 0.75


def test_the_card_in_the_pixels_is_the_card_of_the_labels() -> None:
    n_checked = 0
    for session in (*sessions(Split.TRAIN), *sessions(Split.HELDOUT)):
        labels = session.labels
        for t, (card, middle) in enumerate(zip(labels.card_in_view, labels.card_middle, strict=True)):
            if card is None or middle is None or t % 5:
                continue
            assert colour_at(session.user_frames[t], middle, labels.card_half) == labels.cards[card].colour
            n_checked += 1
    assert n_checked > 100


def colour_at(frame: np.ndarray, middle: tuple[float, float], half: float) -> str:
    """The name of what is darkest in the middle of a card, against the paper at its upper edge."""
    (x, y), names = middle, list(PALETTE)
    paper = np.median(around(frame, (x, y - 0.86 * half), 0.1 * half), axis=0)
    pixels = around(frame, middle, 0.55 * half) / paper
    inked = pixels[np.argsort(pixels.min(axis=1))[: max(len(pixels) // 12, 4)]]
    palette = np.array([PALETTE[n] for n in names]) / PAPER
    return names[int(np.argmin(np.sum((np.median(inked, axis=0) - palette) ** 2, axis=1)))]


def around(frame: np.ndarray, middle: tuple[float, float], half: float) -> np.ndarray:
    columns, rows = (slice(max(round(at - half), 0), round(at + half) + 1) for at in middle)
    return frame[rows, columns].reshape(-1, 3).astype(np.float32)


def test_no_card_no_label() -> None:
    session = session_of(Kind.REPEAT)
    assert session.labels.cards == []
    assert set(session.labels.card_in_view) == {None}


def test_the_agent_nods_while_the_user_speaks() -> None:
    """In the pixels too; and at least three times as often as when nobody speaks."""
    listening_ms = idle_ms = n_listening = n_idle = 0
    for session in sessions(Split.TRAIN):
        labels, n_frames = session.labels, len(session.agent_frames)
        nod = measure_nod(session.agent_frames, session.portrait, labels.composition)
        is_low = nod > 0.018  # a third of a nod close up, half of one in a mid-shot
        assert np.sum(np.diff(is_low.astype(int)) == 1) == len(labels.nods_ms)
        assert (bumps(labels.nods_ms, n_frames)[is_low] > 0).all()
        spoken = [(a, b + 400) for a, b in labels.user_ms]
        n_heard = sum(any(a <= start <= b for a, b in spoken) for start, _ in labels.nods_ms)
        n_listening, n_idle = n_listening + n_heard, n_idle + len(labels.nods_ms) - n_heard
        spoken_ms = sum(b - a for a, b in spoken)
        listening_ms += spoken_ms
        idle_ms += n_frames * 40 - spoken_ms - sum(b - a for a, b in labels.agent_ms)
    assert n_listening / listening_ms > 3 * n_idle / idle_ms


@pytest.mark.parametrize("seed", range(3))
def test_stop_cuts_the_agent_short(seed: int) -> None:
    session = session_of(Kind.STOP, seed)
    assert session.labels.turns
    for turn in session.labels.turns:
        assert turn.stop_ms is not None
        assert 240 <= turn.reply_end_ms - turn.stop_ms < 400
        assert turn.reply_end_ms % UNIT_MS == 0
        assert level(session.agent_samples, turn.stop_ms - 1000, turn.stop_ms) > 0.02
        assert level(session.agent_samples, turn.reply_end_ms, turn.reply_end_ms + 600) == 0
        during = range(turn.reply_start_ms, turn.reply_end_ms + 1)
        said = [w for w in session.labels.words if w.who is Who.AGENT and w.start_ms in during]
        assert 0 < len(said) < len(turn.expected.split())
        assert all(word.end_ms in during for word in said)
        onset = [w for w in session.labels.words if w.who is Who.USER and w.start_ms == turn.stop_ms]
        assert onset[0].text.lower().startswith("stop")


@pytest.mark.parametrize("kind", [Kind.BACK_CHANNEL, Kind.BACKGROUND])
def test_the_agent_goes_on_when_it_is_not_meant(kind: Kind) -> None:
    session = session_of(kind)
    others = session.labels.user_ms if kind is Kind.BACK_CHANNEL else session.labels.background_ms
    n_over = 0
    for turn in session.labels.turns:
        n_over += sum(turn.reply_start_ms < start < turn.reply_end_ms for start, _ in others)
        words = [w.text for w in session.labels.words if w.who is Who.AGENT]
        assert " ".join(words).count(turn.expected) == sum(t.expected == turn.expected for t in session.labels.turns)
    assert n_over


def test_identities_differ_and_the_box_holds_the_mouth() -> None:
    picture = Picture(112, 64)
    portraits = {
        portray(Identity.from_seed(s), Composition.CLOSE_UP, picture, Pose.rest(1)).tobytes() for s in range(9)
    }
    assert len(portraits) == 9
    pose = Pose.rest(2)._replace(opening=np.array([0, 1], np.float32), nod=np.ones(2, np.float32))
    for composition in Composition:
        shut, wide = portray(Identity(), composition, picture, pose).astype(int)
        box = mouth_box(composition, picture)
        changed = np.abs(shut - wide).max(axis=2) > 20
        assert changed[box.rows, box.columns].sum() == changed.sum() > 8


@pytest.mark.parametrize("size", [(112, 64), (63, 91), (16, 16), (320, 64), (64, 320), (641, 367)])
def test_any_picture_size(size: tuple[int, int]) -> None:
    picture = Picture(*size)
    for composition in Composition:
        world = World(
            seconds=0.32,
            mixture={Kind.COMMENT: 1.0},
            user_picture=picture,
            agent_picture=picture,
            composition=composition,
        )
        session = make_session(1, world)
        assert session.user_frames.shape == session.agent_frames.shape == (8, picture.height, picture.width, 3)
        assert session.agent_frames.std() > 20


def test_picture_sizes_change_nothing_else() -> None:
    small = make_session(4, World(seconds=6.0))
    large = make_session(4, World(seconds=6.0, user_picture=Picture(256, 128), agent_picture=Picture(224, 128)))
    np.testing.assert_array_equal(small.user_samples, large.user_samples)
    np.testing.assert_array_equal(small.agent_samples, large.agent_samples)
    assert small.labels.turns == large.labels.turns
    shrunk = large.agent_frames.reshape(len(small.agent_frames), 64, 2, 112, 2, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small.agent_frames).mean() < 4


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("mixture", {}, "mixture"), ("mixture", {Kind.STOP: -1.0}, "mixture"), ("seconds", 0.0, "seconds")],
)
def test_a_world_of_nothing_is_refused(field: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(World(), **{field: value})
