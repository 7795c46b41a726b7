"""What the backend says to a person, as data: an English sentence with gaps, and what goes into the gaps.

The English sentence is also the key under which a language keeps its translation, as gettext does it. A message
becomes text at the edge only: English in the log and on the command line, the visitor's language on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, init=False)
class Message:
    """`Message("{count} others wait.", count=3)`. Falsy when empty.

    `key`: English, with `str.format` fields. `values`: by field name; numbers, plain text that is shown as it is (a
    file name, what a server answered), or messages, which are translated as well.
    """

    key: str
    values: Mapping[str, Any]

    def __init__(self, key: str, /, **values: Any) -> None:
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "values", values)

    def __hash__(self) -> int:
        return hash(self.key)

    def __bool__(self) -> bool:
        return bool(self.key)

    def __str__(self) -> str:
        return self.render(lambda key: key)

    def render(self, translate: Callable[[str], str]) -> str:
        """The text, with `translate(key)` in place of each key; a key without values is not looked through for gaps."""
        text = translate(self.key)
        if not self.values:
            return text
        return text.format_map(
            {
                name: value.render(translate) if isinstance(value, Message) else value
                for name, value in self.values.items()
            }
        )


def literal(text: str) -> Message:
    """Text that is the same in every language, such as the name of a graphics card or of a host."""
    return Message("{text}", text=text)


_MODE_NAMES = {
    "auto": Message("auto"),
    "whole": Message("whole"),
    "tiled": Message("tiled"),
    "streamed": Message("streamed"),
    "tiny": Message("tiny"),
    "remote": Message("remote"),
}


def mode_name(mode: str) -> Message:
    """A VAE mode as a word inside a sentence; one that is not in the table stays as it is."""
    return _MODE_NAMES.get(mode, literal(mode))


def join(*messages: Message) -> Message:
    """Sentences one after the other, with a space between; empty ones are left out."""
    kept = [message for message in messages if message]
    if len(kept) == 1:
        return kept[0]
    names = [f"part{index}" for index in range(len(kept))]
    return Message(" ".join(f"{{{name}}}" for name in names), **dict(zip(names, kept, strict=True)))
