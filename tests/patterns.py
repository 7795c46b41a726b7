"""The project's regular expressions, collected from its source, and texts built to make each of them slow.

`python -m tests.patterns` reads a JSON list [pattern, flags, is bytes, methods] from stdin and tries them all; whoever
runs it sets the time limit.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from re import _constants as constants  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

ROOT = Path(__file__).parent.parent
SOURCES = (ROOT / "app.py", *sorted((ROOT / "backend").rglob("*.py")), *sorted((ROOT / "ui").rglob("*.py")))
LENGTH = 50_000
_FUNCTIONS = {"compile", "match", "fullmatch", "search", "sub", "subn", "findall", "finditer", "split"}
_MOST = 60_000
"""Letters of one text."""


@dataclass(frozen=True)
class Pattern:
    """A regular expression, the methods that it is used by, and its place."""

    text: str
    flags: int
    is_bytes: bool
    methods: tuple[str, ...]
    place: str


def collect(sources: dict[str, str]) -> tuple[list[Pattern], list[str]]:
    """(the patterns, places where one is no constant) of sources by name."""
    trees = {name: ast.parse(source) for name, source in sources.items()}
    uses: dict[str, set[str]] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.attr in _FUNCTIONS
            ):
                uses.setdefault(node.value.id, set()).add(node.attr)
    found, unreadable = [], []
    for name, tree in trees.items():
        names = {
            id(node.value): target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            module, _, method = (
                ast.unparse(node.func).partition(".") if isinstance(node, ast.Call) else ("", "", "")
            )
            if module != "re" or method not in _FUNCTIONS:
                continue
            place = f"{name}:{node.lineno}"
            first = node.args[0]
            if not (isinstance(first, ast.Constant) and isinstance(first.value, str | bytes)):
                unreadable.append(place)
                continue
            methods = uses.get(names.get(id(node), ""), set()) if method == "compile" else {method}
            is_bytes = isinstance(first.value, bytes)
            text = first.value.decode("latin-1") if isinstance(first.value, bytes) else first.value
            every = ("match", "search", "fullmatch")  # a pattern that is handed on
            found.append(Pattern(text, _flags(node), is_bytes, tuple(sorted(methods)) or every, place))
    return found, unreadable


def _flags(call: ast.Call) -> int:
    """The `re.NAME` flags in a call's arguments."""
    nodes = [
        node
        for argument in [*call.args[1:], *(k.value for k in call.keywords)]
        for node in ast.walk(argument)
    ]
    flags = 0
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(getattr(re, node.attr, None), re.RegexFlag):
            flags |= int(getattr(re, node.attr))
    return flags


# -- texts that are slow ---------------------------------------------------------------------------------------


def attacks(text: str, flags: int = 0) -> Iterator[str]:
    """Texts of about `LENGTH` letters: runs of each letter and pair of letters that the pattern tells apart, and what
    it matches with each of its repetitions pumped, each before endings that do not fit."""
    tree = parser.parse(text, flags)
    letters = sorted(set(_letters(tree)) | {" ", "\n", "a", "0"})
    bodies = [letter * LENGTH for letter in letters]
    bodies += [(one + other) * (LENGTH // 2) for one in letters for other in letters if one != other]
    pumped = [_sample(tree, at) for at in range(_repeats(tree))]
    bodies += pumped
    start = _sample(tree, None)
    for body in bodies:
        for before in ("", start):
            for end in ("", "\0", "\\", '"'):
                yield before + body[:_MOST] + end


def _letters(tree: Any) -> Iterator[str]:
    """A few letters for every literal, range and category in the pattern."""
    for operator, argument in tree:
        if operator in (constants.LITERAL, constants.NOT_LITERAL):
            yield chr(argument)
        elif operator is constants.RANGE:
            yield from (chr(argument[0]), chr(argument[1]))
        elif operator is constants.IN:
            yield from _letters(argument)
        elif operator is constants.CATEGORY:
            yield {"DIGIT": "7", "SPACE": " ", "WORD": "w"}.get(str(argument).rsplit("_", 1)[-1], "-")
        else:
            for inner in _inner(operator, argument):
                yield from _letters(inner)


def _inner(operator: Any, argument: Any) -> list[Any]:
    """The patterns inside one node."""
    if operator in (constants.MAX_REPEAT, constants.MIN_REPEAT, constants.POSSESSIVE_REPEAT):
        return [argument[2]]
    if operator is constants.SUBPATTERN:
        return [argument[3]]
    if operator is constants.BRANCH:
        return list(argument[1])
    if operator is constants.ATOMIC_GROUP:
        return [argument]
    if operator in (constants.ASSERT, constants.ASSERT_NOT):
        return [argument[1]]
    return []


_REPEATS = (constants.MAX_REPEAT, constants.MIN_REPEAT, constants.POSSESSIVE_REPEAT)


def _repeats(tree: Any) -> int:
    return sum(
        (operator in _REPEATS) + sum(map(_repeats, _inner(operator, argument))) for operator, argument in tree
    )


def _sample(tree: Any, pump: int | None) -> str:
    """A text that the pattern matches, or nearly, with its repetition number `pump` done `LENGTH` times."""
    number = -1

    def walk(nodes: Any) -> str:
        nonlocal number
        text = ""
        for operator, argument in nodes:
            if operator in _REPEATS:
                number += 1
                mine = number
                once = walk(argument[2])
                times = LENGTH // max(1, len(once)) if mine == pump else max(1, argument[0])
                text += once * times
            elif operator is constants.BRANCH:
                options = [walk(option) for option in argument[1]]
                text += options[0]
            elif operator in (constants.SUBPATTERN, constants.ATOMIC_GROUP):
                text += "".join(walk(inner) for inner in _inner(operator, argument))
            elif operator is constants.NOT_LITERAL or (
                operator is constants.IN and argument[0][0] is constants.NEGATE
            ):
                text += next(
                    letter for letter in "ax0 -" if letter not in set(_letters([(operator, argument)]))
                )
            elif operator is constants.ANY:
                text += "a"
            else:
                text += next(_letters([(operator, argument)]), "")
        return text

    return walk(tree)


def try_all(text: str, flags: int, is_bytes: bool, methods: list[str]) -> int:
    """Run the pattern on all attacks; gives how many there were."""
    compiled: Any = re.compile(text.encode("latin-1") if is_bytes else text, flags)
    count = 0
    for attack in attacks(text, flags):
        subject: Any = attack.encode("latin-1", "replace") if is_bytes else attack
        for method in methods:
            if method in ("sub", "subn"):
                getattr(compiled, method)(subject[:0], subject)
            elif method == "finditer":
                sum(1 for _ in compiled.finditer(subject))
            else:
                getattr(compiled, method)(subject)
            count += 1
    return count


if __name__ == "__main__":
    sys.stdout.write(str(try_all(*json.load(sys.stdin))))
