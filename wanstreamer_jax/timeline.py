"""The clock: every rate, every token count and every position in time is written here and nowhere else.

One unit is 160 ms (Wan-Streamer v0.1, section 2). Its tokens, in order, and where they stand in time:

    unit k:  [ user text | user video + audio ][ agent text ... <unit_end> ][ agent audio + video ]
    group      0           1                     2                            3
    offset     0 .. Nu-1   Nu, Nu+1              Nu+2 .. Nu+1+Na              Nu+2+Na, Nu+3+Na

Nu and Na are the most text tokens a unit may hold. Every unit advances time by the same amount, Nu + Na + 4,
whether its text slots were used or not, so that a position is a time.
"""

import dataclasses
import enum

import numpy as np

UNIT_MS = 160
VIDEO_FPS = 25
FRAME_MS = 1000 // VIDEO_FPS
FRAMES_PER_UNIT = UNIT_MS // FRAME_MS
SAMPLE_RATE_HZ = 24_000
SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000
SAMPLES_PER_UNIT = UNIT_MS * SAMPLES_PER_MS
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // VIDEO_FPS
AUDIO_LATENTS_PER_UNIT = 2
AUDIO_LATENT_MS = UNIT_MS // AUDIO_LATENTS_PER_UNIT
SAMPLES_PER_AUDIO_LATENT = SAMPLES_PER_UNIT // AUDIO_LATENTS_PER_UNIT
VIDEO_LATENTS_PER_UNIT = 1
PIXELS_PER_LATENT = 8  # the video VAE's spatial stride
LATENTS_PER_TOKEN = 2  # a video token is a patch of 2 x 2 latents
PIXELS_PER_TOKEN = PIXELS_PER_LATENT * LATENTS_PER_TOKEN


class Group(enum.IntEnum):
    """The four groups of a unit, in the order in which they stand and see each other."""

    USER_TEXT = 0
    USER_MEDIA = 1
    AGENT_TEXT = 2
    AGENT_MEDIA = 3

    @property
    def token_causal(self) -> bool:
        """Text sees its own group up to itself; audio and video see all of it."""
        return self in (Group.USER_TEXT, Group.AGENT_TEXT)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture size in pixels, width first, as people write it."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def latent_grid(self) -> tuple[int, int]:
        """Rows and columns of video latents."""
        return self.height // PIXELS_PER_LATENT, self.width // PIXELS_PER_LATENT

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of video tokens."""
        return self.height // PIXELS_PER_TOKEN, self.width // PIXELS_PER_TOKEN

    @property
    def n_tokens(self) -> int:
        """Video tokens of a unit: 252 at 336x192, 920 at 640x368."""
        rows, columns = self.token_grid
        return rows * columns


@dataclasses.dataclass(frozen=True)
class UnitLayout:
    """How many tokens each stream may have in a unit, and where in time they stand."""

    max_user_text: int
    max_agent_text: int  # with <unit_end>
    user_grid: tuple[int, int]  # rows and columns of perception tokens of one frame
    user_frames: int  # frames perceived in a unit
    agent_grid: tuple[int, int]  # rows and columns of video tokens

    @property
    def advance(self) -> int:
        """How far one unit moves in time."""
        return self.max_user_text + self.max_agent_text + 2 * AUDIO_LATENTS_PER_UNIT

    @property
    def n_user_media(self) -> int:
        """Perception tokens of a unit: frames, then sound, so that what is written next follows on what was heard."""
        return AUDIO_LATENTS_PER_UNIT + self.user_frames * self.user_grid[0] * self.user_grid[1]

    @property
    def n_agent_media(self) -> int:
        """Latent tokens of a unit: sound, then video."""
        return self.n_agent_audio + VIDEO_LATENTS_PER_UNIT * self.agent_grid[0] * self.agent_grid[1]

    @property
    def n_agent_audio(self) -> int:
        """Latent tokens of a unit's sound."""
        return AUDIO_LATENTS_PER_UNIT

    @property
    def n_observed(self) -> int:
        """Most tokens of a commit: the last response, user text, user audio and video."""
        return self.n_agent_media + self.max_user_text + self.n_user_media

    @property
    def n_slice(self) -> int:
        """Most tokens of a slice: a commit and the agent's text."""
        return self.n_observed + self.max_agent_text

    def user_text_positions(self) -> np.ndarray:
        """Offsets in the unit, [Nu, 3] of (t, row, column)."""
        return _text_positions(0, self.max_user_text)

    def user_media_positions(self) -> np.ndarray:
        """Offsets in the unit, [n_user_media, 3]; frames are spread over the unit's audio latents."""
        start = self.max_user_text
        frame_at = [start + f * AUDIO_LATENTS_PER_UNIT // self.user_frames for f in range(self.user_frames)]
        return np.concatenate([_picture_positions(frame_at, self.user_grid), _sound_positions(start)])

    def agent_text_positions(self) -> np.ndarray:
        """Offsets in the unit, [Na, 3]."""
        return _text_positions(self.max_user_text + AUDIO_LATENTS_PER_UNIT, self.max_agent_text)

    def agent_media_positions(self) -> np.ndarray:
        """Offsets in the unit, [n_agent_media, 3]."""
        start = self.max_user_text + AUDIO_LATENTS_PER_UNIT + self.max_agent_text
        return np.concatenate([_sound_positions(start), _picture_positions([start], self.agent_grid)])


def _text_positions(start: int, n_tokens: int) -> np.ndarray:
    return np.repeat(np.arange(start, start + n_tokens)[:, None], 3, axis=1)


def _sound_positions(start: int) -> np.ndarray:
    return _text_positions(start, AUDIO_LATENTS_PER_UNIT)


def _picture_positions(frame_at: list[int], grid: tuple[int, int]) -> np.ndarray:
    """A picture's token at (t, t + row, t + column), where text and sound are at (t, t, t).

    Rows and columns are counted from t, as in Qwen2-VL, so that moving a session in time rotates every token
    alike: a difference of positions never depends on how long the session has lasted.
    """
    rows, columns = np.indices(grid).reshape(2, -1)
    return np.concatenate([np.stack([np.full_like(rows, t), t + rows, t + columns], axis=-1) for t in frame_at])


def frames_seen(n: int) -> np.ndarray:
    """Which n frames of a unit are looked at: evenly spread, the newest included."""
    return np.arange(1, n + 1) * FRAMES_PER_UNIT // n - 1


def n_units(seconds: float) -> int:
    """Units that a recording of so many seconds needs; the last one may be partial."""
    return -int(-round(seconds * 1e6) // (UNIT_MS * 1000))
