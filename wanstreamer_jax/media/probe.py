"""What a media file holds, found out before anything is streamed from it: tracks, sizes, start and end."""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.video.stream import VideoStream

from wanstreamer_jax.media.container import (
    CONVERT,
    LARGEST_PICTURE,
    LARGEST_SIDE,
    Damage,
    decode,
    open_container,
    packets,
)
from wanstreamer_jax.media.errors import MediaError
from wanstreamer_jax.media.stamps import LARGEST_GAP_S, Stamps
from wanstreamer_jax.timeline import VIDEO_FPS

LONGEST_FRAME_S = 1.0  # the last frame of a slide show is not waited for as long as the others


class Track(NamedTuple):
    """One stream of a file and where it stands in time."""

    stream_index: int  # among all of the file's
    start_s: float
    end_s: float
    step_s: float  # a frame of video, on average; the longest packet of sound
    pixel_aspect: Fraction  # width of a pixel / its height; 1 for sound


class MediaInfo(NamedTuple):
    """The picture and the sound of a file; at least one of them is there."""

    video: Track | None
    audio: Track | None

    @property
    def start_s(self) -> float:
        """When the earlier of the two starts."""
        return min(t.start_s for t in self if t is not None)

    @property
    def seconds(self) -> float:
        """From the first picture or sound to the end of the last.

        Sound that outlasts the picture by no more than a packet is its codec's padding.
        """
        end_s = max(t.end_s for t in self if t is not None)
        if self.video and self.audio and end_s - self.video.end_s <= self.audio.step_s:
            end_s = self.video.end_s
        return end_s - self.start_s


class _Extent(NamedTuple):
    """Where the packets of a stream stand in time."""

    n_packets: int = 0
    first_s: float = float("inf")  # start of the earliest packet
    last_s: float = float("-inf")  # start of the latest
    end_s: float = float("-inf")
    longest_s: float = 0.0  # packet

    def with_packet(self, start_s: float, packet_s: float) -> "_Extent":
        return _Extent(
            self.n_packets + 1,
            min(self.first_s, start_s),
            max(self.last_s, start_s),
            max(self.end_s, start_s + packet_s),
            max(self.longest_s, packet_s),
        )

    @property
    def mean_s(self) -> float:
        """Time from one packet to the next; of a single packet, how long it lasts."""
        return (self.last_s - self.first_s) / (self.n_packets - 1) if self.n_packets > 1 else self.longest_s


def probe(path: Path) -> MediaInfo:
    """Look at a whole file, decoding only the first frame of each track.

    Raises:
        MediaError: it is missing, empty, cut off, no media, encrypted, too large, or lasts no time.
    """
    with open_container(path) as container:
        choices = _choose(container.streams.video), _choose(container.streams.audio)
        streams = [s for s in choices if s is not None]
        if not streams:
            raise MediaError(path, "holds no picture and no sound that can be decoded", CONVERT)
        _check_sizes(path, streams)
        extents = _scan(path, container, streams)
        tracks = {s.type: _track(path, s, extents[s.index]) for s in streams}
    info = MediaInfo(tracks.get("video"), tracks.get("audio"))
    if info == (None, None):
        raise MediaError(path, "nothing in it can be decoded", "record it again, or repair it with a media tool")
    _check_times(path, info)
    return info


def _choose(streams: tuple[av.stream.Stream, ...]) -> av.stream.Stream | None:
    """The default stream, or the first, of those that have a decoder and are no cover picture."""
    cover, default = av.stream.Disposition.attached_pic, av.stream.Disposition.default
    usable = [s for s in streams if s.codec_context is not None and not s.disposition & cover]
    return max(usable, key=lambda s: bool(s.disposition & default), default=None)


def _check_sizes(path: Path, streams: list[av.stream.Stream]) -> None:
    for stream in streams:
        if not isinstance(stream, VideoStream):
            continue
        width, height = stream.codec_context.width, stream.codec_context.height
        # FFmpeg itself withholds a size beyond the limit of pixels that it was given.
        size = f"of {width}x{height}" if width > 0 and height > 0 else "of no size that can be told, or one that"
        if min(width, height) <= 0 or max(width, height) > LARGEST_SIDE or width * height > LARGEST_PICTURE:
            limit = f"{LARGEST_SIDE} pixels a side or {LARGEST_PICTURE // 1_000_000} megapixels"
            raise MediaError(path, f"its picture {size} is beyond {limit}", "scale it down, or record it again")


def _check_times(path: Path, info: MediaInfo) -> None:
    if info.seconds <= 0:
        raise MediaError(path, "lasts 0 seconds", "give a recording that lasts")
    if info.video and info.audio and abs(info.video.start_s - info.audio.start_s) > LARGEST_GAP_S:
        apart_s = abs(info.video.start_s - info.audio.start_s)
        raise MediaError(path, f"its picture and its sound start {apart_s:.0f} s apart", CONVERT)


def _scan(path: Path, container: av.container.InputContainer, streams: list[av.stream.Stream]) -> dict[int, _Extent]:
    """The extent of each stream by its packets.

    Headers are not asked: live recordings state no duration there, and files that broke off a wrong one.
    """
    stamps = {s.index: Stamps() for s in streams}
    extents = {s.index: _Extent() for s in streams}
    for packet in packets(container, *streams):
        if packet.has_sidedata("encryption_info"):
            raise MediaError(path, "is encrypted", "give a copy without protection")
        if packet.size == 0 or packet.is_discard:  # the end's marker; what an edit list cuts away
            continue
        index, packet_s = packet.stream_index, _packet_s(packet)
        start_s = stamps[index].place(packet.pts, packet.time_base, packet_s)
        extents[index] = extents[index].with_packet(start_s, packet_s)
    return extents


def _packet_s(packet: av.Packet) -> float:
    """How long a packet says it lasts; a frame of video that does not say lasts its share of a nominal second."""
    if packet.duration and packet.time_base:
        return min(float(packet.duration * packet.time_base), LARGEST_GAP_S)
    if isinstance(packet.stream, VideoStream):
        return float(1 / (packet.stream.guessed_rate or VIDEO_FPS))
    return 0.0


def _track(path: Path, stream: av.stream.Stream, extent: _Extent) -> Track | None:
    """The track of a stream; None if not one frame of it can be decoded."""
    first = next(decode(path, stream.index, Damage()), None)
    if first is None:
        return None
    step_s, end_s, aspect = extent.longest_s, extent.end_s, Fraction(1)
    if isinstance(stream, VideoStream):
        # Nominal rates are not asked: many recorders state 1000 frames a second.
        step_s = min(extent.mean_s, LONGEST_FRAME_S)
        end_s = max(end_s, extent.last_s + step_s)
        aspect = stream.sample_aspect_ratio or aspect
    start_s = Stamps().place(first.pts, first.time_base, step_s)
    return Track(stream.index, start_s, max(start_s, end_s), step_s, aspect)
