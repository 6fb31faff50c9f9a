"""Laws of the small measures that an evaluation is made of: speech from energy, the floor, shares, recognition."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanstreamer_jax.data.world import Kind, Split, Turn, World, make_session
from wanstreamer_jax.data.world.lexicon import AGENT_VOICE, GREETINGS, NOTHING, WORDS, Card, counting
from wanstreamer_jax.data.world.speech import speak
from wanstreamer_jax.evaluation.answers import Group, group_of, is_right
from wanstreamer_jax.evaluation.baselines import world
from wanstreamer_jax.evaluation.chances import interval
from wanstreamer_jax.evaluation.floor import Did, Overlap, Should, judged
from wanstreamer_jax.evaluation.layouts import LAYOUTS, transcript
from wanstreamer_jax.evaluation.lived import Written, words_between, words_of
from wanstreamer_jax.evaluation.recogniser import RATE_HZ, recognise, resampled
from wanstreamer_jax.evaluation.turn_taking import Asked, answer_start_ms, is_false_start, latency_ms
from wanstreamer_jax.evaluation.voice import JOIN_MS, Span, joined, level_db, speech
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, Picture

PER_MS = SAMPLE_RATE_HZ // 1000


def tones(*spans: tuple[int, int], db: float = -22.0, seconds: float = 4.0) -> np.ndarray:
    """A tone of a level in each span of ms."""
    samples = np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32)
    tone = 10 ** (db / 20) * np.sqrt(2) * np.sin(2 * np.pi * 200 * np.arange(len(samples)) / SAMPLE_RATE_HZ)
    for start, end in spans:
        samples[start * PER_MS : end * PER_MS] = tone[start * PER_MS : end * PER_MS]
    return samples


def a_turn(kind: Kind = Kind.COLOUR, keyword: str = "red", **changes) -> Turn:
    turn = Turn(kind, kind, "What?", 1000, 2000, "It is red.", keyword, 2300, 3000)
    return dataclasses.replace(turn, **changes)


# ---- Speech


def test_speech_is_what_is_loud_long_enough_and_near_enough() -> None:
    assert speech(tones()) == []
    assert speech(tones((500, 900))) == [(500, 900)]
    assert speech(tones((500, 540))) == []  # a click
    assert speech(tones((500, 900), (900 + JOIN_MS - 10, 2000))) == [(500, 2000)]
    assert speech(tones((500, 900), (900 + JOIN_MS, 2000))) == [(500, 900), (900 + JOIN_MS, 2000)]
    assert speech(tones((500, 510), (900, 1200))) == [(900, 1200)]  # a click before it is no beginning
    assert speech(tones((500, 900), db=-38.0)) == [(500, 900)]
    assert speech(tones((500, 900), db=-42.0)) == []


def test_speech_in_noise_under_the_threshold_is_found_all_the_same() -> None:
    noise = np.random.default_rng(0).normal(size=4 * SAMPLE_RATE_HZ).astype(np.float32) * 10 ** (-50 / 20)
    assert speech(tones((500, 900)) + noise) == [(500, 900)]


def test_levels_are_of_full_scale() -> None:
    assert abs(level_db(tones((0, 4000), db=-20.0)) + 20) < 0.01
    assert level_db(np.zeros(10, np.float32)) == level_db(np.zeros(0, np.float32)) == -120


@given(st.lists(st.integers(0, 500), max_size=12), st.integers(1, 300))
def test_joined_spans_lie_apart_and_cover_the_old_ones(edges: list[int], gap_ms: int) -> None:
    edges = sorted(edges)[: len(edges) // 2 * 2]
    spans = [Span(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    found = joined(spans, gap_ms)
    assert all(b.start_ms - a.end_ms >= gap_ms for a, b in itertools.pairwise(found))
    assert all(any(f.start_ms <= s.start_ms and s.end_ms <= f.end_ms for f in found) for s in spans)


# ---- Turns


@pytest.mark.parametrize(
    ("starts", "latency", "false_start"),
    [
        ([], None, False),
        ([2280], 280, False),
        ([1950], -50, False),  # the question's last sound fades
        ([1500], None, True),
        ([1500, 2600], 600, True),
        ([900], None, False),  # before the question
        ([4990], None, False),  # no answer to this
        ([5200], None, False),  # after the next question
    ],
)
def test_latency_and_false_starts(starts: list[int], latency: int | None, false_start: bool) -> None:
    ask = Asked(a_turn(), until_ms=5100)
    spoken = [Span(start, start + 90) for start in starts]
    assert latency_ms(ask, spoken) == latency
    assert is_false_start(ask, spoken) == false_start


def test_a_comment_is_counted_from_when_the_card_appears() -> None:
    ask = Asked(a_turn(Kind.COMMENT), until_ms=9000)
    assert latency_ms(ask, [Span(2700, 3000)]) == 1700
    assert answer_start_ms(ask, [Span(900, 1500), Span(2700, 3000)]) == 2700


# ---- The floor


@pytest.mark.parametrize(
    ("should", "spoken", "did"),
    [
        (Should.YIELD, [(2300, 4600)], Did.YIELDED),
        (Should.YIELD, [(2300, 4700)], Did.HELD),
        (Should.YIELD, [(2300, 3900)], Did.SILENT),
        (Should.YIELD, [], Did.SILENT),
        (Should.HOLD, [(2300, 4600)], Did.YIELDED),
        (Should.HOLD, [(2300, 5900)], Did.HELD),
        (Should.HOLD, [(2300, 3900), (4100, 9000)], Did.SILENT),
    ],
)
def test_who_has_the_floor(should: Should, spoken: list[tuple[int, int]], did: Did) -> None:
    """Somebody speaks from 4 to 5 s into an answer from 2.3 to 12 s."""
    overlap = Overlap(should, 4000, 5000, a_turn(reply_end_ms=12_000))
    assert judged(overlap, [Span(*s) for s in spoken]) is did


def test_who_has_finished_has_not_yielded() -> None:
    overlap = Overlap(Should.HOLD, 4000, 5000, a_turn(reply_end_ms=4700))
    assert judged(overlap, [Span(2300, 4400)]) is Did.HELD
    assert judged(overlap, [Span(2300, 4200)]) is Did.YIELDED


# ---- Answers


def test_an_answer_is_right_by_its_key_word_alone() -> None:
    assert is_right(a_turn(), words_of("It is RED."))
    assert not is_right(a_turn(), words_of("It is red or blue."))
    assert not is_right(a_turn(), words_of("It is reddish."))
    assert is_right(a_turn(Kind.SHAPE, "cross"), words_of("They are crosses."))
    assert is_right(a_turn(Kind.COUNT, "three"), words_of("Good, three: one, two, three."))
    assert not is_right(a_turn(Kind.COUNT, "three"), words_of("Good, three: one, two, three, four."))
    assert not is_right(a_turn(Kind.COUNT, "three"), words_of("Good, three: one, two."))
    assert not is_right(a_turn(Kind.COUNT, "three"), words_of("Now count to three."))
    assert not is_right(a_turn(Kind.COUNT, "three"), [])
    assert not is_right(a_turn(Kind.HOW_MANY, "three"), words_of("One, two, three."))


def test_groups() -> None:
    assert group_of(a_turn(is_seen_pair=True)) is Group.SEEN
    assert group_of(a_turn(is_seen_pair=False)) is Group.UNSEEN
    assert group_of(a_turn(Kind.TYPED, is_seen_pair=False)) is Group.TYPED
    assert group_of(a_turn(Kind.GREETING)) is Group.OTHER
    assert group_of(a_turn(Kind.STOP)) is None


def test_words_are_those_of_the_units_between() -> None:
    written = [Written(0, " zero"), Written(6, " It is"), Written(7, " re"), Written(8, "d."), Written(12, " far")]
    assert words_between(written, 960, 1920) == ["it", "is", "red"]
    assert words_between(written, 0, 160) == ["zero"]


@given(st.integers(1, 400), st.data())
def test_an_interval_holds_the_share_and_narrows(n: int, data: st.DataObject) -> None:
    n_taken = data.draw(st.integers(0, n))
    low, high = interval(n_taken, n)
    assert 0 <= low <= n_taken / n + 1e-9
    assert n_taken / n - 1e-9 <= high <= 1
    wide = np.subtract(*interval(n_taken, n)[::-1])
    assert np.subtract(*interval(4 * n_taken, 4 * n)[::-1]) < wide


# ---- The recogniser


def test_the_recogniser_understands_the_worlds_voice() -> None:
    texts = [answer.text for _, answer in GREETINGS.train[::3]] + [NOTHING.text, counting(12).text]
    texts += [
        Card(*look).answer(kind).text
        for look, kind in (
            (("blue", "star", 1), Kind.COLOUR),
            (("black", "ring", 3), Kind.HOW_MANY),
            (("yellow", "cross", 2), Kind.COMMENT),
            (("purple", "heart", 1), Kind.SHAPE),
        )
    ]
    texts += [f"{word.capitalize()}." for word in WORDS[:6]]
    heard = {text: [word.text for word in recognise(speak(text, AGENT_VOICE).samples)] for text in texts}
    assert {text: words for text, words in heard.items() if words != words_of(text)} == {}


def test_what_is_heard_does_not_depend_on_what_was_heard_before_nor_on_loudness() -> None:
    sound = speak("I see two blue stars.", AGENT_VOICE).samples
    before = recognise(sound)
    recognise(10 * speak("Zebra.", AGENT_VOICE).samples)
    assert recognise(sound) == before
    assert recognise(0.1 * sound) == before
    assert recognise(np.zeros(SAMPLE_RATE_HZ, np.float32)) == []


def test_words_are_heard_where_they_are_said() -> None:
    said = speak(counting(6).text, AGENT_VOICE)
    for word, heard in zip(said.words, recognise(said.samples), strict=True):
        assert abs(heard.span.start_ms - word.start // PER_MS) < 150


def test_resampling_keeps_what_both_rates_hold() -> None:
    at = np.arange(2400)
    tone = np.sin(2 * np.pi * 1000 * at / SAMPLE_RATE_HZ) + 0.5 * np.sin(2 * np.pi * 10_000 * at / SAMPLE_RATE_HZ)
    expected = np.sin(2 * np.pi * 1000 * np.arange(1600) / RATE_HZ)  # 10 kHz has no place at this rate
    assert np.abs(resampled(tone.astype(np.float32)) - expected).max() < 1e-5


# ---- Layouts of benchmarks


@pytest.fixture(scope="module")
def overlapped():
    world_of_stops = World(Split.HELDOUT, {Kind.STOP: 1.0, Kind.COLOUR: 1.0}, 16.0, agent_picture=Picture(48, 32))
    return make_session(2**31 + 30, world_of_stops)


def test_full_duplex_bench_finds_an_answer_where_it_is(overlapped, tmp_path) -> None:
    LAYOUTS["full-duplex-bench"](tmp_path, overlapped, world(overlapped))
    taken = sorted((tmp_path / "smooth_turn_taking").iterdir())
    assert len(taken) == len(overlapped.labels.turns)
    for folder, turn in zip(taken, overlapped.labels.turns, strict=True):
        end_s = json.loads((folder / "turn_taking.json").read_text())[0]["timestamp"][0]
        first = json.loads((folder / "output.json").read_text())["chunks"][0]
        latency_s = first["timestamp"][0] - end_s
        assert abs(1000 * latency_s - (turn.reply_start_ms - turn.question_end_ms)) < 100
        assert (folder / "input.wav").stat().st_size == (folder / "output.wav").stat().st_size
    (stop,) = list((tmp_path / "user_interruption").iterdir())[:1]
    about = json.loads((stop / "metadata.json").read_text())
    assert about["current_turn_text"].lower().startswith("stop")
    assert about["timestamps"][0] > 1


def test_videofdb_has_both_sides_and_when_it_happens(overlapped, tmp_path) -> None:
    LAYOUTS["videofdb"](tmp_path, overlapped, world(overlapped))
    stops = sorted((tmp_path / "perception" / "interruption").iterdir())
    assert len(stops) == sum(turn.kind is Kind.STOP for turn in overlapped.labels.turns) > 0
    for folder in stops:
        assert {p.name for p in folder.iterdir()} == {"user.mp4", "agent.mp4", "reference.mp4", "metadata.json"}
        about = json.loads((folder / "metadata.json").read_text())
        assert 0 < about["onset_s"] < about["end_s"] < about["onset_s"] + 0.4


def test_a_transcript_has_the_words_of_every_stretch() -> None:
    samples = np.zeros(4 * SAMPLE_RATE_HZ, np.float32)
    for start_ms, text in ((500, "It is blue."), (2500, "Zebra.")):
        said = speak(text, AGENT_VOICE).samples
        samples[start_ms * PER_MS :][: len(said)] = said
    found = transcript(samples)
    assert found["text"] == "it is blue zebra"
    assert abs(found["chunks"][-1]["timestamp"][0] - 2.5) < 0.1
