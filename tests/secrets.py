"""Gathers every text that leaves the process, so that a test can look for a secret in all of it."""

from __future__ import annotations

import base64
import io
import json
import logging
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import quote

from PIL import Image

from backend.logs import log_json_lines


class Texts:
    """Texts by where they came from; `leaks` names those with a secret in them, in any common spelling."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def add(self, where: str, text: object) -> None:
        """Any object: an error with its cause and traceback, a mapping, bytes, or what `repr` and `str` show."""
        if isinstance(text, BaseException):
            shown = "".join(traceback.format_exception(text)) + repr(vars(text))
        elif isinstance(text, bytes):
            shown = text.decode("latin-1")
        elif isinstance(text, Mapping):
            shown = json.dumps({str(key): repr(value) for key, value in text.items()}) + repr(text)
        else:
            shown = f"{text!s} {text!r}"
        self.found[where] = self.found.get(where, "") + "\n" + shown

    def add_picture(self, where: str, picture: Image.Image) -> None:
        """What a picture says besides its pixels, and its PNG file."""
        self.add(where, dict(picture.info))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        self.add(where, buffer.getvalue())

    def leaks(self, secrets: Iterable[str]) -> list[str]:
        """Where a secret is to be found: plain, percent-encoded or as base64."""
        spelled = [
            spelling
            for secret in secrets
            for spelling in (secret, quote(secret), base64.b64encode(secret.encode()).decode().rstrip("="))
        ]
        return [where for where, text in self.found.items() if any(spelling in text for spelling in spelled)]


@contextmanager
def logged(texts: Texts) -> Iterator[io.StringIO]:
    """Everything that is logged meanwhile, as the JSON lines that our most talkative level writes."""
    root = logging.getLogger()
    before, level, own = list(root.handlers), root.level, logging.getLogger("backend").level
    stream = io.StringIO()
    log_json_lines("debug", stream)
    try:
        yield stream
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.getLogger("backend").setLevel(own)
        texts.add("log", stream.getvalue())
