"""The tiny agent: runs in real time on two CPU cores, and keeps 8 key/value heads so that every placement fits it.

Hardware: a laptop CPU with two cores.
Command:  python serve.py --input user.mp4 --output reply.mp4
Expect:   on two cores about 79 ms a unit of 160 ms with a full window and 4 text tokens (docs/measurements.md);
          30 latent tokens a unit, 42 MB a session.

Training: python train.py configs/tiny.py --stage all --workdir runs/tiny
          hours on two cores, one phase of `recipe` after the other; what each reaches: docs/tiny.md
"""

import dataclasses

from wanstreamer_jax.config import (
    AudioVAEConfig,
    Config,
    FlowConfig,
    HistoryConfig,
    TextConfig,
    TransformerConfig,
    VideoVAEConfig,
    VisionConfig,
    WorldConfig,
)
from wanstreamer_jax.timeline import Picture
from wanstreamer_jax.training.config import (
    AudioVAEWeights,
    DialogueWeights,
    DistillWeights,
    Gate,
    HearingWeights,
    MixtureWeights,
    OptimizerConfig,
    Phase,
    PretrainWeights,
    SeeingWeights,
    SessionWeights,
    Training,
    VideoVAEWeights,
)

config = Config(
    name="tiny",
    picture=Picture(112, 64),
    video_vae=VideoVAEConfig(base=16, res_blocks=1, latent_channels=16),
    audio_vae=AudioVAEConfig(filters=16, width=128, layers=2, heads=4, mlp=256, window=50, latent_channels=32),
    vision=VisionConfig(picture=Picture(128, 64), patch=16, width=128, mlp=256, layers=3, heads=4, frames_per_unit=1),
    hearing=AudioVAEConfig(filters=16, width=128, layers=2, heads=4, mlp=256, window=50, latent_channels=32),
    transformer=TransformerConfig(
        width=256,
        layers=6,
        heads=8,
        kv_heads=8,
        head_size=16,
        mlp=768,
        vocab=1536,
        rope_theta=1e4,  # periods of up to 2,000 positions: the window's 20 s are 2,500
        rope_sections=(4, 2, 2),
        dtype="float32",
    ),
    flow=FlowConfig(solver_steps=2, audio_shift=3.0),  # what is to be said is found near noise
    history=HistoryConfig(n_tokens=5376),
    world=WorldConfig(max_text=128, max_voice=25),
    text=TextConfig(max_user=4, max_agent=4, unit_end=1492),  # bytes, and the words of the synthetic world
)

# Long answers have few questions in them.
_DIALOGUES = DialogueWeights(
    count=1.0, stop=0.5, back_channel=0.6, background=0.6, silence=0.5, typed=1.3, comment=1.3, repeat=1.3
)

training = {
    "video_vae": Training(
        weights=VideoVAEWeights(kl=1e-4, pyramid=1.5, motion=1.0, moving=2.0),
        steps=1600,
        batch=1,  # on so few cores many small steps learn far more than few large ones
        optimizer=OptimizerConfig(learning_rate=1.5e-3),
        ema=0.98,
        gates=(Gate("psnr_db", at_least=29.0), Gate("last_unit_psnr_db", at_least=29.0)),
    ),
    "audio_vae": Training(
        weights=AudioVAEWeights(clips=4, user=False, waveform=4.0),  # in step with the waveform harmonics come first
        steps=5000,
        batch=1,
        optimizer=OptimizerConfig(learning_rate=2e-3, b2=0.99),
        gates=(Gate("snr_db", at_least=8.0), Gate("log_spectral_distance_db", at_most=3.2)),
    ),
    "hearing": Training(
        weights=HearingWeights(),
        steps=3000,
        batch=2,
        optimizer=OptimizerConfig(learning_rate=2e-3, b2=0.99),
        ema=0.99,
        gates=(Gate("phonemes_right", at_least=0.8), Gate("words_right", at_least=0.5)),
    ),
    "seeing": Training(
        weights=SeeingWeights(),
        steps=7500,
        batch=2,
        optimizer=OptimizerConfig(learning_rate=1.5e-3, b2=0.99),
        ema=0.99,
        gates=(Gate("colours_right", at_least=0.95), Gate("shapes_right", at_least=0.85)),
    ),
    "pretrain": Training(
        weights=PretrainWeights(units=32),
        steps=20_000,
        batch=2,
        remat="nothing",  # so small a Transformer has room for what it computed
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=100, b2=0.98, senses=0.0),
        ema=0.999,
        heldout_batches=32,  # a mixture's tasks have shares of a few windows each
        gates=(
            Gate("asr_text", at_most=0.3),
            Gate("tts_audio", at_most=0.6),
            Gate("joint_generation_video", at_most=0.3),
        ),
    ),
    "interact": Training(
        weights=SessionWeights(  # windows of whole sessions, as long as the history is when it is served
            units=124, text=2.0, audio=3.0, history_noise=0.4, dialogues=_DIALOGUES
        ),
        steps=2500,
        batch=2,
        remat="nothing",
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=100, b2=0.98, senses=0.0),
        ema=0.995,
        gates=(Gate("text", at_most=0.15), Gate("audio", at_most=0.3), Gate("video", at_most=0.25)),
    ),
    "distill": Training(
        # Whole sessions of 8 s: a student that begins in the middle of one cannot answer what was asked before.
        weights=DistillWeights(
            units=50, seconds=8.0, audio=3.0, text=2.0, teacher_steps=4, guidance=1.0, match_from=12
        ),
        steps=30,
        batch=2,
        remat="nothing",
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup=4),
        helper=OptimizerConfig(learning_rate=1e-4, warmup=2),
        ema=0.8,
        gates=(Gate("loudness_db_gap", at_most=3.0), Gate("brightness_gap", at_most=0.05)),
    ),
}


