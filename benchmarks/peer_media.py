"""The video VAE, the audio VAE and the vision tower: a unit or a frame, ours and diffusers' or Transformers'."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKLWan
from flax import nnx
from peer_match import TINY, Match, Run, normal, on_device, published_tensors

from wanstreamer_jax.config import AudioVAEConfig, VideoVAEConfig, VisionConfig
from wanstreamer_jax.convert.mimi import audio_vae_from_mimi
from wanstreamer_jax.convert.siglip2 import vision_from_siglip2
from wanstreamer_jax.convert.wan_vae import from_diffusers
from wanstreamer_jax.model import Params
from wanstreamer_jax.perception import Vision
from wanstreamer_jax.timeline import AUDIO_LATENTS_PER_UNIT, FRAMES_PER_UNIT, SAMPLES_PER_UNIT
from wanstreamer_jax.vae.audio import AudioVAE
from wanstreamer_jax.vae.video import VideoVAE

MIMI_FRAMES_PER_UNIT = 2 * AUDIO_LATENTS_PER_UNIT  # what its windows count


def wan() -> Iterator[Match]:
    """The video VAE."""
    sizes = {"tiny": TINY.video_vae, "base 32": VideoVAEConfig(base=32), "published": VideoVAEConfig()}
    for size, cfg in sizes.items():
        model = _wan_model(cfg)
        tensors = {name: x.numpy() for name, x in model.state_dict().items()}
        params = on_device(from_diffusers(tensors, cfg, TINY.picture))
        pick = _merged(functools.partial(VideoVAE, cfg, TINY.picture))
        latent = normal(1, 1, *TINY.picture.latent_grid, cfg.latent_channels)
        frames = normal(1, FRAMES_PER_UNIT, TINY.picture.height, TINY.picture.width, 3)
        for work, x in (("decode", latent), ("encode", frames)):
            part = f"{work}r"
            ours = _stream(
                lambda params, pick=pick, part=part: getattr(pick(params), part), params, x, portrait=x[:, :1]
            )
            yield Match(size, work, ours, _wan_stream(model, part, x), aim=2)


def _wan_model(cfg: VideoVAEConfig) -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=cfg.base,
        z_dim=cfg.latent_channels,
        dim_mult=list(cfg.multipliers),
        num_res_blocks=cfg.res_blocks,
        temperal_downsample=list(cfg.temporal_downsample),
    ).eval()


def _wan_stream(model: AutoencoderKLWan, part: str, unit: np.ndarray) -> Run:
    """Diffusers' decoder or encoder with its own cache, after a portrait."""
    network = getattr(model, part)
    cache = [None] * sum(isinstance(m, torch.nn.Conv3d) for m in network.modules())
    x = torch.tensor(np.moveaxis(unit, -1, 1)).contiguous()

    def run(x: torch.Tensor = x) -> np.ndarray:
        if part == "decoder":
            y = network(model.post_quant_conv(x), feat_cache=cache, feat_idx=[0]).clamp(-1, 1)
        else:
            y = model.quant_conv(network(x, feat_cache=cache, feat_idx=[0])).chunk(2, dim=1)[0]
        return np.moveaxis(y.numpy(), 1, -1)

    with torch.inference_mode():
        run(x[:, :, :1])
    return run


def mimi() -> Iterator[Match]:
    """The audio VAE, its bottleneck as wide as Mimi."""
    for size, preset in {"tiny": TINY.audio_vae, "published": AudioVAEConfig()}.items():
        cfg = dataclasses.replace(preset, latent_channels=preset.width)
        model = _mimi_model(cfg)
        params = on_device(audio_vae_from_mimi(published_tensors(model), cfg, seed=0))
        model.quantizer.encode = lambda latents, _: latents.transpose(0, 1)
        model.quantizer.decode = lambda latents: latents
        pick = _merged(functools.partial(AudioVAE, cfg))
        n_warm_turns = cfg.window // MIMI_FRAMES_PER_UNIT + 1
        samples, latents = normal(1, SAMPLES_PER_UNIT), normal(1, AUDIO_LATENTS_PER_UNIT, cfg.width)
        ours = _stream(lambda params, pick=pick: pick(params).encoder.trunk, params, samples)
        yield Match(size, "encode", ours, _mimi_encoder(model, samples), 1.5, n_warm_turns)
        ours = _stream(lambda params, pick=pick: pick(params).decoder, params, latents)
        yield Match(size, "decode", ours, _mimi_decoder(model, latents), 1.5, n_warm_turns)


