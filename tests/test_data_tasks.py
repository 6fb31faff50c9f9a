"""Tasks of pretraining: what is known when, what counts, what is held out, and how often each comes."""

import collections
import dataclasses
import functools
import itertools

import numpy as np
import pytest

from tests.small_preset import config as byte_config
from wanstreamer_jax.config import TextConfig, WorldConfig
from wanstreamer_jax.data.layout import Layout
from wanstreamer_jax.data.tasks import TASKS, DoesNotFitError, Setting, make_example
from wanstreamer_jax.data.tasks.mixture import Mixture
from wanstreamer_jax.data.tasks.poses import COMMAND, FACES, PERFORMANCES
from wanstreamer_jax.data.tasks.sentences import LISTED, is_heldout_pair, make_word_list
from wanstreamer_jax.data.tasks.sounds import BEEPS
from wanstreamer_jax.data.text import TOLD_LATE_MS
from wanstreamer_jax.data.world import Split, Who
from wanstreamer_jax.data.world.camera import PALETTE
from wanstreamer_jax.data.world.lexicon import (
    ASK_COLOUR,
    ASK_COUNT,
    ASK_HOW_MANY,
    ASK_REPEAT,
    ASK_SHAPE,
    FAR_TALK,
    GREETINGS,
    PAIRS,
    VARIANTS,
    WORDS,
    WORDS_PER_MIN,
)
from wanstreamer_jax.data.world.stage import ANSWER_MS
from wanstreamer_jax.timeline import UNIT_MS, Picture
from wanstreamer_jax.tokens import byte_tokenizer

U = 32
CONFIG = dataclasses.replace(
    byte_config,
    picture=Picture(48, 32),
    vision=dataclasses.replace(byte_config.vision, picture=Picture(64, 32)),
    world=WorldConfig(max_text=40, max_voice=3),
    text=TextConfig(max_user=8, max_agent=6, unit_end=256),
)
TOKENIZER = byte_tokenizer()
LAYOUT = Layout.of(CONFIG, TOKENIZER)
SETTINGS = {split: Setting(LAYOUT, TOKENIZER, split, U) for split in Split}
SEEDS = range(6)
TYPED = ("tts", "joint_generation", "audio_generation", "image_generation", "video_generation")


@functools.cache
def example(task, seed=0, split=Split.TRAIN):
    return make_example(task, seed, SETTINGS[split])


def text(ids, n):
    return [TOKENIZER.decode(row[:count].tolist()) for row, count in zip(ids, n, strict=True)]


def agent_text(record):
    return text(record.agent_text, record.n_agent_text)


def last_typed(record):
    return int(np.flatnonzero(record.n_user_text)[-1])


def said(record, who):
    return " ".join(word["text"] for word in record.words if word["who"] == who)


# ---- Every task is an example of the timeline


@pytest.mark.parametrize("task", TASKS)
def test_an_example_is_a_record_of_the_layout_within_its_limits(task):
    shapes = set()
    for seed in SEEDS:
        record, counts = example(task, seed)
        shapes.add(tuple(np.shape(x) for x in (*counts, record.user_frames, record.agent_frames, record.agent_text)))
        assert record.n_units == U
        assert record.n_user_text.max() <= LAYOUT.max_user_text
        assert 1 <= record.n_agent_text.min() <= record.n_agent_text.max() <= LAYOUT.max_agent_text
        ends = record.agent_text[np.arange(U), record.n_agent_text - 1]
        assert (ends == LAYOUT.unit_end).all()
        assert "".join(agent_text(record)) == said(record, Who.AGENT)  # whole, in order
        assert "".join(text(record.user_text, record.n_user_text)) == said(record, Who.USER_TYPED)
    assert len(shapes) == 1


@pytest.mark.parametrize("task", ["audio_captioning", "video_captioning", "asr", "tts", "dialogue"])
def test_text_is_whole_where_there_is_hardly_room(task):
    setting = dataclasses.replace(SETTINGS[Split.TRAIN], n_units=18)
    for seed in range(20):
        record = make_example(task, seed, setting).record
        assert "".join(agent_text(record)) == said(record, Who.AGENT)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_not_there_is_empty_and_weighs_nothing(task):
    record, counts = example(task)
    streams = {
        "text": (record.streams.agent_text, record.n_agent_text - 1),
        "audio": (record.streams.agent_audio, record.agent_samples),
        "video": (record.streams.agent_video, record.agent_frames),
    }
    for name, (is_there, content) in streams.items():
        assert is_there == (name in TASKS[task].streams)
        assert is_there == bool(np.any(content)) == bool(getattr(counts, name).any())
    assert record.streams.user_video == bool(record.user_frames.any())
    assert record.streams.user_audio == bool(record.user_samples.any())
    assert record.streams.portrait == bool(record.portrait.any())
    assert (len(record.voice) > 0) == (task in ("tts", "joint_generation", "spoken_dialogue"))


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_gives_the_same_bits_whatever_was_made_before(task):
    again = make_example(task, 0, SETTINGS[Split.TRAIN])
    for a, b in zip(example(task)[0], again.record, strict=True):
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
    other = example(task, 1).record
    arrays = ("user_text", "user_frames", "user_samples", "agent_text", "agent_frames", "agent_samples")
    assert any(not np.array_equal(getattr(other, name), getattr(again.record, name)) for name in arrays)


