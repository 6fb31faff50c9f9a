"""Eyes that know cards: colours, shapes and numbers, in the Transformer's own language.

As `hearing` is for ears, this stage is what a public checkpoint has learned, for an agent whose eyes come from none. Of
a picture with a card, some token comes to point where its colour lies among the embeddings of colours, and so for its
shape and its number; of a picture without, none does.

B samples, K pictures of a sample, S tokens of a picture, D width, W words of a kind.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.clips import Sample
from wanstreamer_jax.data.world import Split
from wanstreamer_jax.data.world.camera import Look, Showing, film, somewhere
from wanstreamer_jax.data.world.lexicon import COLOURS, MAX_SHAPES, NUMBERS, SHAPES, Card, make_card
from wanstreamer_jax.media.picture import write_png
from wanstreamer_jax.model import part
from wanstreamer_jax.stream.world import to_float
from wanstreamer_jax.timeline import Picture
from wanstreamer_jax.training.clips import seed_of
from wanstreamer_jax.training.config import SeeingWeights, Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.sharding import AXES
from wanstreamer_jax.training.stage import Batch, Metrics, Objective, Source, Stage, Trees
from wanstreamer_jax.training.stages.sessions import world_tokenizer
from wanstreamer_jax.training.stages.words import cosines, directions, fresh_head

EYES = "eyes"
_EMPTY = 0.1  # share of pictures without a card


class Told(NamedTuple):
    """Of each kind of word: log-probabilities, or places in `WORDS`, where 0 is none and -1 cannot be told."""

    colours: Array
    shapes: Array
    numbers: Array


WORDS: Mapping[str, tuple[str, ...]] = {"colours": COLOURS, "shapes": SHAPES, "numbers": NUMBERS[:MAX_SHAPES]}


def init(config: Config, weights: SeeingWeights, parts: Trees, key: jax.Array) -> Trees:
    """Sight, and a fresh head for each kind of word; TrainingError when the agent's tokenizer is not known here."""
    del weights, key
    world_tokenizer(config)
    heads = {name: fresh_head(len(words)) for name, words in WORDS.items()}
    return {EYES: {"vision": parts["perception"]["vision"], "heads": heads}}


def objectives(training: Training) -> tuple[Objective, ...]:
    """Telling what is shown, at every step."""
    del training
    return (Objective(EYES, told),)


# ---- The loss


