"""What the server says of itself: one JSON object a line, without media, without text, without tokens."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger("wanstreamer_jax.serving")

SHOWN_OF_ID = 8  # characters: a whole id would let a reader of the log end the session


class _JsonLines(logging.Formatter):
    """Records as JSON; those that are not ours have their message as `event`."""

    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            facts["error"] = self.formatException(record.exc_info)
        return json.dumps(facts, ensure_ascii=False)


def log_json_lines() -> None:
    """Log to stderr from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.getLogger().addHandler(handler)
    logger.setLevel(logging.INFO)


def say(event: str, **facts: Any) -> None:
    """Log something that happened."""
    logger.info(event, extra={"facts": facts})


def short(session_id: str) -> str:
    """A session's id as logs have it."""
    return session_id[:SHOWN_OF_ID]
