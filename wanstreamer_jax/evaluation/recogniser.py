"""An independent recogniser: which of the sentences of the world's agent is heard in a sound.

pocketsphinx (an extra: `pip install 'wanstreamer-jax[evaluate]'`) brings its model of English in its wheel. It is
loaded here and nowhere else.
"""

import functools
import itertools
import math
import re
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from wanstreamer_jax.data.world import Kind, lexicon
from wanstreamer_jax.evaluation.lived import words_of
from wanstreamer_jax.evaluation.voice import Span
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ

RATE_HZ = 16_000  # the model's
_FRAME_MS = 10  # of the recogniser
_MARGIN_MS = 200  # of silence before and after: it expects some
_RESET_MS = 100  # of nothing before all else: in it the recogniser forgets what it heard before
_PEAK = 0.7  # of full scale, whatever the agent's loudness
_FULL_SCALE = 2**15 - 1
_HISS = 2e-3 * _FULL_SCALE  # added to all that is heard: its model has met no silence without any
_COUNTS = range(1, lexicon.MAX_SHAPES + 1)
_ABOUT_CARDS = (Kind.COLOUR, Kind.SHAPE, Kind.HOW_MANY, Kind.COMMENT)
_NAME = "agent"
_MISSING = "the recogniser needs pocketsphinx: pip install 'wanstreamer-jax[evaluate]' ({})"


class Heard(NamedTuple):
    """A word and when it was said."""

    text: str
    span: Span


def grammar() -> str:
    """All that the world's agent says, in JSGF; a count may end anywhere, however far it was to go."""
    cards = [lexicon.Card(*look) for look in itertools.product(lexicon.COLOURS, lexicon.SHAPES, _COUNTS)]
    answers = [card.answer(kind) for card in cards for kind in _ABOUT_CARDS]
    answers += [answer for _, answer in lexicon.GREETINGS.train]
    ends = range(1, len(lexicon.NUMBERS) + 1)
    answers += [lexicon.counting(last, stopped) for last, stopped in itertools.product(ends, ends)]
    texts = {answer.text for answer in answers} | {lexicon.NOTHING.text, *lexicon.WORDS}
    return f"#JSGF V1.0;\ngrammar {_NAME};\npublic <said> = {_tree([words_of(text) for text in texts])};\n"


def _tree(sentences: list[list[str]]) -> str:
    """Sentences as choices of words, each beginning once: the recogniser then follows few paths."""
    choices = []
    for word, group in itertools.groupby(sorted(s for s in sentences if s), key=lambda s: s[0]):
        rests = [sentence[1:] for sentence in group]
        following = _tree(rests)
        optional = f"[ {following} ]" if [] in rests and following else following
        choices.append(f"{word} {optional}".strip())
    return f"( {' | '.join(choices)} )" if choices else ""


def recognise(samples: Float32[np.ndarray, " n"]) -> list[Heard]:
    """The words heard in a sound of 24 kHz; the same whatever was heard before.

    Raises:
        RuntimeError: pocketsphinx is not installed.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0:
        return []
    margin = np.zeros(_MARGIN_MS * RATE_HZ // 1000)
    sound = np.round(np.concatenate([margin, resampled(samples) * (_PEAK * _FULL_SCALE / peak), margin]))
    sound += _HISS * np.random.default_rng(0).standard_normal(len(sound))
    sound = np.concatenate([np.zeros(_RESET_MS * RATE_HZ // 1000), sound])
    decoder = open_decoder()
    decoder.start_utt()
    decoder.process_raw(np.clip(sound, -_FULL_SCALE, _FULL_SCALE).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    return [_heard(segment) for segment in decoder.seg() or [] if re.match(r"[a-z]", segment.word)]


def _heard(segment: Any) -> Heard:
    """Pronunciations other than a word's first are called "the(2)"."""
    start_ms, end_ms = segment.start_frame * _FRAME_MS, (segment.end_frame + 1) * _FRAME_MS
    word = segment.word.partition("(")[0]
    before_ms = _RESET_MS + _MARGIN_MS
    return Heard(word, Span(max(0, start_ms - before_ms), max(0, end_ms - before_ms)))


def resampled(samples: Float32[np.ndarray, " n"]) -> Float64[np.ndarray, " m"]:
    """From 24 kHz to the recogniser's rate, exactly: what is beyond its spectrum is left out."""
    common = math.gcd(SAMPLE_RATE_HZ, RATE_HZ)
    n_in = -(-len(samples) // (SAMPLE_RATE_HZ // common)) * (SAMPLE_RATE_HZ // common)
    n_out = n_in * RATE_HZ // SAMPLE_RATE_HZ
    spectrum = np.fft.rfft(samples.astype(np.float64), n_in)[: n_out // 2 + 1]
    return np.fft.irfft(spectrum, n_out) * (n_out / n_in)


@functools.cache
def open_decoder() -> Any:
    """The recogniser, made once; RuntimeError when pocketsphinx is not installed."""
    try:
        import pocketsphinx
    except ImportError as error:
        raise RuntimeError(_MISSING.format(error)) from error
    # Means over the whole sound: or what was heard before would count.
    decoder = pocketsphinx.Decoder(lm=None, cmn="batch", samprate=RATE_HZ, loglevel="FATAL")
    decoder.add_jsgf_string(_NAME, grammar())
    decoder.activate_search(_NAME)
    return decoder