# ---- Nothing is known too early


@pytest.mark.parametrize("seed", SEEDS)
def test_a_transcript_has_each_word_once_it_can_be_told(seed):
    record = example("asr", seed).record
    assert said(record, Who.USER) == said(record, Who.AGENT) == record.labels["sentence"]
    written = ""
    for unit, piece in enumerate(agent_text(record)):
        written += piece
        over = [
            w["text"]
            for w in record.words
            if w["who"] == Who.USER and w["end_ms"] + TOLD_LATE_MS <= (unit + 1) * UNIT_MS
        ]
        assert " ".join(over).startswith(written)
    assert record.agent_text.tolist() == record.heard.tolist()


@pytest.mark.parametrize("task", TYPED)
def test_what_is_asked_for_begins_after_the_last_of_the_text(task):
    for seed in SEEDS:
        record, counts = example(task, seed)
        first = last_typed(record) + 1
        assert not record.agent_samples[:first].any()
        assert not (record.n_agent_text[:first] - 1).any()
        if task == "image_generation":
            assert not record.agent_frames[:first].any() and not counts.video[:first].any()
            assert counts.video[first:].all()
            assert (record.agent_frames[first:] == record.agent_frames[first, 0]).all()
        if task == "video_generation":
            assert (record.agent_frames[:first] == record.portrait).all()
            assert (record.agent_frames[first:] != record.portrait).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sound_is_named_when_nothing_more_of_it_is_heard(seed):
    record = example("audio_captioning", seed).record
    first = next(unit for unit, piece in enumerate(agent_text(record)) if piece)
    assert (first + 1) * UNIT_MS >= record.labels["end_ms"] + 400
    level = np.sqrt(np.mean(np.square(record.user_samples.astype(float)), axis=1))
    sounding = level[record.labels["start_ms"] // UNIT_MS : record.labels["end_ms"] // UNIT_MS]
    assert sounding.max() > 2 * level[first:].max()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_card_is_told_of_when_it_is_in_view(seed):
    record = example("video_captioning", seed).record
    told, cards = record.labels["told"], record.labels["cards"]
    assert not any(agent_text(record)[: told[0][0] // UNIT_MS])
    settled = record.user_frames[(told[0][0] - 1) // UNIT_MS, -1]
    assert shown(settled, cards[0]) > 20 * max(shown(record.user_frames[0, 0], cards[0]), 1) or told[0][0] < 600


def shown(frame, card):
    """Pixels of a card's colour."""
    return int((np.abs(frame.astype(int) - PALETTE[card["colour"]]).max(-1) < 50).sum())


def test_a_picture_is_still_and_described_at_once():
    record = example("image_captioning").record
    assert (record.user_frames == record.user_frames[0, 0]).all()
    card = record.labels["card"]
    assert card["colour"] in "".join(agent_text(record)) and agent_text(record)[0]


def test_an_answer_begins_in_the_unit_in_which_the_question_is_complete():
    for seed in SEEDS:
        record = example("dialogue", seed).record
        typed, answered = record.n_user_text > 0, record.n_agent_text > 1
        asked = np.flatnonzero(typed & ~np.append(typed[1:], False))
        begun = np.flatnonzero(answered & ~np.insert(answered[:-1], 0, False))
        assert asked.tolist() == begun.tolist()


def test_what_is_asked_aloud_is_answered_as_in_a_session():
    setting = dataclasses.replace(SETTINGS[Split.TRAIN], n_units=36)
    n_answers = n_cut = 0
    for seed in SEEDS:
        record = make_example("spoken_dialogue", seed, setting).record
        expected = " ".join(record.labels["expected"])
        assert expected.startswith(said(record, Who.AGENT))  # the last of them may be cut
        n_cut += expected != said(record, Who.AGENT)
        n_answers += len(record.labels["expected"])
        turns = [list(words) for _, words in itertools.groupby(record.words, key=lambda word: word["who"])]
        assert [words[0]["who"] for words in turns] == [Who.USER, Who.AGENT] * len(record.labels["expected"])
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            assert 0 <= answer[0]["start_ms"] - question[-1]["end_ms"] - ANSWER_MS < UNIT_MS
    assert n_answers > len(SEEDS) > n_cut > 0


def test_speech_is_written_as_it_begins_and_seen_as_it_sounds():
    for task in ("tts", "joint_generation"):
        record = example(task).record
        loud = np.flatnonzero(np.abs(record.agent_samples).max(1) > 300)
        assert [loud[0]] == [next(u for u, piece in enumerate(agent_text(record)) if piece)]
        assert said(record, Who.AGENT) == said(record, Who.USER_TYPED)


# ---- What is held out


def test_what_is_said_fills_its_time_with_what_the_agent_answers():
    setting = dataclasses.replace(SETTINGS[Split.TRAIN], n_units=40)
    spoken_units, words = [], collections.Counter()
    for seed in range(8):
        record = make_example("joint_generation", seed, setting).record
        own = [w for w in record.words if w["who"] == Who.AGENT]
        spoken_units.append((own[-1]["end_ms"] - own[0]["start_ms"]) / UNIT_MS)
        words.update(w["text"].strip(".,!?").lower() for w in own)
    assert np.mean(spoken_units) > 0.5 * setting.n_units
    assert sum(words[word] for word in WORDS) > 0.15 * sum(words.values())


def test_training_meets_nothing_that_is_held_out():
    for choices in (FACES, PERFORMANCES, BEEPS, COMMAND, *(task.instructions for task in TASKS.values())):
        assert choices.train and choices.heldout and not set(choices.train) & set(choices.heldout)
    for split in Split:
        for task, found in TASKS.items():
            for seed in SEEDS:
                record = example(task, seed, split).record
                assert record.labels["instruction"] in found.instructions.of(split)
                assert record.persona.tolist() == TOKENIZER.encode(record.labels["instruction"])


@pytest.mark.parametrize("task", ["asr", "tts", "spoken_dialogue"])
def test_voices_are_of_the_split(task):
    for split in Split:
        for seed in range(12):
            voice = example(task, seed, split).record.labels["voice"]
            if voice["name"] != "en-us+f5":  # the agent's own
                assert voice["name"].partition("+")[2] in VARIANTS.of(split)
                assert voice["words_per_min"] in WORDS_PER_MIN.of(split)


def test_phrasings_and_pairs_are_of_the_split():
    phrasings = [*ASK_COLOUR.heldout, *ASK_SHAPE.heldout, *ASK_HOW_MANY.heldout, *ASK_COUNT.heldout]
    phrasings += [*ASK_REPEAT.heldout, *FAR_TALK.heldout, *(asked for asked, _ in GREETINGS.heldout)]
    stems = [phrasing.replace("| ", "").split("{")[0].strip() for phrasing in phrasings]
    stems = [stem for stem in stems if len(stem) > 12]
    everything = [
        said(example(task, seed).record, who)
        for task in ("asr", "tts", "dialogue", "joint_generation", "spoken_dialogue")
        for seed in range(20 if task != "joint_generation" else 4)
        for who in (Who.USER, Who.USER_TYPED)
    ]
    assert not [stem for stem in stems for line in everything if stem in line]
    pairs = [f"{colour} {shape}" for colour, shape in PAIRS.heldout]
    captions = [said(example("image_captioning", seed).record, Who.AGENT) for seed in range(40)]
    assert not [pair for pair in pairs for line in everything + captions if pair in line]
    heldout = [said(example("image_captioning", seed, Split.HELDOUT).record, Who.AGENT) for seed in range(20)]
    assert any(pair in line for pair in pairs for line in heldout)


@pytest.mark.parametrize("split", Split)
def test_neighbours_in_lists_of_words_are_of_the_split(split):
    for seed in range(50):
        words = make_word_list(np.random.default_rng(seed), split).lower().strip(".").split(", ")
        places = [LISTED.index(word) for word in words]
        assert {is_heldout_pair(*pair) for pair in itertools.pairwise(places)} == {split is Split.HELDOUT}


# ---- The mixture


def test_every_stretch_has_each_tasks_share():
    weights = {"a": 1.0, "b": 0.0, "c": 2.5, "d": 0.1, "e": 4.0}
    mixture, total = Mixture(weights), 7.6
    for start, n in ((0, 100), (12_345, 1000), (10**9, 20_000)):
        drawn = collections.Counter(mixture[i] for i in range(start, start + n))
        assert drawn["b"] == 0
        for task, weight in weights.items():
            assert abs(drawn[task] - n * weight / total) <= 6, (task, n)
    assert [mixture[i] for i in range(50)] == [Mixture(weights)[i] for i in range(50)]


def test_a_mixture_of_nothing_is_an_error():
    for weights in ({"a": 0.0}, {}, {"a": -1.0, "b": 2.0}):
        with pytest.raises(ValueError, match="weights"):
            Mixture(weights)


def test_examples_that_are_too_short_are_an_error_that_says_so():
    with pytest.raises(DoesNotFitError, match=r"asr does not fit into 2 units \(weights.units\)"):
        make_example("asr", 0, dataclasses.replace(SETTINGS[Split.TRAIN], n_units=2))