def _mimi_model(cfg: AudioVAEConfig) -> transformers.MimiModel:
    torch.manual_seed(0)
    config = transformers.MimiConfig(
        hidden_size=cfg.width,
        num_filters=cfg.filters,
        num_residual_layers=cfg.residual_layers,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        num_key_value_heads=cfg.heads,
        head_dim=cfg.width // cfg.heads,
        intermediate_size=cfg.mlp,
        sliding_window=cfg.window,
        upsample_groups=cfg.width,
    )
    return transformers.MimiModel(config).eval()


def _mimi_encoder(model: transformers.MimiModel, unit: np.ndarray) -> Run:
    x, caches = torch.tensor(unit)[:, None], {}

    def run() -> np.ndarray:
        out = model.encode(x, use_streaming=True, **caches)
        caches.update(encoder_past_key_values=out.encoder_past_key_values, padding_cache=out.padding_cache)
        return out.audio_codes.swapaxes(1, 2).numpy()

    return run


def _mimi_decoder(model: transformers.MimiModel, unit: np.ndarray) -> Run:
    z, caches = torch.tensor(unit).swapaxes(1, 2), {}

    def run() -> np.ndarray:
        out = model.decode(z, use_cache=True, **caches)
        caches.update(decoder_past_key_values=out.decoder_past_key_values)
        return out.audio_values[:, 0].numpy()

    return run


def siglip2() -> Iterator[Match]:
    """The vision tower."""
    cfg = VisionConfig()
    torch.manual_seed(0)
    config = transformers.SiglipVisionConfig(
        hidden_size=cfg.width,
        intermediate_size=cfg.mlp,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        image_size=cfg.picture.width,
        patch_size=cfg.patch,
    )
    config.vision_use_head = False  # pooling is not used
    model = transformers.SiglipVisionModel(config).eval()
    params = on_device(vision_from_siglip2(published_tensors(model), cfg, TINY.transformer.width, seed=0)["tower"])
    frame = normal(1, cfg.picture.height, cfg.picture.width, 3)
    pick = _merged(lambda *, rngs: Vision(cfg, TINY.transformer.width, rngs=rngs).tower)
    see = jax.jit(lambda params, x: pick(params)(x))
    pixels = torch.tensor(np.moveaxis(frame, -1, 1)).contiguous()

    def theirs() -> np.ndarray:
        return model(pixel_values=pixels).last_hidden_state.numpy()

    yield Match("base, 86 M", "one frame", lambda: np.asarray(see(params, frame)), theirs, aim=1)


def _stream(pick: Callable[[Params], Any], params: Params, unit: np.ndarray, portrait: np.ndarray | None = None) -> Run:
    """Our part's step, jitted, its state donated; after a portrait where there is one."""
    state = pick(params).init_state(1)
    if portrait is not None:
        _, state = jax.jit(lambda params, x, state: pick(params).first(x, state))(params, portrait, state)
    step = jax.jit(lambda params, x, state: pick(params).step(x, state), donate_argnums=2)

    def run() -> np.ndarray:
        nonlocal state
        y, state = jax.block_until_ready(step(params, unit, state))
        return np.asarray(jax.tree.leaves(y)[0])

    return run


def _merged(make: Callable[..., nnx.Module]) -> Callable[[Params], Any]:
    """How to put params into the module that `make` makes."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    return functools.partial(nnx.merge, graphdef)
