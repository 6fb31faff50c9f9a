"""Text to speech by espeak-ng, with every phoneme and word on the clock of the samples.

espeak-ng is an extra (`pip install 'wanstreamer-jax[train]'`), loaded here and nowhere else. It keeps phases and noise
from one utterance to the next in globals that it never resets, so that what it says would depend on what it said
before. Every utterance therefore gets a library of its own: loaded, used once and unloaded, which takes 3 ms.
"""

import ctypes
import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, SAMPLES_PER_MS

_RATE_HZ = 22_050  # espeak-ng's own
_SYNCHRONOUS, _OPTIONS, _UTF8 = 2, 0x8001, 1  # options: tell of phonemes, never exit the process
_WORD, _PHONEME, _LIST_END = 1, 7, 0
_PARAMETERS = {"words_per_min": 1, "pitch": 3, "pitch_range": 4}
_FADE_MS = 8
_RMS = 0.08  # of every voice: 22 dB under full scale
_PUNCTUATION = ".,:!?"
_MISSING = "speech needs espeak-ng: pip install 'wanstreamer-jax[train]' ({})"


@dataclasses.dataclass(frozen=True)
class Voice:
    """A speaker: an espeak-ng voice, with a variant after `+`; pitch and its range go from 0 to 99."""

    name: str
    words_per_min: int = 150
    pitch: int = 50
    pitch_range: int = 50
    throat: int = 100  # percent of what espeak-ng makes: all frequencies, formants too, are so high, and it is so fast
    word_ms: int = 0  # 0: words flow into each other; else each is said by itself, and begins at a multiple of so many


@dataclasses.dataclass(frozen=True)
class Span:
    """A word or a phoneme, from one sample to another."""

    text: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True, eq=False)
class Speech:
    """What was said: from the first sound to the last, all voices equally loud."""

    samples: Float32[np.ndarray, " n"]
    phonemes: tuple[Span, ...]  # espeak-ng's names with their stress marks
    words: tuple[Span, ...]  # with their punctuation: joined by spaces they are the text

    @property
    def duration_ms(self) -> int:
        """Until the last sound."""
        return len(self.samples) * 1000 // SAMPLE_RATE_HZ


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # of a word, in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_one_at_a_time = threading.Lock()


class _Mark(NamedTuple):
    """An event of espeak-ng: a word, whose text begins at `text_at`, or a phoneme begins at a sample."""

    kind: int
    sample: int
    text_at: int
    symbol: str


@functools.lru_cache(maxsize=1024)
def speak(text: str, voice: Voice) -> Speech:
    """Say `text`; the same samples in every process, whatever was said before. They are read-only.

    Raises:
        RuntimeError: espeak-ng is not installed.
        ValueError: it has no such voice, or there is nothing to say.
    """
    return _word_by_word(text, voice) if voice.word_ms else _fluently(text, voice)


def _word_by_word(text: str, voice: Voice) -> Speech:
    """A word has the same samples in every sentence, however it is written."""
    alone, beat = dataclasses.replace(voice, word_ms=0), voice.word_ms * SAMPLES_PER_MS
    sounds: list[np.ndarray] = []
    phonemes, words, end = [], [], 0
    for word in text.split() or [text]:
        said, gap = speak(word.strip(_PUNCTUATION).lower(), alone), -end % beat
        start, end = end + gap, end + gap + len(said.samples)
        sounds += [np.zeros(gap, np.float32), said.samples]
        phonemes += [Span(p.text, start + p.start, start + p.end) for p in said.phonemes]
        words.append(Span(word, start, end))
    samples = np.concatenate(sounds)
    samples.flags.writeable = False
    return Speech(samples, tuple(phonemes), tuple(words))


def _fluently(text: str, voice: Voice) -> Speech:
    with _one_at_a_time, _library() as library:
        raw, marks = _synthesise(library, text, voice)
    phonemes = _phonemes(marks, len(raw))
    if not phonemes:
        raise ValueError(f"nothing to say in {text!r}")
    words = _words(text, marks, phonemes)
    first, last = phonemes[0].start, phonemes[-1].end
    clock = _Clock.of(voice)
    return Speech(_finish(raw[first:last], clock), clock.spans(phonemes, first), clock.spans(words, first))


@contextmanager
def _library() -> Iterator[ctypes.CDLL]:
    """espeak-ng in its first state."""
    path, data = _installed()
    library = ctypes.CDLL(str(path))
    try:
        if library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), _OPTIONS) != _RATE_HZ:
            raise RuntimeError(_MISSING.format(f"{path} does not start"))
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)  # the breath of some voices is drawn by the C library, which is never loaded anew
        yield library
        library.espeak_Terminate()
    finally:
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))  # noqa: SLF001  there is no public way


