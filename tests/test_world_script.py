"""Laws of the world's dialogues, over many seeds: what is held out, who speaks when, what is expected."""

import functools
import itertools

import numpy as np
import pytest

from wanstreamer_jax.data.world.dialogues import make_script
from wanstreamer_jax.data.world.lexicon import (
    AGENT_VOICE,
    ASK_COLOUR,
    ASK_COUNT,
    ASK_HOW_MANY,
    ASK_REPEAT,
    ASK_SHAPE,
    BACK_CHANNELS,
    COLOURS,
    FAR_TALK,
    GREETINGS,
    NOTHING,
    PAIRS,
    SHAPES,
    STOPS,
    VARIANTS,
    WORDS_PER_MIN,
    Card,
    Either,
    Kind,
    Split,
)
from wanstreamer_jax.data.world.script import Script, Who
from wanstreamer_jax.timeline import UNIT_MS
from wanstreamer_jax.tokens import word_tokenizer

N_UNITS = 180
SEEDS = range(40)
ABOUT_CARDS = (Kind.COLOUR, Kind.SHAPE, Kind.HOW_MANY)
PHRASINGS: dict[str, Either[str]] = {
    "colour": ASK_COLOUR,
    "shape": ASK_SHAPE,
    "how many": ASK_HOW_MANY,
    "repeat": ASK_REPEAT,
    "count": ASK_COUNT,
    "stop": STOPS,
    "back-channel": BACK_CHANNELS,
    "far talk": FAR_TALK,
    "greeting": Either(tuple(q for q, _ in GREETINGS.train), tuple(q for q, _ in GREETINGS.heldout)),
}


@functools.cache
def scripts(split: Split) -> tuple[Script, ...]:
    mixture = dict.fromkeys(Kind, 1.0)
    return tuple(make_script(np.random.default_rng((seed, 0)), mixture, split, N_UNITS) for seed in SEEDS)


ALL = pytest.mark.parametrize("split", list(Split))


def plain(phrasing: str) -> str:
    return phrasing.replace("| ", "").lower()


@pytest.mark.parametrize("name", PHRASINGS)
def test_no_phrasing_is_of_both_splits(name: str) -> None:
    train, heldout = ({plain(p) for p in PHRASINGS[name].of(split)} for split in Split)
    assert train
    assert heldout
    assert not train & heldout


def test_training_never_meets_what_is_held_out() -> None:
    voices = {v.name.split("+")[1] for v in voices_of(Split.TRAIN)}
    assert voices <= set(VARIANTS.train)
    assert not voices & set(VARIANTS.heldout)
    assert not {v.words_per_min for v in voices_of(Split.TRAIN)} & set(WORDS_PER_MIN.heldout)
    shown = {(s.card.colour, s.card.shape) for script in scripts(Split.TRAIN) for s in script.showings}
    assert len(shown) > 25
    assert not shown & set(PAIRS.heldout)
    said = {line.text for script in scripts(Split.TRAIN) for line in script.lines if line.who is not Who.AGENT}
    asked = {turn.question for script in scripts(Split.TRAIN) for turn in script.turns}
    for heldout in (plain(p) for either in PHRASINGS.values() for p in either.heldout if "{" not in p):
        assert heldout not in {text.lower() for text in said | asked}


def voices_of(split: Split) -> set:
    return {line.voice for script in scripts(split) for line in script.lines if line.who is not Who.AGENT}


def test_heldout_sessions_are_of_other_voices_and_half_of_other_pairs() -> None:
    assert {v.name.split("+")[1] for v in voices_of(Split.HELDOUT)} <= set(VARIANTS.heldout)
    cards = [s.card for script in scripts(Split.HELDOUT) for s in script.showings]
    assert 0.35 < np.mean([not card.is_seen for card in cards]) < 0.65


def test_every_colour_and_shape_is_trained_on_with_most_of_the_others() -> None:
    assert set(PAIRS.train) | set(PAIRS.heldout) == set(itertools.product(COLOURS, SHAPES))
    assert not set(PAIRS.train) & set(PAIRS.heldout)
    for i, names in enumerate((COLOURS, SHAPES)):
        assert sorted(pair[i] for pair in PAIRS.heldout) == sorted(names)


@ALL
def test_every_kind_happens(split: Split) -> None:
    seen = {turn.kind for script in scripts(split) for turn in script.turns}
    assert seen == set(Kind) - {Kind.SILENCE}


@ALL
def test_answers_come_when_an_answer_is_expected(split: Split) -> None:
    for script in scripts(split):
        for turn in script.turns:
            if turn.kind is Kind.COMMENT:
                assert 500 <= turn.reply_start_ms - turn.question_end_ms < 660
                assert turn.reply_start_ms - turn.question_start_ms <= 2000
            else:
                assert 160 <= turn.reply_start_ms - turn.question_end_ms < 320
            assert turn.reply_start_ms % UNIT_MS == 0