def _only(**weights: float) -> tuple[str, ...]:
    """A mixture of these tasks and no others."""
    tasks = [task.name for task in dataclasses.fields(MixtureWeights)]
    return tuple(f"--weights.mixture.{task}={weights.get(task, 0)}" for task in tasks)


# Listening, seeing and answering are learned with a picture of one token, which costs a quarter of the full one. What
# is seen and heard is bound to words in short bursts of nothing else, and so are words to how they are said. Then the
# agent learns to draw, and a student to need few steps.
_SMALL = (
    "--agent.picture.width=16",
    "--agent.picture.height=16",
    "--agent.world.max_text=24",  # what the persona of the synthetic world takes
    "--agent.world.max_voice=10",
)
_BOUND = ("--weights.audio=0", "--weights.video=0", "--optimizer.warmup=50", "--optimizer.senses=0")
_FILM = (  # where it moves: a small part of a picture, which a whole one hides
    "--weights.crop=2",
    "--weights.moving=3",
    "--steps=3000",
    "--gates=[]",
)
_CAPTIONS = (
    "--weights.units=4",
    "--batch=16",
    "--steps=600",
    "--ema=0.99",
    '--gates=[{"measure": "image_captioning_text", "at_most": 0.4}]',
)
_WORDS = (
    "--weights.units=18",
    "--batch=6",
    "--steps=1000",
    "--ema=0.99",
    '--gates=[{"measure": "asr_text", "at_most": 1.3}]',
)
_SPEECH = (  # what is typed is said: sound in three of four units, where a session has it in one
    "--weights.units=20",
    "--weights.copies=2",
    "--weights.audio=4",
    "--weights.video=0",
    "--batch=4",
    "--steps=2000",
    "--optimizer.learning_rate=1.5e-3",
    "--ema=0.99",
    '--gates=[{"measure": "joint_generation_audio", "at_most": 0.08}]',
)
_QUESTIONS = (  # what is asked, above all numbers, bound to what is answered: more in 6 s than a session has in 20
    "--weights.units=36",
    "--weights.text=4",
    "--weights.audio=1",
    "--weights.video=0",
    "--batch=8",
    "--steps=500",
    "--optimizer.learning_rate=1.2e-3",
    "--ema=0.98",
    '--gates=[{"measure": "spoken_dialogue_text", "at_most": 0.05}]',
)
_ANSWERS = (
    "--weights.copies=2",
    "--weights.video=0",
    "--steps=2500",
    '--gates=[{"measure": "text", "at_most": 0.1}, {"measure": "audio", "at_most": 0.04}]',
)
_VOICE = (  # the decoder alone, on latents as inexact as an agent's, and few numbers: half of what is said are counts
    "--weights.encoder=false",
    "--weights.noise=0.2",
    *(f"--weights.dialogues.{name}=0.1" for name in ("count", "stop", "back_channel", "background")),
    "--weights.dialogues.repeat=4",
    "--weights.dialogues.comment=2",
    "--steps=6000",
    "--optimizer.learning_rate=1e-3",
    "--ema=0.99",
    '--gates=[{"measure": "snr_db", "at_least": 11}, {"measure": "log_spectral_distance_db", "at_most": 2.2}]',
)
_LARGE = ("--agent.picture.width=112", "--agent.picture.height=64", "--weights.motion=3")

recipe = (
    Phase("film", "video_vae", _FILM),
    Phase("pictures", "video_vae"),
    Phase("audio_vae", "audio_vae"),
    Phase("voice", "audio_vae", _VOICE),
    Phase("hearing", "hearing"),
    Phase("seeing", "seeing"),
    Phase("captions", "pretrain", (*_SMALL, *_BOUND, *_only(image_captioning=1), *_CAPTIONS)),
    Phase("words", "pretrain", (*_BOUND, *_only(asr=4, dialogue=1, image_captioning=1), *_WORDS)),
    Phase("speech", "pretrain", (*_only(joint_generation=1), *_SPEECH)),
    Phase("questions", "pretrain", (*_only(spoken_dialogue=1), *_QUESTIONS)),
    Phase("answers", "interact", _ANSWERS),
    Phase("faces", "interact", _LARGE),
    Phase("distill", "distill"),
)
