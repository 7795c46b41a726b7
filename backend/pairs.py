"""`NAME=VALUE`, the form in which flags and environment variables give an endpoint, a token, a model or a VAE."""

from __future__ import annotations

from backend.errors import BadSettingError
from backend.message import Message


def split_pair(text: str, problem: Message, advice: Message) -> tuple[str, str]:
    """`text` as (name, value), cut at the first “=”; the value is not empty.

    Raises:
        BadSettingError: with `problem` and `advice`, if it is not of that form.
    """
    name, _, value = text.strip().partition("=")
    if not value:
        raise BadSettingError(problem, advice)
    return name, value
