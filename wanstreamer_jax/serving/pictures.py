"""Pictures as they travel: JPEG, decoded only when its size is bearable, encoded fast."""

import io
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from wanstreamer_jax.media.picture import fitted_size
from wanstreamer_jax.timeline import Picture

LARGEST_SIDE = 1920  # pixels: of what a camera sends
LARGEST_PORTRAIT_SIDE = 4096
QUALITY = 88  # of what is sent: the agent's pictures are small, and shown large


class BadPictureError(ValueError):
    """Bytes that are no picture, or one that is too large; the message says which."""


def check_picture(data: bytes, largest_side: int = LARGEST_SIDE, formats: tuple[str, ...] = ("JPEG",)) -> None:
    """Look at the head of a picture; nothing is decoded.

    Raises:
        BadPictureError: it is no such picture, or too large.
    """
    _opened(data, largest_side, formats).close()


def decode_picture(
    data: bytes, picture: Picture, largest_side: int = LARGEST_SIDE, formats: tuple[str, ...] = ("JPEG",)
) -> UInt8[np.ndarray, "H W 3"]:
    """A picture of any size as one of `picture`: as large as fits, aspect kept, on black.

    Raises:
        BadPictureError: it is no such picture, too large, or damaged.
    """
    target = (picture.width, picture.height)
    with _opened(data, largest_side, formats) as image:
        try:
            image.draft("RGB", target)  # a JPEG is decoded at the smallest eighth that is large enough
            rgb = image.convert("RGB")
        except Exception as error:  # damaged files raise whatever their decoder does
            raise BadPictureError(f"a damaged picture: {error}") from error
    size = fitted_size(rgb.width, rgb.height, Fraction(1), picture)
    fitted = rgb if rgb.size == size else rgb.resize(size, Image.Resampling.LANCZOS)
    if size == target:
        return np.array(fitted)
    canvas = Image.new("RGB", target)
    canvas.paste(fitted, ((target[0] - size[0]) // 2, (target[1] - size[1]) // 2))
    return np.array(canvas)


def encode_jpeg(frame: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """A picture as JPEG, its colours as sharp as its brightness."""
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()


def _opened(data: bytes, largest_side: int, formats: tuple[str, ...]) -> Image.Image:
    """A picture whose head was read."""
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Exception as error:  # damaged heads raise whatever their reader does
        raise BadPictureError(f"no picture of the kind {' or '.join(formats)}") from error
    if max(image.size) > largest_side:
        width, height = image.size
        image.close()
        raise BadPictureError(f"a picture of {width}x{height} pixels: {largest_side} a side at most")
    return image
