"""Sizes of the public models, and the way to a preset in `configs/`."""

import difflib
import runpy
from pathlib import Path
from typing import Any

from wanstreamer_jax.config import Config, TransformerConfig, VideoVAEConfig
from wanstreamer_jax.training.config import (
    AudioVAEWeights,
    DistillWeights,
    Gate,
    OptimizerConfig,
    Phase,
    PretrainWeights,
    SessionWeights,
    Training,
    VideoVAEWeights,
)

PRESETS = Path(__file__).parents[1] / "configs"

# Qwen3's dense models (arXiv 2505.09388, table 1), as published.
QWEN3 = {
    "0.6b": TransformerConfig(width=1024, layers=28, heads=16, mlp=3072),
    "1.7b": TransformerConfig(width=2048, layers=28, heads=16, mlp=6144),
    "4b": TransformerConfig(width=2560, layers=36, heads=32, mlp=9728),
    "8b": TransformerConfig(width=4096, layers=36, heads=32, mlp=12_288, tied=False),
}

# Mean and deviation of Wan2.1-VAE's latents, per channel, as published with diffusers' AutoencoderKLWan.
# fmt: off
WAN_VAE = VideoVAEConfig(
    latent_mean=(
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    ),
    latent_std=(
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    ),
)
# fmt: on

# Where a training on a pod may begin, for any of the sizes above. Nobody has been to the end of it: the published
# report names neither rates nor batches. With Wan2.1-VAE and Mimi from their checkpoints, both VAEs may be left alone.
POD_TRAINING = {
    "video_vae": Training(
        weights=VideoVAEWeights(kl=3e-6, adversarial=0.05, adversarial_from=20_000),
        steps=100_000,
        batch=64,
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup=1000),
        ema=0.999,
        gates=(Gate("psnr_db", at_least=32.0), Gate("last_unit_psnr_db", at_least=31.0)),
    ),
    "audio_vae": Training(
        weights=AudioVAEWeights(latents=25, clips=1, waveform=4.0),
        steps=200_000,
        batch=64,
        optimizer=OptimizerConfig(learning_rate=3e-4, b2=0.99, warmup=1000),
        ema=0.999,
        gates=(Gate("snr_db", at_least=8.0), Gate("log_spectral_distance_db", at_most=3.2)),
    ),
    "pretrain": Training(
        weights=PretrainWeights(units=64),
        steps=100_000,
        batch=256,
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup=2000),
        compute="bfloat16",
        ema=0.9999,
        gates=(Gate("asr_text", at_most=0.3), Gate("tts_audio", at_most=0.6)),
    ),
    "interact": Training(
        weights=SessionWeights(units=125),
        steps=50_000,
        batch=128,
        optimizer=OptimizerConfig(learning_rate=5e-5, warmup=1000),
        compute="bfloat16",
        ema=0.9999,
        gates=(Gate("text", at_most=0.1), Gate("audio", at_most=0.6), Gate("video", at_most=0.3)),
    ),
    "distill": Training(
        weights=DistillWeights(units=32, match_from=2000),
        steps=12_000,
        batch=128,
        optimizer=OptimizerConfig(learning_rate=5e-6, warmup=100),
        helper=OptimizerConfig(learning_rate=5e-6, warmup=100),
        compute="bfloat16",
        ema=0.999,
        gates=(Gate("loudness_db_gap", at_most=3.0), Gate("brightness_gap", at_most=0.05)),
    ),
}


def load_preset(name: str) -> Config:
    """Return the `config` of a preset: "tiny", or the path of a Python file that defines one, which is run.

    Raises ValueError when there is no such preset, with the nearest one that there is.
    """
    path, defined = _run(name)
    match defined.get("config"):
        case Config() as config:
            return config
    raise ValueError(f"{path}: no preset, because it defines no `config` of type Config")


def load_training(name: str) -> dict[str, Training]:
    """Return the `training` of a preset: settings by stage. Raises ValueError when there is none."""
    path, defined = _run(name)
    match defined.get("training"):
        case dict() as training:
            return training
    raise ValueError(f"{path}: cannot be trained, because it defines no `training`, a dict of settings by stage")


def load_recipe(name: str) -> tuple[Phase, ...]:
    """Return the `recipe` of a preset, by default each of its stages once. Raises ValueError when it has none."""
    recipe = _run(name)[1].get("recipe")
    return tuple(Phase(stage, stage) for stage in load_training(name)) if recipe is None else recipe


def _run(name: str) -> tuple[Path, dict[str, Any]]:
    """The file of a preset, and what it defines."""
    path = Path(name) if name.endswith(".py") else PRESETS / f"{name}.py"
    if not path.is_file():
        raise ValueError(f"no preset {name!r}: {_what_there_is(name)}")
    return path, runpy.run_path(str(path))


def preset_names() -> list[str]:
    """Names of the presets in `configs/`; none when the package is installed without the repository."""
    return sorted(path.stem for path in PRESETS.glob("[!_]*.py"))


def _what_there_is(name: str) -> str:
    names = preset_names()
    if not names:
        return f"there is no {PRESETS}; work in a clone of the repository, or give the path of a preset file"
    near = difflib.get_close_matches(Path(name).stem, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