def told(
    config: Config, weights: SeeingWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """The sum of mean cross-entropies of the three kinds, in nats."""
    del weights, key
    return _added_up(_scores(config, trainees, frozen, batch), _shown(batch))


def _added_up(scores: Told, shown: Told) -> tuple[jax.Array, Metrics]:
    terms = jax.tree.map(_nats, scores, shown)._asdict()
    return jnp.stack(list(terms.values())).sum(), terms


def _nats(scores: Float[Array, "B W"], shown: Int[Array, " B"]) -> jax.Array:
    """Mean cross-entropy over pictures in which there is something to be told."""
    nats = -jnp.take_along_axis(scores, jnp.maximum(shown, 0)[:, None], axis=-1)[:, 0]
    return jnp.sum(jnp.where(shown >= 0, nats, 0.0)) / jnp.maximum(jnp.sum(shown >= 0), 1)


def _shown(batch: Batch) -> Told:
    return Told(*(rearrange(batch[name], "B K -> (B K)") for name in Told._fields))


def _scores(config: Config, trainees: Trees, frozen: Trees, batch: Batch) -> Told:
    """Log-probabilities for all pictures."""
    eyes = trainees[EYES]
    vision = part(config, {"perception": {"vision": eyes["vision"]}}, "perception").vision
    tokens = vision(to_float(rearrange(batch["pictures"], "B K H W C -> (B K) 1 H W C")))  # [B K, S, D]
    kinds = WORDS.items()
    return Told(**{name: _pointed_at(tokens, directions(config, frozen, w), eyes["heads"][name]) for name, w in kinds})


def _pointed_at(tokens: Float[Array, "B S D"], words: Float[Array, "W D"], head: dict[str, jax.Array]) -> Array:
    """Nothing, or a word that any of the tokens points at."""
    pointed = jax.nn.logsumexp(head["sharpness"] * cosines(tokens, words), axis=1)  # [B K, W]
    logits = jnp.pad(pointed, ((0, 0), (1, 0))).at[:, 0].set(head["nothing"])
    return jax.nn.log_softmax(logits)


# ---- Looking at it


def measure(
    config: Config, weights: SeeingWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """The loss, and shares of pictures of which each kind, and all of them, are told right."""
    del weights, key
    scores, shown = _scores(config, trainees, frozen, batch), _shown(batch)
    loss, terms = _added_up(scores, shown)
    right = jax.tree.map(lambda s, w: jnp.argmax(s, axis=-1) == w, scores, shown)
    shares = {f"{name}_right": jnp.mean(x) for name, x in right._asdict().items()}
    return {"loss": loss, "cards_right": jnp.mean(jnp.stack(right).all(axis=0))} | terms | shares


def preview(
    config: Config, weights: SeeingWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """The pictures, what they show, and what was likeliest."""
    del weights, key
    seen = jax.tree.map(lambda s: jnp.argmax(s, axis=-1), _scores(config, trainees, frozen, batch))
    sides = {"shown": _shown(batch), "seen": seen}
    names = {f"{side}_{name}": x for side, words in sides.items() for name, x in words._asdict().items()}
    return names | {"pictures": rearrange(batch["pictures"], "B K H W C -> (B K) H W C")}


def draw(shown: Mapping[str, np.ndarray], folder: Path) -> None:
    """`seen.png`, up to eight pictures in a column, and `seen.md`: what each shows, and what was seen in it."""
    n = min(len(shown["pictures"]), 8)
    write_png(folder / "seen.png", np.concatenate(list(shown["pictures"][:n])))
    lines = [f"- {_named(shown, 'shown', i)}: {_named(shown, 'seen', i)}\n" for i in range(n)]
    (folder / "seen.md").write_text("".join(lines), encoding="utf-8")


def _named(shown: Mapping[str, np.ndarray], side: str, i: int) -> str:
    return " ".join(("-", *words)[shown[f"{side}_{kind}"][i]] for kind, words in WORDS.items())


def finish(config: Config, trainees: Trees, measured: Mapping[str, np.ndarray]) -> tuple[Config, Trees]:
    """Sight alone; the heads have done their work."""
    del measured
    return config, {"perception": {"vision": trainees[EYES]["vision"]}}


# ---- Data


@dataclasses.dataclass(frozen=True)
class Cards:
    """Sample i: pictures of cards, most of them held up, before rooms and in lights of their own.

    In training some are grey, and nobody is asked for their colours: by colours alone, each of which is never met with
    one of the shapes, shapes are guessed, and a pair that was never met is not seen.
    """

    picture: Picture
    weights: SeeingWeights
    split: Split
    n_samples: int

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self.n_samples

    def __getitem__(self, index: int) -> Sample:
        """Draw pictures."""
        rng = np.random.default_rng(seed_of(int(index), self.split))
        cards = [self._card(rng) for _ in range(self.weights.pictures)]
        pictures = np.stack([self._draw(rng, card) for card in cards])
        words = np.array([(0, 0, 0) if card is None else places_of(card) for card in cards], np.int32)
        grey = rng.random(len(cards)) < (self.weights.grey if self.split is Split.TRAIN else 0.0)
        pictures[grey] = np.mean(pictures[grey], axis=-1, keepdims=True).astype(np.uint8)
        words[grey, 0] = -1
        return {"pictures": pictures} | dict(zip(Told._fields, words.T, strict=True))

    def _card(self, rng: np.random.Generator) -> Card | None:
        card = make_card(rng, self.split, int(rng.integers(1, MAX_SHAPES + 1)))
        return None if rng.random() < _EMPTY else card

    def _draw(self, rng: np.random.Generator, card: Card | None) -> np.ndarray:
        x, y = somewhere(rng)
        held = () if card is None else (Showing.still(card, x, y),)
        return film(Look.draw(rng), held, self.picture, 1)[0]


def places_of(card: Card) -> tuple[int, int, int]:
    """Places of a card's words in `WORDS`, counted from 1."""
    return COLOURS.index(card.colour) + 1, SHAPES.index(card.shape) + 1, card.count


def source(config: Config, training: Training, heldout: bool, data: Path | None) -> Source:
    """Cards of the synthetic world; TrainingError with recordings, which do not say what they show."""
    if data is not None:
        raise TrainingError("--data: recordings do not say what they show; seeing learns from the synthetic world")
    split = Split.HELDOUT if heldout else Split.TRAIN
    return Cards(config.vision.picture, training.weights, split, training.samples)


def pictures_of_sample(_config: Config, training: Training) -> float:
    """How many pictures a sample has."""
    return training.weights.pictures


stage = Stage(
    name="seeing",
    parts=("perception",),
    init=init,
    frozen=("transformer",),
    objectives=objectives,
    source=source,
    measure=measure,
    preview=preview,
    draw=draw,
    finish=finish,
    batch_axes=AXES,
    unit="pictures",
    units_per_sample=pictures_of_sample,
)
