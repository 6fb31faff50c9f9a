"""What is true of a session, moment by moment."""

import dataclasses
from typing import Any

from wanstreamer_jax.data.world.camera import HALF_CARD, ROOM_ASPECT, Showing
from wanstreamer_jax.data.world.drawing import Frame
from wanstreamer_jax.data.world.identity import Composition
from wanstreamer_jax.data.world.lexicon import Split
from wanstreamer_jax.data.world.performance import Behaviour, Glance
from wanstreamer_jax.data.world.script import Script, Turn, Who, Word
from wanstreamer_jax.data.world.speech import Voice
from wanstreamer_jax.data.world.visemes import MouthTrack
from wanstreamer_jax.timeline import Picture

Spans = list[tuple[int, int]]  # of ms
Point = tuple[float, float]  # x and y in pixels


@dataclasses.dataclass(frozen=True)
class CardLabel:
    """A card that was held up: it rises, settles, sinks and is gone; or stays to the end."""

    colour: str
    shape: str
    count: int
    is_seen_pair: bool  # does training meet this colour with this shape?
    appear_ms: int
    settled_ms: int
    leave_ms: int | None
    gone_ms: int | None


@dataclasses.dataclass(frozen=True)
class Labels:
    """What is true of a session; a list of frames has one entry for each."""

    seed: int
    split: Split
    composition: Composition
    user_voice: Voice
    turns: list[Turn]
    words: list[Word]  # in the order in which they begin
    cards: list[CardLabel]
    card_in_view: list[int | None]  # of frames: which of the cards, if most of one is seen
    card_middle: list[Point | None]  # of frames: its middle in the user's picture
    card_half: float  # pixels from its middle to its edge
    viseme: list[int]  # of frames: a `visemes.Viseme`
    mouth_opening: list[float]  # of frames: 0 closed, 1 wide open
    nods_ms: Spans
    blinks_ms: Spans
    glances: list[Glance]
    user_ms: Spans  # when the user speaks
    agent_ms: Spans
    background_ms: Spans  # when somebody speaks further away

    def to_json(self) -> dict[str, Any]:
        """As dictionaries and lists."""
        return dataclasses.asdict(self)


def make_labels(
    seed: int, composition: Composition, script: Script, behaviour: Behaviour, mouth: MouthTrack, picture: Picture
) -> Labels:
    """Labels of a script, as it is seen by a user's camera of this picture."""
    n_frames = len(mouth.viseme)
    in_view, middle = _views(script.showings, Frame(picture, ROOM_ASPECT), n_frames)
    words = [word for line in script.lines for word in line.words]
    return Labels(
        seed=seed,
        split=script.split,
        composition=composition,
        user_voice=script.voice,
        turns=list(script.turns),
        words=sorted((*words, *script.typed), key=lambda w: (w.start_ms, w.who)),
        cards=[_card(showing) for showing in script.showings],
        card_in_view=in_view,
        card_middle=middle,
        card_half=HALF_CARD * Frame(picture, ROOM_ASPECT).pixels_per_height,
        viseme=mouth.viseme.tolist(),
        mouth_opening=[round(float(x), 4) for x in mouth.opening],
        nods_ms=list(behaviour.nods),
        blinks_ms=list(behaviour.blinks),
        glances=list(behaviour.glances),
        user_ms=script.spans(Who.USER),
        agent_ms=script.spans(Who.AGENT),
        background_ms=script.spans(Who.BACKGROUND),
    )


def _card(showing: Showing) -> CardLabel:
    card = showing.card
    times = showing.appear_ms, showing.settled_ms, showing.leave_ms, showing.gone_ms
    return CardLabel(card.colour, card.shape, card.count, card.is_seen, *times)


def _views(showings: tuple[Showing, ...], frame: Frame, n_frames: int) -> tuple[list[int | None], list[Point | None]]:
    """Which card is seen in each frame, and where."""
    in_view: list[int | None] = [None] * n_frames
    middle: list[Point | None] = [None] * n_frames
    for i, showing in enumerate(showings):
        x, y = showing.middle(n_frames)
        for t in showing.seen(n_frames):
            in_view[t] = i
            middle[t] = (round(frame.x_pixel(float(x[t])), 2), round(frame.y_pixel(float(y[t])), 2))
    return in_view, middle
