"""Laws of the stage of hearing: phonemes where they sound, a loss that falls, and nothing else of the agent changed."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small_preset
from tests.small import small_params
from tests.stage_cases import changed_sense, learn
from wanstreamer_jax.data.world.lexicon import AGENT_VOICE
from wanstreamer_jax.data.world.phonemes import NOBODY, OTHER, PHONEMES, SLOT, index_of, phoneme_track
from wanstreamer_jax.data.world.speech import Span, speak
from wanstreamer_jax.training.config import HearingWeights, MeshShape, OptimizerConfig, Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.sharding import make_mesh
from wanstreamer_jax.training.stages import find_stage, hearing
from wanstreamer_jax.training.stages.words import directions, spellings
from wanstreamer_jax.training.step import Program

WEIGHTS = HearingWeights(latents=12, clips=2)
TRAINING = Training(
    weights=WEIGHTS,
    batch=2,
    steps=240,
    samples=2,
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup=5),
    mesh=MeshShape(1, 1, 1),
)


CONFIG = small_preset.config  # it spells, byte by byte
FROZEN = {"transformer": small_params(CONFIG)["transformer"]}


def parts() -> dict:
    params = small_params(CONFIG)
    return {name: params[name] for name in ("perception", "audio_vae")}


def some(heldout: bool, *indices: int) -> dict:
    talk = hearing.source(CONFIG, TRAINING, heldout, None)
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *[talk[i] for i in indices])


# ---- Phonemes


def test_a_slot_has_the_phoneme_that_sounds_in_its_middle():
    spans = [Span("s", 0, 2 * SLOT), Span("'i:", 2 * SLOT, 3 * SLOT + SLOT // 2 + 1), Span("t", 5 * SLOT, 99 * SLOT)]
    told = [PHONEMES[i] for i in phoneme_track(spans, 7)]
    assert told == ["s", "s", "i:", "i:", NOBODY, "t", "t"]


def test_names_are_known_without_stress_and_by_what_they_sound_like():
    for name, known in (("'eI", "eI"), (",a#", "a"), ("I2", "I"), ("r-", "r"), ("@5", "@"), ("A@", "A@"), ("!", OTHER)):
        assert PHONEMES[index_of(name)] == known, name
    said = speak("Stop, please! What colour is the three-cornered shape?", AGENT_VOICE)
    assert all(PHONEMES[index_of(p.text)] not in (OTHER, NOBODY) for p in said.phonemes)


@pytest.mark.parametrize("split", list(hearing.Split))
def test_a_token_tells_what_has_been_heard_before_its_end(split: hearing.Split):
    talk = hearing.Talk(dataclasses.replace(WEIGHTS, latents=60), split, 8)
    loud, quiet = [], []
    for i in range(8):
        sample = talk[i]
        power = np.square(sample["clips"].reshape(WEIGHTS.clips, -1, SLOT)).mean(axis=-1)
        early = power[:, : -hearing.LATE]
        spoken = sample["phonemes"][:, hearing.LATE :] > 0
        assert not sample["phonemes"][:, : hearing.LATE].any()
        loud.append(early[spoken])
        quiet.append(early[~spoken])
    assert np.mean(np.concatenate(loud)) > 10 * np.mean(np.concatenate(quiet))


def test_a_word_is_told_by_the_token_after_its_end():
    ends = [(79, "Three"), (160, "red,"), (200, "unheard-of"), (900, "stars.")]
    track = hearing._word_track(ends, 5)
    assert [hearing.vocabulary()[i] for i in track] == ["", "three", "", "red", ""]


def test_words_are_told_where_phonemes_end():
    sample = hearing.Talk(dataclasses.replace(WEIGHTS, latents=60), hearing.Split.TRAIN, 8)[3]
    assert sample["words"].any(axis=1).all()
    for words, phonemes in zip(sample["words"], sample["phonemes"], strict=True):
        slots = np.concatenate([phonemes[hearing.LATE :], np.zeros(hearing.LATE, np.int32)])
        by_token = slots.reshape(-1, hearing.SLOTS_PER_TOKEN)
        told = np.flatnonzero(words)
        assert all(by_token[max(k - 2, 0) : k].any() for k in told)  # it has just been said
        is_pause = ~by_token.any(axis=1)
        assert not any(is_pause[k - 3 : k].all() for k in told if k > 3)


def test_samples_are_of_their_seed_and_split():
    train, heldout = (hearing.source(CONFIG, TRAINING, flag, None) for flag in (False, True))
    assert len(train) == TRAINING.samples
    for name in ("clips", "phonemes"):
        np.testing.assert_array_equal(train[1][name], train[1][name])
        assert not np.array_equal(train[0][name], train[1][name])
        assert not np.array_equal(train[0][name], heldout[0][name])


# ---- Training


def test_hearing_learns_a_small_set():
    program = Program(find_stage("hearing"), CONFIG, TRAINING, make_mesh(TRAINING.mesh))
    batch = some(False, 0, 1)
    _, trainees, logged = learn(program, parts() | FROZEN, batch)
    assert logged[0]["ears/loss"] > 6
    assert logged[-1]["ears/loss"] < 0.1
    measured = program.look(hearing.measure, trainees, FROZEN, batch, jax.random.key(0))
    assert measured["phonemes_right"] > 0.95 and measured["words_right"] > 0.95 and measured["words_surplus"] < 0.05


def test_a_word_that_is_heard_lies_where_the_word_that_is_read_does():
    trees = hearing.init(CONFIG, WEIGHTS, parts(), jax.random.key(0))
    spoken = hearing.vocabulary()[1:]
    there = np.asarray(directions(CONFIG, FROZEN, spoken))
    ids, shares = spellings(CONFIG, spoken)
    word = hearing.vocabulary().index("red")
    own = [ids[word - 1, k] for k in np.flatnonzero(shares[word - 1])]
    assert bytes(own) == b" red"
    means = np.einsum("Wt,WtD->WD", shares, np.asarray(FROZEN["transformer"]["embedding"])[ids])
    np.testing.assert_allclose(there, means - means.mean(axis=0), atol=1e-6)
    nothing = jax.tree.map(jnp.zeros_like, trees[hearing.EARS]["hearing"]["projector"]["down"])
    nothing["bias"] = jnp.asarray(there[word - 1])  # every token is that word's place
    down = trees[hearing.EARS]["hearing"]["projector"] | {"down": nothing}
    trees[hearing.EARS]["hearing"] = trees[hearing.EARS]["hearing"] | {"projector": down}
    scores = hearing._scores(CONFIG, trees, FROZEN, some(False, 0))
    assert (np.argmax(scores.words, axis=-1) == word).all()


def test_ears_begin_as_the_voices_or_stay():
    given = parts()
    for of_voice, trunk in (
        (True, given["audio_vae"]["encoder"]["trunk"]),
        (False, given["perception"]["hearing"]["trunk"]),
    ):
        weights = dataclasses.replace(WEIGHTS, of_voice=of_voice)
        ears = hearing.init(CONFIG, weights, given, jax.random.key(0))[hearing.EARS]["hearing"]
        assert jax.tree.all(jax.tree.map(np.array_equal, ears["trunk"], trunk))
    other = dataclasses.replace(CONFIG, hearing=dataclasses.replace(CONFIG.hearing, mlp=24))
    with pytest.raises(TrainingError, match=r"weights.of_voice: the encoders of hearing and .* are of other sizes"):
        hearing.init(other, WEIGHTS, small_params(other), jax.random.key(0))
    unknown = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, unit_end=255))
    with pytest.raises(TrainingError, match="writes words or bytes"):
        hearing.init(unknown, WEIGHTS, parts(), jax.random.key(0))


def test_recordings_are_refused(tmp_path: Path):
    with pytest.raises(TrainingError, match="recordings do not tell phonemes"):
        hearing.source(CONFIG, TRAINING, False, tmp_path)


def test_an_agent_gets_new_ears_and_nothing_else(tmp_path: Path):
    trees = hearing.init(CONFIG, WEIGHTS, parts(), jax.random.key(0))
    assert changed_sense(tmp_path, CONFIG, hearing.stage, "hearing", trees)


def test_what_was_heard_can_be_read(tmp_path: Path):
    trees, batch = hearing.init(CONFIG, WEIGHTS, parts(), jax.random.key(0)), some(True, 0)
    shown = jax.tree.map(np.asarray, hearing.preview(CONFIG, WEIGHTS, trees, FROZEN, batch, jax.random.key(0)))
    said = {name.replace("said", "heard"): x for name, x in shown.items() if name.startswith("said")}
    hearing.draw(shown | said, tmp_path)
    lines = (tmp_path / "heard.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 * WEIGHTS.clips
    assert lines[0].partition(":")[2] == lines[1].partition(":")[2]
    for line, words in zip(lines[::2], shown["said_words"], strict=True):
        assert all(hearing.vocabulary()[i] in line for i in words)
