"""Laws of the stage of seeing: cards are named as they were drawn, a loss falls, nothing else of the agent changes."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small_preset
from tests.small import small_params
from tests.stage_cases import changed_sense, learn
from wanstreamer_jax.data.world.camera import PALETTE
from wanstreamer_jax.data.world.lexicon import COLOURS, Card, Split
from wanstreamer_jax.timeline import Picture
from wanstreamer_jax.training.config import MeshShape, OptimizerConfig, SeeingWeights, Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.sharding import make_mesh
from wanstreamer_jax.training.stages import find_stage, seeing
from wanstreamer_jax.training.stages.words import directions
from wanstreamer_jax.training.step import Program

CONFIG = small_preset.config  # it spells, byte by byte
WEIGHTS = SeeingWeights(pictures=3)
TRAINING = Training(
    weights=WEIGHTS,
    batch=2,
    steps=400,
    samples=2,
    optimizer=OptimizerConfig(learning_rate=2e-2, warmup=5, weight_decay=0.0),
    mesh=MeshShape(1, 1, 1),
)
FROZEN = {"transformer": small_params(CONFIG)["transformer"]}


def parts() -> dict:
    return {"perception": small_params(CONFIG)["perception"]}


def some(heldout: bool, *indices: int) -> dict:
    cards = seeing.source(CONFIG, TRAINING, heldout, None)
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *[cards[i] for i in indices])


def test_words_are_those_of_the_card():
    assert seeing.places_of(Card("red", "circle", 1)) == (1, 1, 1)
    assert seeing.places_of(Card("black", "ring", 4)) == (7, 7, 4)


def test_a_picture_has_the_colour_that_it_is_named_by():
    cards = seeing.Cards(Picture(128, 64), SeeingWeights(pictures=12, grey=0.0), Split.TRAIN, 4)
    named, empty = [], []
    for sample in (cards[i] for i in range(4)):
        for picture, colour, number in zip(sample["pictures"], sample["colours"], sample["numbers"], strict=True):
            shares = [np.mean(np.abs(picture - np.array(PALETTE[c], float)).max(axis=-1) < 50) for c in COLOURS]
            (named if number else empty).append(shares[colour - 1] if colour else max(shares[:-1]))
    assert len(named) > 30
    assert np.median(named) > 0.02
    assert np.median(empty) < 0.01


def test_of_a_grey_picture_no_colour_is_asked():
    weights = SeeingWeights(pictures=40, grey=0.5)
    for split, some_grey in ((Split.TRAIN, True), (Split.HELDOUT, False)):
        sample = seeing.Cards(Picture(128, 64), weights, split, 1)[0]
        is_grey = np.ptp(sample["pictures"], axis=-1).max(axis=(1, 2)) == 0
        np.testing.assert_array_equal(sample["colours"] == -1, is_grey)
        assert is_grey.any() == some_grey
    scores = jnp.log(jnp.array([[0.5, 0.5], [0.2, 0.8], [0.1, 0.9]]))
    assert seeing._nats(scores, jnp.array([-1, 0, 1])) == pytest.approx(-np.mean(np.log([0.2, 0.9])), rel=1e-5)


def test_samples_are_of_their_seed_and_split():
    train, heldout = (seeing.source(CONFIG, TRAINING, flag, None) for flag in (False, True))
    assert len(train) == TRAINING.samples
    np.testing.assert_array_equal(train[1]["pictures"], train[1]["pictures"])
    assert not np.array_equal(train[0]["pictures"], train[1]["pictures"])
    assert not np.array_equal(train[0]["pictures"], heldout[0]["pictures"])


def test_what_is_shown_is_told_by_any_token_that_points_at_its_word():
    trees = seeing.init(CONFIG, WEIGHTS, parts(), jax.random.key(0))
    words = directions(CONFIG, FROZEN, COLOURS)
    tokens = jnp.stack([jnp.zeros_like(words), words, -words], axis=1)  # of as many pictures as there are colours
    scores = seeing._pointed_at(tokens, words, trees[seeing.EYES]["heads"]["colours"])
    np.testing.assert_array_equal(jnp.argmax(scores, axis=-1), np.arange(len(COLOURS)) + 1)
    nine = {"sharpness": jnp.float32(1), "nothing": jnp.float32(9)}
    nothing = seeing._pointed_at(-words.sum(0)[None, None] + 0 * tokens, words, nine)
    assert (jnp.argmax(nothing, axis=-1) == 0).all()


def test_seeing_learns_a_small_set():
    program = Program(find_stage("seeing"), CONFIG, TRAINING, make_mesh(TRAINING.mesh))
    batch = some(False, 0, 1)
    _, trainees, logged = learn(program, parts() | FROZEN, batch)
    assert logged[0]["eyes/loss"] > 4
    assert logged[-1]["eyes/loss"] < 1
    measured = program.look(seeing.measure, trainees, FROZEN, batch, jax.random.key(0))
    assert measured["cards_right"] > 0.8


def test_recordings_and_unknown_tokenizers_are_refused(tmp_path: Path):
    with pytest.raises(TrainingError, match="recordings do not say what they show"):
        seeing.source(CONFIG, TRAINING, False, tmp_path)
    unknown = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, unit_end=255))
    with pytest.raises(TrainingError, match="writes words or bytes"):
        seeing.init(unknown, WEIGHTS, parts(), jax.random.key(0))


def test_an_agent_gets_new_eyes_and_nothing_else(tmp_path: Path):
    trees = seeing.init(CONFIG, WEIGHTS, parts(), jax.random.key(0))
    assert changed_sense(tmp_path, CONFIG, seeing.stage, "vision", trees)


def test_what_was_seen_can_be_looked_at(tmp_path: Path):
    trees, batch = seeing.init(CONFIG, WEIGHTS, parts(), jax.random.key(0)), some(True, 0)
    shown = jax.tree.map(np.asarray, seeing.preview(CONFIG, WEIGHTS, trees, FROZEN, batch, jax.random.key(0)))
    true = {name.replace("shown", "seen"): x for name, x in shown.items() if name.startswith("shown")}
    seeing.draw(shown | true, tmp_path)
    lines = (tmp_path / "seen.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == WEIGHTS.pictures
    assert all(line.removeprefix("- ").split(": ")[0] == line.split(": ")[1] for line in lines)
    assert (tmp_path / "seen.png").stat().st_size > 100
