"""The tiny agent: runs in real time on two CPU cores, and keeps 8 key/value heads so that every placement fits it.

Hardware: a laptop CPU with two cores.
Command:  python serve.py --input user.mp4 --output reply.mp4
Expect:   on two cores about 79 ms a unit of 160 ms with a full window and 4 text tokens (docs/measurements.md);
          30 latent tokens a unit, 42 MB a session.
"""

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
    DistillWeights,
    Gate,
    HearingWeights,
    OptimizerConfig,
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
    flow=FlowConfig(solver_steps=2),
    history=HistoryConfig(n_tokens=5376),
    world=WorldConfig(max_text=128, max_voice=25),
    text=TextConfig(max_user=4, max_agent=4, unit_end=1492),  # bytes, and the words of the synthetic world
)

training = {
    "video_vae": Training(
        weights=VideoVAEWeights(kl=3e-4),
        steps=1600,
        batch=1,  # on so few cores many small steps learn far more than few large ones
        optimizer=OptimizerConfig(learning_rate=1.5e-3),
        gates=(Gate("psnr_db", at_least=30.0), Gate("last_unit_psnr_db", at_least=30.0)),
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
        steps=3000,
        batch=2,
        optimizer=OptimizerConfig(learning_rate=1e-3, b2=0.99),
        ema=0.99,
        gates=(Gate("colours_right", at_least=0.95), Gate("shapes_right", at_least=0.9)),
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
        weights=SessionWeights(units=32),
        steps=20_000,
        batch=2,
        remat="nothing",
        optimizer=OptimizerConfig(learning_rate=6e-4, warmup=500, senses=0.1),
        ema=0.999,
        gates=(Gate("text", at_most=0.1), Gate("audio", at_most=0.6), Gate("video", at_most=0.3)),
    ),
    "distill": Training(
        weights=DistillWeights(units=16),
        steps=2000,
        batch=2,
        remat="nothing",
        optimizer=OptimizerConfig(learning_rate=1e-4),
        helper=OptimizerConfig(learning_rate=1e-4),
        ema=0.99,
        gates=(Gate("loudness_db_gap", at_most=3.0), Gate("brightness_gap", at_most=0.05)),
    ),
}
