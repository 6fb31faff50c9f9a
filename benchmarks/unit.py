"""One unit, step by step: how long, how much arithmetic, and what share of this machine's own matrix-product rate.

    python benchmarks/unit.py                      the tiny preset, 400 units; the last 200 are counted
    python benchmarks/unit.py --units 5000         also whether the 5,000th unit is as fast as the 500th

The agent is untrained and writes as much text as a unit may hold, so that `think` is at its longest. p95 of
signal to signal must stay under 120 ms on two cores.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine

from wanstreamer_jax.config import Config
from wanstreamer_jax.model import Latents, init_params, part
from wanstreamer_jax.presets import load_preset
from wanstreamer_jax.serving.report import CompileCounter, Latencies
from wanstreamer_jax.serving.world_file import Setting, make_start
from wanstreamer_jax.stream.placement import STEPS
from wanstreamer_jax.stream.steps import observe, render
from wanstreamer_jax.stream.types import Observation
from wanstreamer_jax.stream.unified import Unified
from wanstreamer_jax.timeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT
from wanstreamer_jax.tokens import byte_tokenizer


def matmul_rate() -> float:
    """FLOP/s of a float32 product of 2048 x 2048 matrices, median of nine."""
    a = jnp.ones((2048, 2048))
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / float(np.median(seconds))


def transformer_flop(config: Config, n_tokens: int, n_keys: int) -> float:
    """Arithmetic of one pass of `n_tokens` that see `n_keys`: 2 a weight and token, 4 a query, key and channel."""
    t = config.transformer
    q, kv = t.heads * t.head_size, t.kv_heads * t.head_size
    weights = t.layers * (2 * t.width * (q + kv) + 3 * t.width * t.mlp)
    return n_tokens * (2 * weights + 4 * t.layers * q * n_keys)


def counted_flop(step, *args) -> float:
    """Arithmetic that the compiler counts in a step without loops."""
    return jax.jit(step).lower(*args).compile().cost_analysis()["flops"]


def flop_per_step(config: Config, params) -> dict[str, float]:
    """Arithmetic of each step with a full history and all the text that a unit may hold."""
    layout, n_keys = config.layout, config.history.n_tokens
    vae, voice = part(config, params, "video_vae").decoder, part(config, params, "audio_vae").decoder
    perception = part(config, params, "perception")
    (h, w), c = config.picture.latent_grid, config.video_vae.latent_channels
    latents = Latents(jnp.zeros((1, 2, config.audio_vae.latent_channels)), jnp.zeros((1, h, w, c)))
    seen = nothing(config)
    text_head = 2 * config.transformer.width * config.transformer.vocab * layout.max_agent_text
    return {
        "observe": counted_flop(lambda s: observe(config, params, s, seen)[0], perception.hearing.init_state(1)),
        "think": transformer_flop(config, layout.n_slice, n_keys + layout.n_slice) + text_head,
        "perform": config.flow.solver_steps
        * transformer_flop(config, layout.n_agent_media, n_keys + layout.n_agent_media),
        "render": counted_flop(
            lambda a, b: render(config, params, a, b, latents)[0],
            voice.init_state(1),
            vae.init_state(1),
        ),
    }


def nothing(config: Config) -> Observation:
    """A unit of darkness and silence."""
    p = config.vision.picture
    return Observation(
        np.zeros((1, config.text.max_user), np.int32),
        np.zeros(1, np.int32),
        np.zeros((1, SAMPLES_PER_UNIT), np.float32),
        np.zeros((1, FRAMES_PER_UNIT, p.height, p.width, 3), np.uint8),
    )


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", help="a preset of configs/")
    parser.add_argument("--units", type=int, default=400, help="units of 160 ms; the second half counts")
    args = parser.parse_args()
    config = load_preset(args.preset)
    params = jax.jit(lambda: init_params(config, 0))()
    placement = Unified(config, params)
    placement.begin(make_start(config, byte_tokenizer(), [Setting("You are kind.")], [0]))
    placement.step(nothing(config))
    compiled = CompileCounter()
    rate = matmul_rate()
    compiled.n = 0
    units = [placement.step(nothing(config)).step_ms for _ in range(args.units)]
    compiled.close()
    print(f"{config.name} on {machine()}, jax {jax.__version__}; matrix products at {rate / 1e9:.0f} GFLOP/s\n")
    print_table(units[len(units) // 2 :], flop_per_step(config, params), rate)
    print(f"\n{placement.history_tokens[0]} tokens of history, {placement.bytes_per_session / 1e6:.1f} MB a session")
    print(f"{compiled.n} compilations in {args.units} units")
    if args.units >= 5000:
        print_flatness(units)


def print_table(units: list[dict[str, float]], flop: dict[str, float], rate: float) -> None:
    """A row a step."""
    latencies = Latencies()
    for step_ms in units:
        latencies.add(step_ms)
    summary = latencies.summary()
    print(f"| {'step':16} | p50 ms | p95 ms | GFLOP | share of matmul rate |\n|---|---|---|---|---|")
    for name in (*STEPS, "signal_to_signal"):
        work = flop[name] if name in flop else sum(flop.values())
        p50, p95 = summary[name]["p50"], summary[name]["p95"]
        print(f"| {name:16} | {p50:6.1f} | {p95:6.1f} | {work / 1e9:5.2f} | {work / (p50 / 1e3) / rate:5.0%} |")


def print_flatness(units: list[dict[str, float]]) -> None:
    """The 100 units around the 500th and the last 100."""
    medians = [np.median([sum(u.values()) for u in units[a : a + 100]]) for a in (450, len(units) - 100)]
    print(f"unit 500: {medians[0]:.1f} ms, unit {len(units)}: {medians[1]:.1f} ms ({medians[1] / medians[0] - 1:+.1%})")


if __name__ == "__main__":
    main()
