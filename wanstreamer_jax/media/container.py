"""FFmpeg, kept within bounds: local files only, no absurd pictures, errors that say what to do."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.error

from wanstreamer_jax.media.errors import MediaError

LARGEST_SIDE = 16_384  # pixels
LARGEST_PICTURE = 100_000_000  # pixels
CONVERT = "convert it with a media tool and try again"

# FFmpeg opens nothing that a file points to, and allocates no larger picture.
_DEMUXER = {"protocol_whitelist": "file", "max_pixels": str(LARGEST_PICTURE)}
_DECODER = {"max_pixels": str(LARGEST_PICTURE)}


class Damage:
    """How much of a file had to be concealed."""

    def __init__(self) -> None:
        self.n = 0  # packets and frames


def open_container(path: Path) -> av.container.InputContainer:
    """Open a local media file.

    Raises:
        MediaError: the file is missing, empty, unreadable, cut off or no media.
    """
    _check_file(path)
    try:
        container = av.open(f"file:{path}", options=_DEMUXER, metadata_errors="replace")
    except av.error.FFmpegError as error:
        if _begins_as_mp4(path):
            reason = "is cut off: it has no index (moov), which is written when a recording ends"
            raise MediaError(path, reason, "record it again, or repair it with a media tool") from error
        raise MediaError(path, "is no media that FFmpeg can read", CONVERT) from error
    if container.format.name == "tty":  # FFmpeg takes any text for the screen of a terminal
        container.close()
        raise MediaError(path, "is text, not media", "give a video or a sound file")
    return container


def packets(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """Packets of the streams in the file's order, up to the end or to where the file breaks off."""
    try:
        yield from container.demux(*streams)
    except (av.error.FFmpegError, IndexError):  # an index: PyAV, at the end, if streams turned up on the way
        return


def decode(path: Path, index: int, damage: Damage) -> Iterator[Any]:
    """Frames of one stream, as av.VideoFrame or av.AudioFrame; what cannot be decoded is left out, and counted.

    Each stream has a container to itself, so that neither waits in a queue for the other: memory is bounded
    however a file is interleaved.
    """
    with open_container(path) as container:
        stream = container.streams[index]
        stream.codec_context.options = _DECODER
        stream.codec_context.thread_type = "AUTO"
        for packet in packets(container, stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                damage.n += 1
                continue
            damage.n += sum(frame.is_corrupt for frame in frames)
            yield from frames


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise MediaError(path, "is a folder", "name a file in it")
    if not path.exists():
        raise MediaError(path, "does not exist", "check the name")
    if not path.is_file():
        raise MediaError(path, "is not a regular file", "copy the recording to a file first")
    if not os.access(path, os.R_OK):
        raise MediaError(path, "may not be read", "check its permissions")
    if path.stat().st_size == 0:
        raise MediaError(path, "is empty", "record or copy it again")


def _begins_as_mp4(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8)[4:] in (b"ftyp", b"moov", b"mdat", b"wide", b"free")
