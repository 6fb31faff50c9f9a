"""Streams to decode, whole, damaged and absurd."""

import numpy as np

from wanstreamer_jax.serving.codecs import PictureEncoder
from wanstreamer_jax.timeline import SAMPLE_RATE_HZ, Picture

SPS = b"\0\0\0\1\x67"


def moving(picture, n):
    """Pictures of a soft gradient over which a bright bar moves."""
    rows, columns = np.mgrid[: picture.height, : picture.width]
    for k in range(n):
        bar = 90 * np.exp(-(((columns - 2.0 * k) / 6) ** 2))
        level = 40 + 80 * rows / picture.height + bar
        yield np.stack([level, 0.8 * level + 10, 150 - 0.5 * level], axis=-1).astype(np.uint8)


def stream(picture, n, keys=(0,)):
    """Encoded pictures."""
    encoder = PictureEncoder(picture)
    return [encoder.encode(frame, key=k in keys) for k, frame in enumerate(moving(picture, n))]


def psnr_db(one, other):
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other.astype(float)) ** 2))


def noise(seconds):
    """Sound below 4 kHz in which every moment is another."""
    made = np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE_HZ))
    return 0.3 * np.convolve(made, np.hanning(9) / 3, "same").astype(np.float32)


class Bits:
    """Bits as H.264 writes them."""

    def __init__(self):
        self.bits = ""

    def fixed(self, value, n):
        self.bits += f"{value:0{n}b}"
        return self

    def number(self, value):
        """An Exp-Golomb code."""
        code = f"{value + 1:b}"
        self.bits += "0" * (len(code) - 1) + code
        return self

    def payload(self):
        """Closed and padded; a byte keeps zeros from looking like a start code."""
        bits = self.bits + "1"
        bits += "0" * (-len(bits) % 8)
        raw = int(bits, 2).to_bytes(len(bits) // 8, "big")
        return raw.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\1", b"\0\0\3\1")


def absurd_picture(side):
    """A key frame whose head says that it is so many pixels wide and high."""
    head = Bits().fixed(66, 8).fixed(0, 8).fixed(52, 8)
    for number in (0, 0, 2, 1):  # id, bits of frame numbers, kind of order, frames kept
        head.number(number)
    head.fixed(0, 1).number(side // 16 - 1).number(side // 16 - 1).fixed(0b1100, 4)
    (key,) = stream(Picture(16, 16), 1)
    after = key.data.index(b"\0\0\0\1\x68")
    return SPS + head.payload() + key.data[after:]
