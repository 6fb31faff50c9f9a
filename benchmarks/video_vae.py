"""One live unit through the video VAE: ours against diffusers' AutoencoderKLWan, with the same weights, side by side.

    python benchmarks/video_vae.py [--published] [--seconds 20]

Both sides start from the state after a portrait and one unit, and run one unit of batch 1: decode one latent to 4
frames, encode 4 frames to one latent. They take turns in one process; the table shows medians in milliseconds.
Hardware: whatever it runs on, named in the first line; diffusers runs on CPU with torch's default threads. For a fair
table the machine must be idle otherwise.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from flax import nnx
from machine import machine

from wanstreamer_jax.config import VideoVAEConfig
from wanstreamer_jax.convert.wan_vae import from_diffusers
from wanstreamer_jax.presets import load_preset
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, VIDEO_LATENTS_PER_UNIT, Picture
from wanstreamer_jax.vae.video import VideoVAE

Run = Callable[[], None]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", action="store_true", help="also the published size, 127 M parameters")
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time of each row, in seconds")
    args = parser.parse_args()
    tiny = load_preset("tiny")
    sizes = {"tiny": tiny.video_vae, "base 32": VideoVAEConfig(base=32)}
    if args.published:
        sizes["published"] = VideoVAEConfig()
    print(f"{machine()}; jax {jax.__version__} on {jax.default_backend()}, torch {torch.__version__}; {tiny.picture}")
    print(f"{'size':10} {'unit':8} {'ours ms':>9} {'diffusers ms':>13} {'ratio':>6}")
    for name, cfg in sizes.items():
        reference = random_reference(cfg)
        for part in ("decoder", "encoder"):
            unit = random_unit(cfg, tiny.picture, part)
            runs = ours(reference, cfg, tiny.picture, unit, part), diffusers_(reference, unit, part)
            mine, theirs = alternate(runs, args.seconds)
            print(f"{name:10} {part:8} {mine:9.1f} {theirs:13.1f} {theirs / mine:6.2f}", flush=True)


def random_reference(cfg: VideoVAEConfig) -> AutoencoderKLWan:
    """Diffusers' VAE of the same sizes, with random weights."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=cfg.base,
        z_dim=cfg.latent_channels,
        dim_mult=list(cfg.multipliers),
        num_res_blocks=cfg.res_blocks,
        temperal_downsample=list(cfg.temporal_downsample),
    )
    return vae.eval().requires_grad_(requires_grad=False)


def random_unit(cfg: VideoVAEConfig, picture: Picture, part: str) -> np.ndarray:
    """What one unit reads, channels last."""
    shape = (1, FRAMES_PER_UNIT, picture.height, picture.width, 3)
    if part == "decoder":
        shape = (1, VIDEO_LATENTS_PER_UNIT, *picture.latent_grid, cfg.latent_channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def ours(reference: AutoencoderKLWan, cfg: VideoVAEConfig, picture: Picture, unit: np.ndarray, part: str) -> Run:
    """Our step, jitted with its state donated."""
    weights = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    params = jax.tree.map(jnp.asarray, from_diffusers(weights, cfg, picture))
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: VideoVAE(cfg, picture, rngs=nnx.Rngs(0))))

    def step_unit(params: Any, unit: jax.Array, state: Any) -> Any:
        return getattr(nnx.merge(graphdef, params), part).step(unit, state)

    step = jax.jit(step_unit, donate_argnums=2)
    state = getattr(nnx.merge(graphdef, params), part).init_state(1)

    def run() -> None:
        nonlocal state
        y, state = step(params, jnp.asarray(unit), state)
        jax.block_until_ready((y, state))

    return run


def diffusers_(reference: AutoencoderKLWan, unit: np.ndarray, part: str) -> Run:
    """The same work with diffusers' own feature cache, filled by a portrait and a unit."""
    network = getattr(reference, part)
    cache = [None] * sum(isinstance(m, torch.nn.Conv3d) for m in network.modules())
    x = torch.tensor(np.moveaxis(unit, -1, 1)).contiguous()

    def run(x: torch.Tensor = x) -> None:
        if part == "decoder":
            network(reference.post_quant_conv(x), feat_cache=cache, feat_idx=[0])
        else:
            reference.quant_conv(network(x, feat_cache=cache, feat_idx=[0]))

    run(x[:, :, :1])
    return run


def alternate(runs: tuple[Run, ...], seconds: float) -> list[float]:
    """Median milliseconds of each run, taking turns until the time is over; the first two turns do not count."""
    times: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + seconds
    n_turns = 0
    while time.perf_counter() < end or n_turns < 5:
        for run, measured in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            measured.append(1000 * (time.perf_counter() - start))
        n_turns += 1
    return [statistics.median(measured[2:]) for measured in times]


if __name__ == "__main__":
    main()
