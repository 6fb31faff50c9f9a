"""A beat of 160 ms on a thinker and R performer ranks: memory, work, transfers, and whether it holds.

Each figure of time is given twice. The floor: a silent unit, a full window and no world, at the peaks of the GPU, with
nothing to send. The expected time: all the text and world that the configuration allows, padding, exchanges, and the
shares of the peaks that `hardware.EXPECTED` assumes.

Thinking of unit k reads the latents of unit k - 1, and these wait for the thoughts of unit k - 1: the two take turns.
While the performer works, the thinker is free to render, and to observe the next unit. So a unit takes

    think + max(slice + perform + gather + latents, render + observe)
"""

import dataclasses
from typing import Literal

from wanstreamer_jax.config import SLOT_MULTIPLE, Config
from wanstreamer_jax.planning import costs
from wanstreamer_jax.planning.hardware import BYTES, EXPECTED, GPU, PEAK
from wanstreamer_jax.planning.roofline import (
    Work,
    exchanged_bytes,
    float32_part,
    kv_bytes,
    reading,
    solver_step,
    transformer_parameters,
    writing,
)
from wanstreamer_jax.timeline import AUDIO_LATENTS_PER_UNIT, FRAMES_PER_UNIT, UNIT_MS

Role = Literal["thinker", "rank"]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    role: Role
    weights: int  # of the Transformer
    codecs: int  # weights of perception and the VAEs, and what they remember
    history: int
    working: int  # an upper estimate: two slices, and what is alive at once in the largest pass

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.codecs + self.history + self.working


@dataclasses.dataclass(frozen=True)
class Step:
    """What one device does in a step of a unit; perform's expected time includes its exchanges."""

    name: str
    role: Role
    flop: float
    bytes: float
    floor_ms: float
    expected_ms: float


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What crosses between devices in a unit."""

    name: str
    n_times: int
    bytes: float  # in all, from each sender
    expected_ms: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """A configuration on its devices."""

    memory: tuple[Memory, ...]
    steps: tuple[Step, ...]
    transfers: tuple[Transfer, ...]
    largest_window: int  # tokens
    unit_floor_ms: float
    unit_ms: float  # expected
    response_ms: float  # expected, from the end of the user's unit to the frames of the answer

    @property
    def holds(self) -> bool:
        """Is a unit expected to take no longer than a unit lasts?"""
        return self.unit_ms <= UNIT_MS


def make_plan(config: Config, gpu: GPU, ranks: int) -> Plan:
    """Plan a thinker and `ranks` performer ranks; ValueError when the key/value heads cannot be split so."""
    kv_heads = config.transformer.kv_heads
    if ranks < 1 or kv_heads % ranks:
        fits = ", ".join(str(n) for n in range(1, kv_heads + 1) if kv_heads % n == 0)
        raise ValueError(f"{ranks} ranks cannot share {kv_heads} key/value heads evenly: choose one of {fits}")
    memory = (thinker_memory(config), rank_memory(config, ranks))
    steps = (*thinker_steps(config, gpu), perform(config, gpu, ranks))
    transfers = unit_transfers(config, gpu, ranks)
    floor = {step.name: step.floor_ms for step in steps}
    expected = {step.name: step.expected_ms for step in steps} | {t.name: t.expected_ms for t in transfers}
    return Plan(
        memory,
        steps,
        transfers,
        largest_window=min(_largest_window(config, m, gpu) for m in memory),
        unit_floor_ms=_thinking(floor) + max(floor["perform"], floor["render"] + floor["observe"]),
        unit_ms=_thinking(expected) + max(_performing(expected), expected["render"] + expected["observe"]),
        response_ms=expected["observe"] + _thinking(expected) + _performing(expected) + expected["render"],
    )


def _thinking(ms: dict[str, float]) -> float:
    return ms["think: read"] + ms["think: write"]


def _performing(ms: dict[str, float]) -> float:
    return ms["slice"] + ms["perform"] + ms["gather"] + ms["latents"]


# ---- Memory


def thinker_memory(config: Config) -> Memory:
    """The thinker has every part, and the history of all heads."""
    t = config.transformer
    parts = costs.observing(config) + costs.rendering(config)
    values = parts.parameters + parts.state + costs.encoding(config).parameters
    working = max(_pass_bytes(config, config.layout.n_observed), _picture_bytes(config))
    slices = 2 * config.layout.n_slice * kv_bytes(t)
    return Memory("thinker", _weight_bytes(config), BYTES["float32"] * values, _history_bytes(config), slices + working)


def rank_memory(config: Config, R: int) -> Memory:
    """A rank has the Transformer, and the history of its heads."""
    slices = 2 * config.layout.n_slice * kv_bytes(config.transformer) // R
    working = _pass_bytes(config, _padded(config, R) // R + AUDIO_LATENTS_PER_UNIT)
    return Memory("rank", _weight_bytes(config), 0, _history_bytes(config) // R, slices + working)


def _largest_window(config: Config, memory: Memory, gpu: GPU) -> int:
    """Tokens that fit besides all that does not grow with the window; none: 0."""
    per_token = memory.history / config.n_slots
    room = gpu.usable_bytes - (memory.total - memory.history)
    slots = int(room / per_token) // SLOT_MULTIPLE * SLOT_MULTIPLE
    return max(0, slots - config.n_world)


def _weight_bytes(config: Config) -> int:
    t, channels = config.transformer, (config.audio_vae.latent_channels, config.video_token_channels)
    return BYTES[t.dtype] * transformer_parameters(t, *channels)


def _history_bytes(config: Config) -> int:
    return config.n_slots * kv_bytes(config.transformer)


def _pass_bytes(config: Config, n_tokens: int) -> int:
    """A layer's activations: the stream, its norm and adaLN vectors; heads as projected and as attended; the mlp."""
    t = config.transformer
    per_token = 9 * t.width + 4 * (t.heads + t.kv_heads) * t.head_size + 3 * t.mlp
    return BYTES[t.dtype] * n_tokens * per_token


