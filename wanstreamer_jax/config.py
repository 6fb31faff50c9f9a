"""The schema of an experiment: frozen dataclasses, checked when made, hashable, saved as JSON in every agent."""

import dataclasses
import json
import math
import types
import typing
from typing import Any, Literal

from wanstreamer_jax.timeline import (
    FRAMES_PER_UNIT,
    PIXELS_PER_LATENT,
    PIXELS_PER_TOKEN,
    SAMPLES_PER_AUDIO_LATENT,
    VIDEO_LATENTS_PER_UNIT,
    Picture,
    UnitLayout,
)

LONG_HISTORY, SLOT_MULTIPLE = 16_384, 1024  # slots

Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class VideoVAEConfig:
    """Wan2.1-VAE (arXiv 2503.20314, section 4.1; diffusers' AutoencoderKLWan). Defaults are the published sizes."""

    base: int = 96  # channels at full picture size
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # channels of each stage, times base
    res_blocks: int = 2  # residual blocks a stage; the decoder has one more
    temporal_downsample: tuple[bool, ...] = (False, True, True)  # between stages: halve the frame rate too?
    latent_channels: int = 16
    latent_mean: tuple[float, ...] = ()  # per channel; empty: zeros
    latent_std: tuple[float, ...] = ()  # per channel; empty: ones


@dataclasses.dataclass(frozen=True)
class AudioVAEConfig:
    """Mimi's trunk (arXiv 2410.00037, section 3.3) with a Gaussian bottleneck. Defaults are the published sizes."""

    filters: int = 64  # channels at full sample rate; doubled at each stride
    strides: tuple[int, ...] = (8, 6, 5, 4)  # decoder order; the encoder runs them backwards
    width: int = 512
    residual_layers: int = 1
    layers: int = 8  # of each windowed transformer
    heads: int = 8
    mlp: int = 2048
    window: int = 250  # keys each query of the transformer sees, itself included, at 25 Hz
    latent_channels: int = 512


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """SigLIP2's fixed-resolution vision tower (arXiv 2502.14786). Defaults are base, patch 16, 256 pixels."""

    picture: Picture = dataclasses.field(default=Picture(256, 256))
    patch: int = 16  # pixels
    width: int = 768
    mlp: int = 3072
    layers: int = 12
    heads: int = 12
    frames_per_unit: int = 1  # of the unit's 4 frames, evenly spread, the last one included

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of perception tokens of a frame: patches merged 2 x 2."""
        return self.picture.height // self.patch // 2, self.picture.width // self.patch // 2


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Qwen3 (arXiv 2505.09388). Defaults are Qwen3-0.6B."""

    width: int = 1024
    layers: int = 28
    heads: int = 16
    kv_heads: int = 8
    head_size: int = 128
    mlp: int = 3072
    vocab: int = 151_936
    tied: bool = True  # the text head is the embedding
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    rope_sections: tuple[int, int, int] = (24, 20, 20)  # of head_size / 2: frequencies that turn with t, row, column
    dtype: Dtype = "bfloat16"  # of weights, activations and history


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """Flow matching: z_tau = (1 - tau) z_0 + tau eps (Wan-Streamer v0.1, equation 2)."""

    solver_steps: int = 4
    audio_shift: float = 1.0  # time shift of the solver: 1 is even steps, more spends them near noise
    video_shift: float = 3.0
    guidance: float = 1.0  # 1: none. A teacher uses more: velocity without history + guidance * difference


