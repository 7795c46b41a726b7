"""Logs as JSON lines, and the ids that join a line to what a person read.

One id is used throughout: a run of the page has one, its remote stages send it as `X-Request-Id`, the endpoint answers
with it, puts it into its errors and its log line, and the client's error sentence ends with it.
"""

from __future__ import annotations

import logging
import re
import secrets
import sys
from typing import TextIO

HEADER = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9._-]{4,64}", re.ASCII)


def new_id() -> str:
    """Ten hexadecimal digits: short enough to be read out loud."""
    return secrets.token_hex(5)


def clean_id(text: str | None) -> str | None:
    """An id from outside; None unless it is 4 to 64 letters, digits, “.”, “_” or “-”: ids end up in logs and pages."""
    return text if text is not None and _ID.fullmatch(text) else None


def log_json_lines(level: str = "info", stream: TextIO | None = None) -> None:
    """Make the process log JSON lines: time, level, logger, message, and the record's `extra`.

    `level` is that of the loggers under `backend`; other libraries log from "warning" on.
    """
    from pythonjsonlogger.json import JsonFormatter

    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{name}{message}",
            style="{",
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("backend").setLevel(level.upper())
