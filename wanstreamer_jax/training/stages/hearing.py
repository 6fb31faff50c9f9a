"""Ears that know speech: phonemes by a linear head that is not kept, and words in the Transformer's own language.

Perception comes from public checkpoints where there are any. For an agent without them this stage is what such a
checkpoint has learned: a Transformer that has to learn at once what is said and what to make of it does neither for a
long time. A token in which a word is told comes to lie where that word lies among the embeddings of text, so that what
was learned of words that are read holds for words that are heard.

    tokens, 80 ms   |     k - 1     |       k       |        each tells four slots of 20 ms, two of them its own:
    slots, 20 ms      .   .   a   b   c   d   .   .         a sound is told when 40 ms more have been heard
    words               w ends here      w is told           a word in the token after the one in which it ends

B samples, K clips of a sample, n samples of sound, T tokens, D width, P phonemes, W words.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Int32

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.clips import Sample
from wanstreamer_jax.data.tasks.sentences import make_sentence
from wanstreamer_jax.data.tasks.sounds import in_room
from wanstreamer_jax.data.world import Split
from wanstreamer_jax.data.world.lexicon import FAR_TALK, make_voice
from wanstreamer_jax.data.world.phonemes import PHONEMES, SLOT, phoneme_track
from wanstreamer_jax.data.world.script import Line, Who
from wanstreamer_jax.data.world.sound import Room
from wanstreamer_jax.model import part
from wanstreamer_jax.timeline import AUDIO_LATENT_MS, SAMPLE_RATE_HZ, SAMPLES_PER_AUDIO_LATENT
from wanstreamer_jax.tokens import world_words
from wanstreamer_jax.training.clips import seconds_of_sound, seed_of
from wanstreamer_jax.training.config import HearingWeights, Training
from wanstreamer_jax.training.errors import TrainingError
from wanstreamer_jax.training.sharding import AXES
from wanstreamer_jax.training.stage import Batch, Metrics, Objective, Source, Stage, Trees
from wanstreamer_jax.training.stages.sessions import world_tokenizer
from wanstreamer_jax.training.stages.words import cosines, directions, fresh_head

EARS = "ears"
SLOTS_PER_TOKEN = SAMPLES_PER_AUDIO_LATENT // SLOT
LATE = 2  # slots between the end of a token and the end of what it tells
_FAR = 0.3  # share of clips with somebody else in the background


def init(config: Config, weights: HearingWeights, parts: Trees, key: jax.Array) -> Trees:
    """Hearing, from where the audio VAE's encoder is if that is asked for, and fresh heads.

    Raises:
        TrainingError: the two encoders are of other sizes, or the agent's tokenizer is not known here.
    """
    world_tokenizer(config)
    hearing = parts["perception"]["hearing"]
    if weights.of_voice and config.hearing != config.audio_vae:
        raise TrainingError("weights.of_voice: the encoders of hearing and of the audio VAE are of other sizes")
    if weights.of_voice:
        hearing = hearing | {"trunk": parts["audio_vae"]["encoder"]["trunk"]}
    width, n_outputs = config.transformer.width, SLOTS_PER_TOKEN * len(PHONEMES)
    phonemes = {"kernel": width**-0.5 * jax.random.normal(key, (width, n_outputs)), "bias": jnp.zeros(n_outputs)}
    return {EARS: {"hearing": hearing, "phonemes": phonemes, "words": fresh_head(len(vocabulary()) - 1)}}


def objectives(training: Training) -> tuple[Objective, ...]:
    """Telling what is said, at every step."""
    del training
    return (Objective(EARS, told),)


# ---- The loss


class Told(NamedTuple):
    """Log-probabilities, or what was said: the phonemes of all slots, and the words of all tokens."""

    phonemes: Array
    words: Array


def told(
    config: Config, weights: HearingWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Mean cross-entropy of slots and of tokens, in nats."""
    del weights, key
    terms = jax.tree.map(_nats, _scores(config, trainees, frozen, batch), _said(batch))
    return terms.phonemes + terms.words, terms._asdict()


def _nats(scores: Float[Array, "B T P"], said: Int[Array, "B T"]) -> jax.Array:
    return -jnp.mean(jnp.take_along_axis(scores, said[..., None], axis=-1))


def _said(batch: Batch) -> Told:
    return Told(*(rearrange(batch[name], "B K T -> (B K) T") for name in Told._fields))


def _scores(config: Config, trainees: Trees, frozen: Trees, batch: Batch) -> Told:
    """Log-probabilities for all clips."""
    clips, ears = rearrange(batch["clips"], "B K n -> (B K) n"), trainees[EARS]
    tokens = part(config, {"perception": {"hearing": ears["hearing"]}}, "perception").hearing(clips)  # [B K, T, D]
    tokens = tokens.astype(jnp.float32)
    logits = tokens @ ears["phonemes"]["kernel"] + ears["phonemes"]["bias"]
    alike = cosines(tokens, directions(config, frozen, vocabulary()[1:]))  # [B K, T, W - 1]
    words = ears["words"]["sharpness"] * jnp.pad(alike, ((0, 0), (0, 0), (1, 0)))
    words = words.at[..., 0].set(ears["words"]["nothing"])
    phonemes = rearrange(logits, "B T (s P) -> B (T s) P", s=SLOTS_PER_TOKEN)
    return jax.tree.map(jax.nn.log_softmax, Told(phonemes, words))


# ---- Looking at it