def _picture_bytes(config: Config) -> int:
    """The decoder's last block: input, input with the frames before, output, and what the convolution needs."""
    channels = config.video_vae.base * config.video_vae.multipliers[0]
    return 4 * BYTES["float32"] * FRAMES_PER_UNIT * config.picture.width * config.picture.height * channels


# ---- Steps


def thinker_steps(config: Config, gpu: GPU) -> tuple[Step, ...]:
    """What the thinker does in a unit."""
    t, layout, window, n_text = config.transformer, config.layout, config.history.n_tokens, config.text.max_agent
    silent, most = layout.n_agent_media + layout.n_user_media, layout.n_observed
    full = config.n_world + window
    observed, rendered = (float32_part(f(config)) for f in (costs.observing, costs.rendering))
    choosing_s = n_text * EXPECTED.token_s
    return (
        _step("observe", "thinker", gpu, observed, observed),
        _step("think: read", "thinker", gpu, reading(t, silent, window), reading(t, most, full)),
        _step("think: write", "thinker", gpu, writing(t, window), writing(t, full + most) * n_text, choosing_s),
        _step("render", "thinker", gpu, rendered, rendered),
    )


def perform(config: Config, gpu: GPU, R: int) -> Step:
    """What each rank does in a unit: all solver steps, without guidance."""
    t, window, n_steps = config.transformer, config.history.n_tokens, config.flow.solver_steps
    least = solver_step(t, config.layout.n_agent_media, 0, window, R) * n_steps
    most = solver_step(t, _padded(config, R), AUDIO_LATENTS_PER_UNIT, config.n_world + window, R) * n_steps
    return _step("perform", "rank", gpu, least, most, unit_exchange(config, gpu, R).expected_ms / 1000)


def _step(name: str, role: Role, gpu: GPU, least: Work, most: Work, waits_s: float = 0.0) -> Step:
    floor_s, expected_s = least.seconds(gpu, PEAK), most.seconds(gpu, EXPECTED) + waits_s
    return Step(name, role, most.flop, most.bytes, 1000 * floor_s, 1000 * expected_s)


def _padded(config: Config, R: int) -> int:
    """The picture's tokens, padded to be split evenly."""
    return R * -(-config.picture.n_tokens // R)


# ---- Transfers


def unit_transfers(config: Config, gpu: GPU, R: int) -> tuple[Transfer, ...]:
    """What crosses in a unit: the slice to the ranks, their exchanges, and latents to each other and the thinker."""
    value, video_token = BYTES["float32"], config.video_token_channels
    audio = value * AUDIO_LATENTS_PER_UNIT * config.audio_vae.latent_channels
    latents = audio + value * config.picture.n_tokens * video_token
    gathered = value * (R - 1) * _padded(config, R) // R * video_token
    unit_slice = config.layout.n_slice * kv_bytes(config.transformer)
    return (
        _transfer("slice", R, float(unit_slice), gpu),  # to each rank the part of its heads
        unit_exchange(config, gpu, R),
        _transfer("gather", int(R > 1), float(gathered), gpu),
        _transfer("latents", 1, float(latents), gpu),
    )


def unit_exchange(config: Config, gpu: GPU, R: int) -> Transfer:
    """Two all-to-alls a layer and solver step; one rank has nobody to exchange with."""
    t = config.transformer
    n_layers = t.layers * config.flow.solver_steps if R > 1 else 0
    n_bytes = n_layers * exchanged_bytes(t, _padded(config, R), AUDIO_LATENTS_PER_UNIT, R)
    return _transfer("all-to-alls", 2 * n_layers, n_bytes, gpu)


def _transfer(name: str, n_times: int, n_bytes: float, gpu: GPU) -> Transfer:
    seconds = n_times * EXPECTED.collective_s + n_bytes / (EXPECTED.link * gpu.link_bytes_s)
    return Transfer(name, n_times, n_bytes, 1000 * seconds)
