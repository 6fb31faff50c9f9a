"""Laws of the world's speech: the same wherever it is said, its marks where its sound is, mouths that follow."""

import builtins
import dataclasses
import itertools

import numpy as np
import pytest

from wanstreamer_jax.data.world import speech
from wanstreamer_jax.data.world.lexicon import (
    ACCENTS,
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
    SHAPES,
    STOPS,
    THROATS,
    VARIANTS,
    WORDS,
    Split,
    counting,
    make_voice,
)
from wanstreamer_jax.data.world.speech import Voice, speak
from wanstreamer_jax.data.world.visemes import _BEGINNINGS, Viseme, mouth_track, visemes_of
from wanstreamer_jax.data.world.visemes import SHAPES as MOUTHS
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, SAMPLES_PER_UNIT

USER_VOICE = Voice("en-us+m3")
PHRASE = "One, two, three, four, five."
CHOICES = (ASK_COLOUR, ASK_SHAPE, ASK_HOW_MANY, ASK_REPEAT, ASK_COUNT, STOPS, BACK_CHANNELS, FAR_TALK)


@pytest.mark.parametrize(
    "voice", [AGENT_VOICE, *(Voice(f"en+{x}") for x in VARIANTS.train + VARIANTS.heldout)], ids=lambda voice: voice.name
)
def test_speech_does_not_depend_on_what_was_said_before(voice: Voice) -> None:
    first = speak(PHRASE, voice)
    speak.cache_clear()
    for i in range(2):
        speak("Something else, in between." * i + "Hm.", Voice("en+m3", 130 + i))
    again = speak(PHRASE, voice)
    assert first is not again
    np.testing.assert_array_equal(first.samples, again.samples)
    assert first.phonemes == again.phonemes
    assert first.words == again.words


@pytest.mark.parametrize("variant", VARIANTS.train + VARIANTS.heldout)
def test_every_voice_speaks_equally_loud_and_at_its_speed(variant: str) -> None:
    for accent in ACCENTS:
        slow, fast = (speak("What colour is this?", Voice(f"{accent}+{variant}", wpm)) for wpm in (125, 185))
        for said in (slow, fast):
            assert np.sqrt(np.mean(said.samples**2)) == pytest.approx(0.08, rel=0.02)
            assert np.max(np.abs(said.samples)) < 0.9
        assert slow.duration_ms > 1.2 * fast.duration_ms


@pytest.mark.parametrize("throat", [87, 116])
def test_a_throat_moves_all_frequencies_and_the_speed_alike(throat: int) -> None:
    usual, other = speak(PHRASE, USER_VOICE), speak(PHRASE, dataclasses.replace(USER_VOICE, throat=throat))
    assert len(usual.samples) / len(other.samples) == pytest.approx(throat / 100, rel=1e-3)
    for a, b in zip(usual.words + usual.phonemes, other.words + other.phonemes, strict=True):
        assert (a.text, a.start, a.end) == (b.text, *(pytest.approx(x * throat / 100, abs=1) for x in (b.start, b.end)))
    # Bin by bin the same spectrum: a bin of one is as much higher as its sound is shorter.
    spectra = [np.abs(np.fft.rfft(said.samples))[:3000] / len(said.samples) for said in (usual, other)]
    np.testing.assert_allclose(spectra[1], spectra[0], atol=0.02 * spectra[0].max())


def test_only_users_of_training_have_throats_of_all_lengths() -> None:
    train, heldout = ([make_voice(np.random.default_rng(i), split).throat for i in range(60)] for split in Split)
    assert THROATS[0] <= min(train) < 90
    assert 110 < max(train) < THROATS[1]
    assert set(heldout) == {AGENT_VOICE.throat} == {100}


@pytest.mark.parametrize("voice", [AGENT_VOICE, USER_VOICE], ids=["agent", "user"])
def test_words_are_the_text_and_lie_where_the_sound_is(voice: Voice) -> None:
    said = speak(PHRASE, voice)
    assert " ".join(word.text for word in said.words) == PHRASE
    assert said.words[-1].end == said.phonemes[-1].end == len(said.samples)  # to its last sound
    spoken = np.zeros(len(said.samples), bool)
    for word in said.words:
        spoken[word.start : word.end] = True
        assert np.sqrt(np.mean(said.samples[word.start : word.end] ** 2)) > 0.04
    margin = SAMPLE_RATE_HZ // 50
    silent = ~np.convolve(spoken, np.ones(2 * margin + 1), mode="same").astype(bool)
    assert silent.sum() > SAMPLE_RATE_HZ // 20
    assert np.sqrt(np.mean(said.samples[silent] ** 2)) < 0.02


