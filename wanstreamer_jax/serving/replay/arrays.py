"""Pictures and sound as text, without loss: what is the same as before costs little, and nothing can be made to grow.

Whoever unpacks says how large the result may be: a size is never taken from the text.
"""

import base64
import binascii
import hashlib
import zlib

import numpy as np
from jaxtyping import Float32, UInt8

LEVEL = 4  # of zlib: more takes several times as long, and gains little on pictures of a camera
PCM_SCALE = 2**15  # of sound that came as integers of 16 bits, see `wire`


class UnpackError(ValueError):
    """A text that does not hold what was asked for."""


def pack_frames(frames: UInt8[np.ndarray, "f H W 3"], before: UInt8[np.ndarray, "H W 3"]) -> str:
    """Frames as what changes from one to the next; the first follows on `before`."""
    earlier = np.concatenate([before[None], frames[:-1]])
    return _packed((frames - earlier).tobytes())  # modulo 256, as all arithmetic of bytes


def unpack_frames(text: str, before: UInt8[np.ndarray, "H W 3"], n_frames: int) -> UInt8[np.ndarray, "f H W 3"]:
    """So many frames that `pack_frames` packed.

    Raises:
        UnpackError: it holds something else.
    """
    changes = np.frombuffer(_unpacked(text, n_frames * before.size), np.uint8)
    if changes.size != n_frames * before.size:
        raise UnpackError(f"{changes.size} bytes of pictures, not {n_frames * before.size}")
    return before + np.cumsum(changes.reshape(n_frames, *before.shape), axis=0, dtype=np.uint8)


def pack_samples(samples: Float32[np.ndarray, " n"]) -> dict[str, str]:
    """Samples to the bit: `pcm16` where integers of 16 bits are all that there is in them, else `float32`."""
    within = np.clip(np.nan_to_num(samples), -1, 1) * PCM_SCALE
    integers = np.minimum(within, PCM_SCALE - 1).astype("<i2")
    if _same_bits(_from_pcm(integers), samples):
        return {"pcm16": _packed(_planes(np.diff(integers, prepend=np.int16(0)).astype("<i2")))}
    return {"float32": _packed(_planes(samples.astype("<f4")))}


def unpack_samples(fields: dict[str, str], most: int) -> Float32[np.ndarray, " n"]:
    """At most so many samples that `pack_samples` packed.

    Raises:
        UnpackError: it holds something else, or more.
    """
    ((kind, text),) = fields.items() if len(fields) == 1 else (("", ""),)
    if kind == "pcm16":
        differences = _from_planes(text, most, "<i2")
        return _from_pcm(np.cumsum(differences, dtype=np.int16))
    if kind == "float32":
        return _from_planes(text, most, "<f4").astype(np.float32)
    raise UnpackError(f"sound as {', '.join(sorted(fields)) or 'nothing'}: either pcm16 or float32 was expected")


def digest(array: np.ndarray) -> str:
    """Sha256 of an array's bytes, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _from_pcm(integers: np.ndarray) -> Float32[np.ndarray, " n"]:
    return integers.astype(np.float32) / PCM_SCALE


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Zeros of either sign differ, and a NaN is itself."""
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


def _planes(array: np.ndarray) -> bytes:
    """The first byte of every number, then the second: neighbours are alike."""
    return array.view(np.uint8).reshape(-1, array.itemsize).T.tobytes()


def _from_planes(text: str, most: int, dtype: str) -> np.ndarray:
    item_bytes = np.dtype(dtype).itemsize
    data = np.frombuffer(_unpacked(text, most * item_bytes), np.uint8)
    if data.size % item_bytes:
        raise UnpackError(f"{data.size} bytes of sound, which are no whole samples")
    return np.ascontiguousarray(data.reshape(item_bytes, -1).T).view(dtype).reshape(-1)


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, LEVEL)).decode("ascii")


def _unpacked(text: str, most_bytes: int) -> bytes:
    """What `_packed` packed; whatever more there is is never unpacked."""
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(base64.b64decode(text, validate=True), most_bytes + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise UnpackError(f"cannot be unpacked ({error})") from error
    if len(data) > most_bytes:
        raise UnpackError(f"more than {most_bytes} bytes")
    if not inflate.eof:
        raise UnpackError("cannot be unpacked (it ends too early)")
    return data