@functools.cache
def _installed() -> tuple[Path, Path]:
    """The library and the folder of its data."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise RuntimeError(_MISSING.format(error)) from error
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


def _synthesise(library: ctypes.CDLL, text: str, voice: Voice) -> tuple[np.ndarray, list[_Mark]]:
    """Samples at espeak-ng's rate, int16, and its marks on them."""
    chunks: list[np.ndarray] = []
    marks: list[_Mark] = []

    def receive(samples: Any, n_samples: int, events: Any) -> int:
        if n_samples > 0:
            chunks.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        for event in itertools.takewhile(lambda e: e.type != _LIST_END, (events[i] for i in itertools.count())):
            # Only a phoneme carries a string; it may fill all eight bytes.
            symbol = bytes(event.id)[:8].split(b"\0")[0].decode(errors="replace") if event.type == _PHONEME else ""
            marks.append(_Mark(event.type, event.sample, event.text_position - 1, symbol))
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice.name!r}")
    for field, parameter in _PARAMETERS.items():
        library.espeak_SetParameter(parameter, getattr(voice, field), 0)
    encoded = text.encode()
    library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
    return np.concatenate([np.zeros(0, np.int16), *chunks]), marks


def _phonemes(marks: list[_Mark], n_samples: int) -> list[Span]:
    """Each up to where the next begins; pauses are no phonemes."""
    starts = [m for m in marks if m.kind == _PHONEME]
    ends = [m.sample for m in starts[1:]] + [n_samples]
    spans = (Span(m.symbol, m.sample, end) for m, end in zip(starts, ends, strict=True))
    return [s for s in spans if not s.text.startswith("_") and s.end > s.start]


def _words(text: str, marks: list[_Mark], phonemes: list[Span]) -> list[Span]:
    """Words with the punctuation after them, from first to last phoneme.

    A word is marked some 50 ms before it sounds, but its first phoneme is the next one that is marked.
    """
    starts = []
    for i, mark in enumerate(marks):
        if mark.kind == _WORD:
            starts.append((mark.text_at, next((m.sample for m in marks[i:] if m.kind == _PHONEME), phonemes[-1].end)))
    bounds = [*starts[1:], (len(text), phonemes[-1].end)]
    words = []
    for (at, start), (next_at, next_start) in zip(starts, bounds, strict=True):
        ends = [p.end for p in phonemes if start <= p.start < next_start]
        words += _split(text[at:next_at], start, max(ends, default=start))
    return words


def _split(text: str, start: int, end: int) -> list[Span]:
    """Words that espeak-ng says as one ("I am") share their time by their letters."""
    parts = text.split()
    ends = np.cumsum([len(part) for part in parts])
    bounds = [start, *(start + (end - start) * int(n) // int(ends[-1]) for n in ends)]
    return [Span(part, *bounds[i : i + 2]) for i, part in enumerate(parts)]


class _Clock(NamedTuple):
    """From espeak-ng's samples to ours: of each `theirs` we make `ours`."""

    ours: int
    theirs: int

    @classmethod
    def of(cls, voice: Voice) -> "_Clock":
        """As if a voice with a shorter throat had been recorded at a higher rate."""
        ours, theirs = 100 * SAMPLE_RATE_HZ, voice.throat * _RATE_HZ
        common = math.gcd(ours, theirs)
        return cls(ours // common, theirs // common)

    def spans(self, spans: list[Span], first: int) -> tuple[Span, ...]:
        """Counted from `first`."""
        return tuple(Span(s.text, self.at(s.start - first), self.at(s.end - first)) for s in spans)

    def at(self, n_samples: int) -> int:
        """How many of ours so many of theirs are."""
        return round(n_samples * self.ours / self.theirs)

    def resample(self, x: np.ndarray) -> np.ndarray:
        """All of it, exactly: more room in the spectrum, or less."""
        n_blocks = -(-len(x) // self.theirs) + 1
        n_in, n_out = n_blocks * self.theirs, n_blocks * self.ours
        return np.fft.irfft(np.fft.rfft(x, n_in), n_out) * (n_out / n_in)


def _finish(raw: np.ndarray, clock: _Clock) -> np.ndarray:
    """At our rate and our loudness, without clicks at its ends."""
    samples = clock.resample(raw / 2**15)[: clock.at(len(raw))]
    samples *= _RMS / np.sqrt(np.mean(samples**2))
    n_fade = _FADE_MS * SAMPLE_RATE_HZ // 1000
    ramp = np.linspace(0, 1, n_fade)
    samples[:n_fade] *= ramp[: len(samples)]
    samples[-n_fade:] *= ramp[::-1][-len(samples) :]
    samples = samples.astype(np.float32)
    samples.flags.writeable = False
    return samples
