"""Media in and out on the unit clock, through PyAV: files read, written and subtitled unit by unit."""

from wanstreamer_jax.media.errors import MediaError
from wanstreamer_jax.media.reader import MediaReader, MediaUnit, open_media
from wanstreamer_jax.media.subtitles import SubtitleWriter
from wanstreamer_jax.media.writer import MediaWriter

__all__ = ["MediaError", "MediaReader", "MediaUnit", "MediaWriter", "SubtitleWriter", "open_media"]