def test_words_that_are_said_as_one_share_their_time() -> None:
    words = speak("I am fine.", USER_VOICE).words
    assert [word.text for word in words] == ["I", "am", "fine."]
    assert all(a.start < a.end <= b.start for a, b in itertools.pairwise(words))


def test_every_phoneme_of_the_lexicon_has_a_mouth_shape() -> None:
    texts = [text.format(colour="red", shape="star", word="zebra", number="ten") for c in CHOICES for text in c.train]
    texts += [question for question, _ in GREETINGS.train] + [answer.text for _, answer in GREETINGS.train]
    texts += [*COLOURS, *SHAPES, *WORDS, counting(20).text]
    texts = [text.replace("| ", "") for text in texts]
    names = {p.text.strip("',%=|") for text in texts for p in speak(text, AGENT_VOICE).phonemes}
    known = {name for beginnings in _BEGINNINGS.values() for name in beginnings.split()}
    assert {name for name in names if not any(name.startswith(k) for k in known)} <= {";"}  # a glide, heard alone


def test_a_word_of_the_agent_is_the_same_in_every_sentence_and_begins_with_a_unit() -> None:
    unit, said = SAMPLES_PER_UNIT, speak("It is green, is it?", AGENT_VOICE)
    sounds = {}
    for word in said.words:
        assert word.start % unit == 0
        sounds.setdefault(word.text.strip("?,").lower(), []).append(said.samples[word.start : word.end])
    alone = {text: speak(text, AGENT_VOICE).samples for text in sounds}
    assert {text: len(found) for text, found in sounds.items()} == {"it": 2, "is": 2, "green": 1}
    for text, found in sounds.items():
        for samples in found:
            np.testing.assert_array_equal(samples, alone[text])
    for word, after in itertools.pairwise(said.words):
        assert after.start - word.end < unit
        assert not said.samples[word.end : after.start].any()
    starts = {word.start for word in said.words}
    assert starts < {p.start for p in said.phonemes}
    fluent = speak("It is green, is it?", dataclasses.replace(AGENT_VOICE, word_ms=0))
    assert any(word.start % unit for word in fluent.words)


@pytest.mark.parametrize(
    ("word", "closed_at", "open_at"), [("mama", "m", "A"), ("papa", "p", "A"), ("beautiful", "b", "f")]
)
def test_the_mouth_is_shut_where_lips_meet(word: str, closed_at: str, open_at: str) -> None:
    assert visemes_of(closed_at) == (Viseme.LIPS,)
    said = speak(f"a {word}", AGENT_VOICE)
    track = mouth_track(list(said.phonemes), len(said.samples) // SAMPLES_PER_FRAME + 4)
    shut = next(p for p in said.phonemes if p.text == closed_at)
    frame = shut.start // SAMPLES_PER_FRAME
    assert track.opening[frame - 1 : frame + 1].min() < 0.35
    assert track.opening.max() > 0.5
    assert visemes_of(open_at) != (Viseme.LIPS,)


def test_a_silent_mouth_is_shut() -> None:
    track = mouth_track([], 10)
    np.testing.assert_array_equal(track.opening, 0)
    np.testing.assert_array_equal(track.viseme, Viseme.REST)
    assert set(MOUTHS) == set(Viseme)


def test_what_cannot_be_said_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match=r"espeak-ng has no voice 'nobody'"):
        speak("Hello", Voice("nobody"))
    with pytest.raises(ValueError, match="nothing to say"):
        speak("...", AGENT_VOICE)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "espeakng_loader":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    speech._installed.cache_clear()
    with pytest.raises(RuntimeError, match=r"pip install 'wanstreamer-jax\[train\]'"):
        speak("Not said yet.", dataclasses.replace(AGENT_VOICE, pitch=1))


def test_nobody_else_has_the_agents_voice() -> None:
    variant = AGENT_VOICE.name.split("+")[1]
    assert all(variant not in VARIANTS.of(split) for split in Split)
