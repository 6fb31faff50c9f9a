"""Tasks whose answer is text: captions of a picture, a film or a sound, and what is said."""

import dataclasses

import numpy as np

from wanstreamer_jax.data.tasks.example import Content, DoesNotFitError, Setting, written
from wanstreamer_jax.data.tasks.poses import sentence
from wanstreamer_jax.data.tasks.sentences import make_sentence, noun_of
from wanstreamer_jax.data.tasks.sounds import in_room, make_sound, place
from wanstreamer_jax.data.text import TOLD_LATE_MS
from wanstreamer_jax.data.world import Who, Word
from wanstreamer_jax.data.world.camera import Look, Showing, film, somewhere
from wanstreamer_jax.data.world.lexicon import MAX_SHAPES, NUMBERS, Card, make_card, make_voice
from wanstreamer_jax.data.world.script import Line
from wanstreamer_jax.data.world.sound import Room
from wanstreamer_jax.data.world.speech import Voice
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, UNIT_MS

OVER_MS = 480  # of quiet after a sound: nothing more belongs to it


def image_captioning(rng: np.random.Generator, setting: Setting) -> Content:
    """One still picture of a card, from the first unit on."""
    card = _card(rng, setting)
    x, y = somewhere(rng)
    picture = film(Look.draw(rng), (Showing.still(card, x, y),), setting.layout.user_picture, 1)
    return Content(
        words=written(f"{sentence(noun_of(card))}.", 0),
        user_frames=np.repeat(picture, setting.n_frames, axis=0),
        labels={"card": dataclasses.asdict(card)},
    )


def video_captioning(rng: np.random.Generator, setting: Setting) -> Content:
    """Cards that appear, move and go, each told when it has happened."""
    showings: list[Showing] = []
    told: list[tuple[int, str]] = []
    now_ms = int(rng.integers(0, 500))
    while now_ms < setting.last_ms // 2:
        showing, events = _act(rng, _card(rng, setting), now_ms)
        showings.append(showing)
        told += events
        now_ms = events[-1][0] + int(rng.integers(200, 800))
    if told[-1][0] > setting.last_ms:
        raise DoesNotFitError(f"{told[-1][0]} ms of cards")
    return Content(
        words=[word for known_ms, text in told for word in written(text, known_ms)],
        user_frames=film(Look.draw(rng), tuple(showings), setting.layout.user_picture, setting.n_frames),
        labels={"told": told, "cards": [dataclasses.asdict(s.card) for s in showings]},
    )


def _act(rng: np.random.Generator, card: Card, start_ms: int) -> tuple[Showing, list[tuple[int, str]]]:
    """A card that comes, perhaps moves, and goes; and what is told of it, when it has happened."""
    it, s = ("They", "") if card.count > 1 else ("It", "s")
    x, y = somewhere(rng)
    settled = start_ms + int(rng.integers(400, 700))
    places, told = [(settled, x, y)], [(settled, f"{sentence(noun_of(card))} appear{s}.")]
    leave = settled + int(rng.integers(500, 1000))
    if rng.random() < 0.6:
        there = -x if abs(x) > 0.25 else (0.5 if rng.random() < 0.5 else -0.5)
        moved = leave + int(rng.integers(400, 700))
        places += [(leave, x, y), (moved, there, y)]
        told.append((moved, f"{it} move{s} {'right' if there > x else 'left'}."))
        leave = moved + int(rng.integers(500, 1000))
    gone = leave + int(rng.integers(300, 600))
    told.append((gone, f"{it} go{'es' if s else ''} away."))
    return Showing(card, start_ms, settled, tuple(places), leave, gone), told


def audio_captioning(rng: np.random.Generator, setting: Setting) -> Content:
    """A sound, or somebody who says some words; told once nothing more is heard."""
    start_ms = int(rng.integers(0, 4 * UNIT_MS))
    room = dataclasses.replace(Room.draw(rng), noise_db=float(rng.uniform(-45, -30)))
    if rng.random() < 0.5:
        line = _line(rng, setting, start_ms)
        caption = f"A {_who(line.voice)} says {NUMBERS[len(line.words) - 1]} words."
        samples, end_ms = in_room(room, (line,), setting.n_samples), line.end_ms
    else:
        sound = make_sound(rng, setting.split)
        caption, first = f"{sentence(sound.name)}.", start_ms * SAMPLE_RATE_HZ // 1000
        samples = in_room(room, (), setting.n_samples) + place(sound.samples, first, setting.n_samples)
        end_ms = start_ms + len(sound.samples) * 1000 // SAMPLE_RATE_HZ
    _check_end(end_ms + OVER_MS, setting)
    return Content(
        words=written(caption, end_ms + OVER_MS), user_samples=samples, labels={"start_ms": start_ms, "end_ms": end_ms}
    )


def asr(rng: np.random.Generator, setting: Setting) -> Content:
    """Somebody speaks; each word is written when it can be told."""
    line = _line(rng, setting, int(rng.integers(0, 4 * UNIT_MS)))
    _check_end(line.end_ms + TOLD_LATE_MS, setting)
    transcript = [Word(Who.AGENT, w.end_ms + TOLD_LATE_MS - 1, w.end_ms + TOLD_LATE_MS, w.text) for w in line.words]
    return Content(
        words=[*line.words, *transcript],
        user_samples=in_room(Room.draw(rng), (line,), setting.n_samples),
        labels={"voice": dataclasses.asdict(line.voice), "sentence": line.text},
    )


def _card(rng: np.random.Generator, setting: Setting) -> Card:
    return make_card(rng, setting.split, int(rng.integers(1, MAX_SHAPES + 1)))


def _line(rng: np.random.Generator, setting: Setting, start_ms: int) -> Line:
    text, voice = make_sentence(rng, setting.split), make_voice(rng, setting.split)
    return Line.whole(Who.USER, text, start_ms, voice)


def _check_end(end_ms: int, setting: Setting) -> None:
    if end_ms > setting.last_ms:
        raise DoesNotFitError(f"{end_ms} ms of sound")


def _who(voice: Voice) -> str:
    """Women's variants of espeak-ng are f1, f2, ..."""
    variant = voice.name.partition("+")[2]
    return "woman" if variant[0] == "f" and variant[1:].isdigit() else "man"