@dataclasses.dataclass(frozen=True)
class HistoryConfig:
    """What the cache keeps (design, section 6)."""

    policy: Literal["window", "full"] = "window"
    n_tokens: int = 16_384  # window: the last so many are kept; full: capacity, the session ends when it is reached


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """What may be prefilled before unit 0, besides one portrait."""

    max_text: int = 512  # tokens of persona text
    max_voice: int = 50  # latents of voice sample

    @property
    def n_voice_samples(self) -> int:
        """Samples of the longest voice."""
        return self.max_voice * SAMPLES_PER_AUDIO_LATENT


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Text of a unit, in tokens."""

    max_user: int = 16
    max_agent: int = 8  # with <unit_end>
    temperature: float = 0.0  # 0: greedy
    unit_end: int = 151_669  # id of <unit_end>: the first that Qwen3's tokenizer leaves free; none above is written


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole agent."""

    name: str
    picture: Picture
    video_vae: VideoVAEConfig
    audio_vae: AudioVAEConfig
    vision: VisionConfig
    hearing: AudioVAEConfig  # the trunk that perceives the user's sound
    transformer: TransformerConfig
    flow: FlowConfig = FlowConfig()
    history: HistoryConfig = HistoryConfig()
    world: WorldConfig = WorldConfig()
    text: TextConfig = TextConfig()

    def __post_init__(self) -> None:
        """Raise ValueError with the field and the reason when parts do not fit each other."""
        _check_numbers(self)
        _check_video_vae(self.video_vae)
        _check_audio("audio_vae", self.audio_vae)
        _check_audio("hearing", self.hearing)
        t, v = self.transformer, self.vision
        merge = 2 * v.patch
        _check(_fits(self.picture, PIXELS_PER_TOKEN), f"picture {self.picture}: no multiple of {PIXELS_PER_TOKEN}")
        _check(_fits(v.picture, merge), f"vision.picture {v.picture}: no multiple of 2 patches, {merge} pixels")
        _check(v.width % v.heads == 0, "vision.width: no multiple of vision.heads")
        _check(v.frames_per_unit <= FRAMES_PER_UNIT, f"vision.frames_per_unit: at most {FRAMES_PER_UNIT}")
        _check(sum(t.rope_sections) == t.head_size // 2, f"transformer.rope_sections: must sum to {t.head_size // 2}")
        _check(t.heads % t.kv_heads == 0, "transformer.heads: no multiple of transformer.kv_heads")
        _check(self.text.unit_end < t.vocab, f"text.unit_end: less than transformer.vocab, {t.vocab}")
        _check(self.history.n_tokens >= self.layout.n_slice, f"history.n_tokens: at least {self.layout.n_slice}")

    @property
    def layout(self) -> UnitLayout:
        """Token counts and positions of a unit."""
        return UnitLayout(
            max_user_text=self.text.max_user,
            max_agent_text=self.text.max_agent,
            user_grid=self.vision.grid,
            user_frames=self.vision.frames_per_unit,
            agent_grid=self.picture.token_grid,
        )

    def with_solver_steps(self, solver_steps: int) -> "Config":
        """The same agent with another number of solver steps."""
        return dataclasses.replace(self, flow=dataclasses.replace(self.flow, solver_steps=solver_steps))

    @property
    def n_world(self) -> int:
        """Most tokens of a world: persona text, voice sample, portrait."""
        return self.world.max_text + self.world.max_voice + self.picture.n_tokens

    @property
    def n_slots(self) -> int:
        """Slots of a session's history: the world, then the ring; a long one is rounded up.

        GPU kernels work on a long history in equal chunks, and can only if there is a number that divides it.
        """
        n = self.n_world + self.history.n_tokens
        return n if n < LONG_HISTORY else -(-n // SLOT_MULTIPLE) * SLOT_MULTIPLE

    @property
    def video_token_channels(self) -> int:
        """Channels of a video token: a 2 x 2 patch of latents."""
        return 4 * self.video_vae.latent_channels


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _fits(picture: Picture, multiple: int) -> bool:
    return picture.width % multiple == 0 and picture.height % multiple == 0


_MAY_BE_ZERO = {"max_user", "max_text", "max_voice", "rope_sections", "temperature"}
_MAY_BE_NEGATIVE = {"latent_mean"}


def _check_numbers(part: Any, where: str = "") -> None:
    """Every number of every part is finite and positive, but for the fields above."""
    for field in dataclasses.fields(part):
        value, name = getattr(part, field.name), f"{where}{field.name}"
        if dataclasses.is_dataclass(value):
            _check_numbers(value, f"{name}.")
        for number in value if isinstance(value, tuple) else (value,):
            if type(number) in (int, float):
                _check(math.isfinite(number), f"{name}: {number} is not finite")
                fits = number > 0 or field.name in _MAY_BE_NEGATIVE or (number == 0 and field.name in _MAY_BE_ZERO)
                _check(fits, f"{name}: {number} is too small")


def _check_video_vae(vae: VideoVAEConfig) -> None:
    """Its strides are the clock's, and its statistics are one number a channel."""
    _check(2 ** (len(vae.multipliers) - 1) == PIXELS_PER_LATENT, "video_vae.multipliers: need 4 stages")
    _check(
        len(vae.temporal_downsample) == len(vae.multipliers) - 1
        and 2 ** sum(vae.temporal_downsample) * VIDEO_LATENTS_PER_UNIT == FRAMES_PER_UNIT,
        "video_vae.temporal_downsample: need one between every two stages, two of them true",
    )
    for name in ("latent_mean", "latent_std"):
        length = len(getattr(vae, name))
        _check(length in (0, vae.latent_channels), f"video_vae.{name}: {length} values, not {vae.latent_channels}")


def _check_audio(name: str, part: AudioVAEConfig) -> None:
    """Its strides, and the last one of 2 before the bottleneck, are the clock's."""
    stride = SAMPLES_PER_AUDIO_LATENT // 2
    _check(math.prod(part.strides) == stride, f"{name}.strides: must multiply to {stride}")
    _check(part.width % part.heads == 0, f"{name}.width: no multiple of {name}.heads")


def to_json(config: Config) -> str:
    """The configuration as JSON text."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> Config:
    """The configuration that `to_json` wrote; ValueError names an unknown, missing or ill-typed field."""
    return build(Config, json.loads(text), "config")


def build(kind: Any, value: Any, where: str) -> Any:
    """A dataclass, tuple or plain value of type `kind` from parsed JSON; ValueError names what does not fit."""
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if typing.get_origin(kind) is tuple:
        _check(isinstance(value, list), f"{where}: expected a list")
        items = typing.get_args(kind)
        _check(Ellipsis in items or len(value) == len(items), f"{where}: expected {len(items)} values")
        return tuple(build(items[0], v, where) for v in value)
    if typing.get_origin(kind) is Literal:
        _check(value in typing.get_args(kind), f"{where}: {value!r} is not one of {typing.get_args(kind)}")
        return value
    if typing.get_origin(kind) is types.UnionType:  # a value, or None
        return None if value is None else build(typing.get_args(kind)[0], value, where)
    if kind is float and type(value) is int:
        return float(value)
    _check(type(value) is kind, f"{where}: expected {getattr(kind, '__name__', kind)}, not {value!r}")
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    _check(isinstance(value, dict), f"{where}: expected an object")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(value.keys() - fields.keys())
    missing = sorted(
        n for n, f in fields.items() if n not in value and isinstance(f.default, type(dataclasses.MISSING))
    )
    _check(not unknown, f"{where}: unknown field {', '.join(unknown)}")
    _check(not missing, f"{where}: missing field {', '.join(missing)}")
    return kind(**{name: build(hints[name], v, f"{where}.{name}") for name, v in value.items()})
