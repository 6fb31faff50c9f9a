"""The dialogues of the world, each acted on a stage from `now_ms` on."""

from collections.abc import Callable, Mapping

import numpy as np

from wanstreamer_jax.data.world.lexicon import (
    ASK_COLOUR,
    ASK_COUNT,
    ASK_HOW_MANY,
    ASK_REPEAT,
    ASK_SHAPE,
    BACK_CHANNELS,
    FAR_TALK,
    GREETINGS,
    MAX_SHAPES,
    NOTHING,
    NUMBERS,
    STOPS,
    WORDS,
    Answer,
    Kind,
    Split,
    counting,
    make_voice,
    pick,
    repeating,
)
from wanstreamer_jax.data.world.script import Line, Script, Who
from wanstreamer_jax.data.world.stage import COMMENT_MS, Asked, Stage, next_unit
from wanstreamer_jax.timeline import UNIT_MS

_ASK = {Kind.COLOUR: ASK_COLOUR, Kind.SHAPE: ASK_SHAPE, Kind.HOW_MANY: ASK_HOW_MANY}
_GAP_MS = (600, 2000)  # between dialogues
_TRIES = 4  # dialogues that may be too long for what is left of a session
_SHORT_COUNT, _LONG_COUNT = (3, 8), (10, 20)


def make_script(rng: np.random.Generator, mixture: Mapping[Kind, float], split: Split, n_units: int) -> Script:
    """Dialogues drawn from a mixture (kinds and their weights), as many as fit into so many units."""
    kinds = [kind for kind in Kind if kind in mixture]  # in whatever order they were named
    weights = np.array([mixture[k] for k in kinds], np.float64)
    last_ms = n_units * UNIT_MS
    stage = Stage.empty(rng, split, last_ms)
    n_failed = 0
    while n_failed < _TRIES:
        trial = stage.copy()
        _DIALOGUES[kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]](trial)
        if trial.now_ms > last_ms:
            n_failed += 1
            continue
        stage = trial
        stage.wait(_GAP_MS)
        if rng.random() < 0.3:
            stage.put_away()
    return stage.script()


def _greeting(stage: Stage) -> None:
    phrasing, answer = GREETINGS.pick(stage.rng, stage.split)
    stage.reply(Kind.GREETING, stage.ask(phrasing), answer)


def _about_card(kind: Kind) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        if stage.rng.random() < 0.08:
            stage.put_away()
        else:
            _hold_card(stage, kind)
        phrasing, answer = _question(stage, kind)
        stage.reply(kind, stage.ask(phrasing), answer)

    return act


def _hold_card(stage: Stage, about: Kind) -> None:
    """A card is in view, or comes into view as the user begins to ask: late enough is never a comment."""
    if stage.is_held and stage.rng.random() < 0.6:
        if stage.rng.random() < 0.4:
            stage.move()
        return
    count = int(stage.rng.integers(1, MAX_SHAPES + 1)) if about is Kind.HOW_MANY else 1
    showing = stage.show(count)
    stage.now_ms = stage.between((showing.appear_ms, showing.settled_ms + 200))


def _question(stage: Stage, kind: Kind) -> tuple[str, Answer]:
    """A phrasing and its answer; one shape may be called by its name."""
    card = stage.showings[-1].card if stage.is_held else None
    phrasings = _ASK[kind].of(stage.split)
    if card is None or card.count > 1:
        phrasings = tuple(p for p in phrasings if "{" not in p)
    phrasing = pick(stage.rng, phrasings)
    if card is None:
        return phrasing, NOTHING
    return phrasing.format(colour=card.colour, shape=card.shape), card.answer(kind)


def _repeat(stage: Stage) -> None:
    word = pick(stage.rng, WORDS)
    asked = stage.ask(ASK_REPEAT.pick(stage.rng, stage.split).format(word=word))
    stage.reply(Kind.REPEAT, asked, repeating(word))


