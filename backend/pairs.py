"""`NAME=VALUE`, as flags and variables have it."""

from __future__ import annotations


def split_pair(text: str) -> tuple[str, str] | None:
    """(name, value) of `NAME=VALUE`, split at the first “=”, without spaces around it; None if “=” or the value is
    missing. The name is not checked: each caller has its own rule and its own sentence."""
    name, _, value = text.strip().partition("=")
    return (name, value) if value else None
