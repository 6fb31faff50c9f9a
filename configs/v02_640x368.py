"""Wan-Streamer v0.2: a picture of 640x368, 920 video tokens a unit, over any of four sizes of Qwen3.

Hardware: one 80 GB device for the thinker and 1, 2, 4 or 8 ranks for the performer (`--placement ulysses`). The
          weights take 1.2, 3.4, 8.0 or 16.4 GB in bfloat16, the history 10.7 GiB (14 GiB from 4b on).
Command:  python serve.py --input user.mp4 --output reply.mp4 --agent DIR, with an agent of this preset.
          python train.py configs/v02_640x368.py --stage interact --data DIR --agent DIR --workdir DIR  (docs/pods.md)
Expect:   922 latent tokens a unit. On H200s (bfloat16), with 100,000 tokens of history and 4 solver steps, 1.7b needs
          at least 97 ms a unit on one rank and 13 ms on eight; 184 and 28 ms by engineering estimate.
"""

from wanstreamer_jax.config import AudioVAEConfig, Config, HistoryConfig, VisionConfig
from wanstreamer_jax.presets import POD_TRAINING, QWEN3, WAN_VAE
from wanstreamer_jax.timeline import Picture


def make(model: str) -> Config:
    """The preset over a Transformer of the size of Qwen3 "0.6b", "1.7b", "4b" or "8b"."""
    return Config(
        name=f"v02_640x368-{model}",
        picture=Picture(640, 368),
        video_vae=WAN_VAE,
        audio_vae=AudioVAEConfig(),
        vision=VisionConfig(),
        hearing=AudioVAEConfig(),
        transformer=QWEN3[model],
        history=HistoryConfig(n_tokens=100_000),
    )


config = make(model="1.7b")
training = POD_TRAINING
