"""Wan-Streamer v0.1: a picture of 336x192, 252 video tokens a unit, over any of four sizes of Qwen3.

Hardware: one 80 GB device for everything (`--placement unified`), or one for the thinker and one for the performer
          (`split`). The weights take 1.2, 3.4, 8.0 or 16.4 GB in bfloat16, the history 10.7 GiB (14 GiB from 4b on).
Command:  python serve.py --input user.mp4 --output reply.mp4 --agent DIR, with an agent of this preset.
          python train.py configs/v01_192p.py --stage interact --data DIR --agent DIR --workdir DIR  (docs/pods.md)
Expect:   254 latent tokens a unit. On an H200 (bfloat16), with 100,000 tokens of history and 4 solver steps, 1.7b
          needs at least 26 ms a unit for the performer and 17 ms for the thinker; 49 and 30 ms by engineering estimate.
"""

from wanstreamer_jax.config import AudioVAEConfig, Config, HistoryConfig, VisionConfig
from wanstreamer_jax.presets import POD_TRAINING, QWEN3, WAN_VAE
from wanstreamer_jax.timeline import Picture


def make(model: str) -> Config:
    """The preset over a Transformer of the size of Qwen3 "0.6b", "1.7b", "4b" or "8b"."""
    return Config(
        name=f"v01_192p-{model}",
        picture=Picture(336, 192),
        video_vae=WAN_VAE,
        audio_vae=AudioVAEConfig(),
        vision=VisionConfig(),
        hearing=AudioVAEConfig(),
        transformer=QWEN3[model],
        history=HistoryConfig(n_tokens=100_000),
    )


config = make(model="1.7b")
training = POD_TRAINING
