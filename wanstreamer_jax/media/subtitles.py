"""WebVTT out: what the agent says, unit by unit, as captions on the clock (W3C WebVTT)."""

import html
from pathlib import Path
from typing import NamedTuple

from wanstreamer_jax.media.output import Output, PendingFile
from wanstreamer_jax.timeline import UNIT_MS

LONGEST_CAPTION = 80  # characters: two short lines
PAUSE_MS = 800  # silence that ends a caption; also how long it stays after its last word
_SENTENCE_ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f")  # and their full-width forms


class Caption(NamedTuple):
    """Text that is said from one unit to another, both included."""

    first_unit: int
    last_unit: int
    text: str


class SubtitleWriter(Output["SubtitleWriter"]):
    """Joins the text of units into captions: one ends with a sentence, with a pause, or when it is long."""

    def __init__(self, path: Path, source: Path | None = None) -> None:
        """Open a .vtt file; `source` is a file that must not be overwritten.

        Raises:
            MediaError: it cannot be written. Nothing has been.
        """
        self._pending = PendingFile(path, source)
        self._file = self._pending.part.open("w", encoding="utf-8", newline="\n")
        self._file.write("WEBVTT\n")
        self._caption: Caption | None = None
        self._is_open = True

    def write(self, unit: int, text: str) -> None:
        """Add what is said in a unit, with its own spaces; units never go back."""
        if not text:
            return
        caption = self._caption or Caption(unit, unit, "")
        if _is_over(caption, unit, text):
            self._file.write(_cue(caption, until_ms=unit * UNIT_MS))
            caption = Caption(unit, unit, "")
        self._caption = caption._replace(last_unit=unit, text=caption.text + text)

    def finish(self) -> None:
        """Write the last caption and let the file appear."""
        if self._is_open:
            self._is_open = False
            if self._caption is not None:
                self._file.write(_cue(self._caption, until_ms=None))
            self._file.close()
            self._pending.commit()

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._is_open:
            self._is_open = False
            self._file.close()
            self._pending.discard()


def _is_over(caption: Caption, unit: int, text: str) -> bool:
    """Whether `text`, said in `unit`, starts a new caption."""
    if unit == caption.last_unit:
        return False
    if (unit - caption.last_unit - 1) * UNIT_MS >= PAUSE_MS:
        return True
    starts_word = text[0].isspace() or not text[0].isascii()  # scripts without spaces may break anywhere
    is_complete = caption.text.rstrip().endswith(_SENTENCE_ENDS)
    is_long = len(caption.text) + len(text) > LONGEST_CAPTION
    return starts_word and (is_complete or is_long)


def _cue(caption: Caption, until_ms: int | None) -> str:
    """A caption as a WebVTT cue, gone before `until_ms`; nothing for mere spaces."""
    text = html.escape(" ".join(caption.text.split()), quote=False)
    start_ms = caption.first_unit * UNIT_MS
    end_ms = (caption.last_unit + 1) * UNIT_MS + PAUSE_MS
    if until_ms is not None:
        end_ms = min(end_ms, until_ms)
    return f"\n{_timestamp(start_ms)} --> {_timestamp(end_ms)}\n{text}\n" if text else ""


def _timestamp(time_ms: int) -> str:
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{ms:03}"