def measure(
    config: Config, weights: HearingWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """The loss; the share of slots in which somebody speaks, and of words, that are told right; words out of nothing.

    `words_surplus` are tokens with a word where none ends, by the number of words.
    """
    del weights, key
    scores, said = _scores(config, trainees, frozen, batch), _said(batch)
    terms, likeliest = jax.tree.map(_nats, scores, said), jax.tree.map(_likeliest, scores)
    right = jax.tree.map(lambda a, b: jnp.sum((a == b) & (b > 0)) / jnp.maximum(jnp.sum(b > 0), 1), likeliest, said)
    surplus = jnp.sum((likeliest.words > 0) & (said.words == 0)) / jnp.maximum(jnp.sum(said.words > 0), 1)
    shares = {"phonemes_right": right.phonemes, "words_right": right.words, "words_surplus": surplus}
    return {"loss": terms.phonemes + terms.words} | terms._asdict() | shares


def _likeliest(scores: Float[Array, "B T P"]) -> Int[Array, "B T"]:
    return jnp.argmax(scores, axis=-1)


def preview(
    config: Config, weights: HearingWeights, trainees: Trees, frozen: Trees, batch: Batch, key: jax.Array
) -> Metrics:
    """What was said, and what was likeliest."""
    del weights, key
    heard = jax.tree.map(_likeliest, _scores(config, trainees, frozen, batch))
    return {f"said_{name}": x for name, x in _said(batch)._asdict().items()} | {
        f"heard_{name}": x for name, x in heard._asdict().items()
    }


def draw(shown: Mapping[str, np.ndarray], folder: Path) -> None:
    """`heard.md`: for each clip the words and phonemes that were said, and those that were heard."""
    lines = []
    for clip in range(len(shown["said_words"])):
        for name in ("said", "heard"):
            words = " ".join(vocabulary()[i] for i in shown[f"{name}_words"][clip] if i)
            lines.append(f"- {name}: {words} `{_in_turn(shown[f'{name}_phonemes'][clip])}`")
    (folder / "heard.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _in_turn(track: np.ndarray) -> str:
    """Phonemes one after the other, each once."""
    changes = np.flatnonzero(np.diff(track, prepend=-1))
    return " ".join(PHONEMES[i] for i in track[changes])


def finish(config: Config, trainees: Trees, measured: Mapping[str, np.ndarray]) -> tuple[Config, Trees]:
    """Hearing alone; the heads have done their work."""
    del measured
    return config, {"perception": {"hearing": trainees[EARS]["hearing"]}}


# ---- Data


@dataclasses.dataclass(frozen=True)
class Talk:
    """Sample i: clips of somebody who says one sentence after the other, and what is said."""

    weights: HearingWeights
    split: Split
    n_samples: int

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self.n_samples

    def __getitem__(self, index: int) -> Sample:
        """Make clips."""
        rng = np.random.default_rng(seed_of(int(index), self.split))
        clips = [self._clip(rng) for _ in range(self.weights.clips)]
        return {name: np.stack([clip[name] for clip in clips]) for name in ("clips", *Told._fields)}

    def _clip(self, rng: np.random.Generator) -> Sample:
        n_samples = self.weights.latents * SAMPLES_PER_AUDIO_LATENT
        lines = _lines(rng, self.split, n_samples * 1000 // SAMPLE_RATE_HZ)
        mine = [line for line in lines if line.who is Who.USER]
        ends = [(word.end_ms, word.text) for line in mine for word in line.words]
        track = phoneme_track([p for line in mine for p in line.phonemes], n_samples // SLOT)
        return {
            "clips": in_room(Room.draw(rng), lines, n_samples),
            "phonemes": np.concatenate([np.zeros(LATE, np.int32), track[:-LATE]]),
            "words": _word_track(ends, self.weights.latents),
        }


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """No word, and the words of the synthetic world without their punctuation, which nobody hears."""
    return ("", *sorted({_plain(word) for word in world_words()}))


def _plain(word: str) -> str:
    return word.strip(".,;:!?'").lower()


def _word_track(ends: list[tuple[int, str]], n_tokens: int) -> Int32[np.ndarray, " T"]:
    """The place in `vocabulary` of the word that each token tells, from the ms at which words end."""
    track = np.zeros(n_tokens, np.int32)
    for end_ms, text in ends:
        token = end_ms // AUDIO_LATENT_MS + 1
        if token < n_tokens and _plain(text) in vocabulary():
            track[token] = vocabulary().index(_plain(text))
    return track


def _lines(rng: np.random.Generator, split: Split, clip_ms: int) -> tuple[Line, ...]:
    """One user's sentences until the clip is full, and sometimes somebody far away."""
    voice, now_ms = make_voice(rng, split), int(rng.integers(0, 600))
    lines = []
    while now_ms < clip_ms:
        line = Line.whole(Who.USER, make_sentence(rng, split), now_ms, voice)
        lines.append(line)
        now_ms = line.end_ms + int(rng.integers(100, 700))
    if rng.random() < _FAR:
        far = FAR_TALK.pick(rng, split), int(rng.integers(clip_ms)), make_voice(rng, split)
        lines.append(Line.whole(Who.BACKGROUND, *far))
    return tuple(lines)


def source(config: Config, training: Training, heldout: bool, data: Path | None) -> Source:
    """Talk of the synthetic world; TrainingError with recordings, whose phonemes nobody knows."""
    del config
    if data is not None:
        raise TrainingError("--data: recordings do not tell phonemes; hearing learns from the synthetic world")
    return Talk(training.weights, Split.HELDOUT if heldout else Split.TRAIN, training.samples)


stage = Stage(
    name="hearing",
    parts=("perception",),
    init=init,
    frozen=("audio_vae", "transformer"),
    objectives=objectives,
    source=source,
    measure=measure,
    preview=preview,
    draw=draw,
    finish=finish,
    batch_axes=AXES,
    unit="s of sound",
    units_per_sample=seconds_of_sound,
)
