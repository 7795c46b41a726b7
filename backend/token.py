"""A bearer token that goes only where it was meant to go, and into no log."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Token:
    """`value` for the origins (scheme, host and port) it was given for."""

    value: str = field(repr=False)
    origins: frozenset[str]

    @classmethod
    def bound_to(cls, value: str, *urls: str | None) -> Token:
        """A token for the origins of these addresses and no others."""
        return cls(value, frozenset(origin(url) for url in urls if url))

    def for_url(self, url: str) -> str | None:
        """The value if `url` is where it may go, else None."""
        return self.value if origin(url) in self.origins else None


def origin(url: str) -> str:
    """Scheme, host and port, the last written out."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{parts.hostname}:{port}"