def _counting(stage: Stage, kind: Kind, bounds: tuple[int, int]) -> Line:
    last = stage.between(bounds)
    asked = stage.ask(ASK_COUNT.pick(stage.rng, stage.split).format(number=NUMBERS[last - 1]))
    return stage.reply(kind, asked, counting(last))


def _count(stage: Stage) -> None:
    _counting(stage, Kind.COUNT, _SHORT_COUNT)


def _stop(stage: Stage) -> None:
    line = _counting(stage, Kind.STOP, _LONG_COUNT)
    stop_ms = stage.between((line.start_ms + 1200, min(line.start_ms + 6000, line.end_ms - 1000)))
    stage.cut(line, stop_ms)
    stage.now_ms = stop_ms
    stage.say(Who.USER, STOPS.pick(stage.rng, stage.split), stop_ms)


def _back_channel(stage: Stage) -> None:
    line = _counting(stage, Kind.BACK_CHANNEL, _LONG_COUNT)
    at = line.start_ms + stage.between((800, 2000))
    while at < line.end_ms - 1200:
        hum = stage.say(Who.USER, BACK_CHANNELS.pick(stage.rng, stage.split), at)
        at = hum.end_ms + stage.between((1200, 4000))


def _background(stage: Stage) -> None:
    line = _counting(stage, Kind.BACKGROUND, _LONG_COUNT)
    _talk_far_away(stage, line.start_ms + stage.between((500, 2500)), line.end_ms)


def _talk_far_away(stage: Stage, start_ms: int, end_ms: int) -> None:
    """Somebody else, who may go on for a while after `end_ms`."""
    voice = make_voice(stage.rng, stage.split)
    while start_ms < end_ms - 500:
        talk = stage.say(Who.BACKGROUND, FAR_TALK.pick(stage.rng, stage.split), start_ms, voice)
        start_ms = talk.end_ms + stage.between((300, 1500))


def _comment(stage: Stage) -> None:
    stage.put_away()
    stage.wait((300, 800))
    showing = stage.show(int(stage.rng.integers(1, MAX_SHAPES + 1)) if stage.rng.random() < 0.4 else 1)
    asked = Asked("", showing.appear_ms, showing.settled_ms)
    answer = showing.card.answer(Kind.COMMENT)
    line = stage.say(Who.AGENT, answer.text, next_unit(showing.settled_ms + COMMENT_MS))
    stage.note(Kind.COMMENT, asked, answer, line)


def _silence(stage: Stage) -> None:
    """Nothing is asked; somebody may talk far away, or a card may move."""
    start = stage.now_ms
    stage.wait((2000, 5000))
    happening = stage.rng.random()
    if happening < 0.3:
        _talk_far_away(stage, start, stage.now_ms)
    elif happening < 0.6 and stage.is_held:
        stage.move()


def _typed(stage: Stage) -> None:
    about = pick(stage.rng, (Kind.GREETING, Kind.COLOUR, Kind.SHAPE, Kind.HOW_MANY))
    if about is Kind.GREETING:
        phrasing, answer = GREETINGS.pick(stage.rng, stage.split)
    else:
        _hold_card(stage, about)
        phrasing, answer = _question(stage, about)
    stage.reply(Kind.TYPED, stage.type(phrasing), answer, about)


_DIALOGUES: Mapping[Kind, Callable[[Stage], None]] = {
    Kind.GREETING: _greeting,
    Kind.COLOUR: _about_card(Kind.COLOUR),
    Kind.SHAPE: _about_card(Kind.SHAPE),
    Kind.HOW_MANY: _about_card(Kind.HOW_MANY),
    Kind.REPEAT: _repeat,
    Kind.COUNT: _count,
    Kind.STOP: _stop,
    Kind.BACK_CHANNEL: _back_channel,
    Kind.BACKGROUND: _background,
    Kind.COMMENT: _comment,
    Kind.SILENCE: _silence,
    Kind.TYPED: _typed,
}