@ALL
def test_the_agent_only_speaks_in_its_turns_and_nobody_speaks_twice_at_once(split: Split) -> None:
    for script in scripts(split):
        assert script.spans(Who.AGENT) == [(t.reply_start_ms, t.reply_end_ms) for t in script.turns]
        for who in Who:
            spans = script.spans(who)
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        assert all(line.end_ms <= N_UNITS * UNIT_MS for line in script.lines)


@ALL
def test_the_agent_keeps_silent_while_it_is_asked(split: Split) -> None:
    for script in scripts(split):
        for turn in script.turns:
            for start, end in script.spans(Who.AGENT):
                assert end <= turn.question_start_ms or start >= turn.question_end_ms


@ALL
def test_expected_answers_are_about_the_card_in_view(split: Split) -> None:
    for script in scripts(split):
        for turn in script.turns:
            if turn.card is not None:
                showing = script.showings[turn.card]
                assert turn.expected == showing.card.answer(turn.about).text
                assert showing.appear_ms <= turn.question_end_ms
                assert showing.leave_ms is None or showing.leave_ms >= turn.reply_end_ms
                assert turn.is_seen_pair == ((showing.card.colour, showing.card.shape) in PAIRS.train)
            elif turn.about in ABOUT_CARDS:
                assert turn.expected == NOTHING.text
                assert not any(in_view(s, turn.question_end_ms) for s in script.showings)
            assert turn.keyword in turn.expected.lower()


def in_view(showing: object, ms: int) -> bool:
    return showing.appear_ms <= ms and (showing.gone_ms is None or ms < showing.gone_ms)


@ALL
def test_a_card_is_commented_on_if_and_only_if_nobody_asks(split: Split) -> None:
    """What tells them apart is in the past when the comment would begin."""
    for script in scripts(split):
        commented = {turn.card for turn in script.turns if turn.kind is Kind.COMMENT}
        onsets = [start for start, _ in script.spans(Who.USER)] + [word.start_ms for word in script.typed]
        for i, showing in enumerate(script.showings):
            asks = any(showing.appear_ms <= onset <= showing.settled_ms + 200 for onset in onsets)
            is_cut_off = showing.settled_ms + 2500 > N_UNITS * UNIT_MS
            assert asks != (i in commented) or is_cut_off


def test_one_card_at_a_time_and_never_the_same_twice() -> None:
    for script in scripts(Split.TRAIN):
        for a, b in itertools.pairwise(script.showings):
            assert a.gone_ms is not None
            assert a.gone_ms <= b.appear_ms
            assert a.card != b.card


def test_a_typed_question_arrives_word_by_word_before_its_answer() -> None:
    typed = [(script, turn) for script in scripts(Split.TRAIN) for turn in script.turns if turn.kind is Kind.TYPED]
    for script, turn in typed:
        words = [w for w in script.typed if turn.question_start_ms <= w.start_ms < turn.question_end_ms]
        assert " ".join(w.text for w in words) == turn.question
        assert all(a.end_ms == b.start_ms for a, b in itertools.pairwise(words))
        assert words[-1].end_ms == turn.question_end_ms


@pytest.mark.parametrize(
    ("card", "kind", "expected"),
    [
        (Card("red", "star"), Kind.COLOUR, "It is red."),
        (Card("orange", "cross"), Kind.COMMENT, "I see an orange cross."),
        (Card("blue", "cross", 3), Kind.COMMENT, "I see three blue crosses."),
        (Card("blue", "ring", 2), Kind.SHAPE, "They are rings."),
        (Card("blue", "ring", 1), Kind.HOW_MANY, "There is one."),
        (Card("blue", "ring", 4), Kind.HOW_MANY, "There are four."),
    ],
)
def test_what_the_agent_says_about_a_card(card: Card, kind: Kind, expected: str) -> None:
    assert card.answer(kind).text == expected
    assert AGENT_VOICE not in voices_of(Split.TRAIN) | voices_of(Split.HELDOUT)


@pytest.mark.parametrize("split", Split)
def test_every_word_that_is_said_or_typed_is_one_token(split: Split) -> None:
    tokenizer = word_tokenizer()
    texts = [line.text for script in scripts(split) for line in script.lines]
    texts += [word.text for script in scripts(split) for word in script.typed]
    words = {word.strip(".,:!?") for text in texts for word in text.split()}
    assert len(words) > 100
    assert [word for word in sorted(words) if len(tokenizer.encode(f" {word}")) != 1] == []
