"""Every sentence that the backend says to a person, collected from its source.

The rule: a sentence is a constant with gaps, written where it is said, and its values are given beside it. It stands
in the first two arguments of an error of ours, in the first of a `Message`, or in one branch of a conditional there.
A `Message` with gaps and no values is a template in a table: some `Message(template.key, …)` in the same file must give
values of its names.
"""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
BACKEND = tuple(sorted((ROOT / "backend").rglob("*.py")))
PAGE = tuple(sorted((ROOT / "ui").glob("*.py")))
"""The page raises a few errors of ours, too; it also reads messages back from pictures, so the rule is not its."""
MACHINERY = (ROOT / "backend" / "errors.py", ROOT / "backend" / "message.py")
"""Where errors and messages are made from what callers give."""


@dataclass(frozen=True)
class Template:
    """An English sentence with gaps, the values given with it (None where they cannot be read off), and its place."""

    text: str
    values: frozenset[str] | None
    place: str

    @property
    def gaps(self) -> set[str]:
        return gaps(self.text)


def gaps(text: str) -> set[str]:
    """The names of the fields of a `str.format` template."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@cache
def error_classes() -> frozenset[str]:
    """Names of all classes of our error tree: those of backend/errors.py and their subclasses anywhere in backend."""
    bases: dict[str, set[str]] = {}
    for path in BACKEND:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ClassDef):
                bases.setdefault(node.name, set()).update(map(_name, node.bases))
    found = {"LatentRelayError"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return frozenset(found)


@cache
def templates_of(path: Path) -> tuple[list[Template], list[str]]:
    """(templates, violations of the rule) of one file; a violation begins with its file and line."""
    return templates_in(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)), error_classes())


def templates_in(source: str, shown: str, errors: frozenset[str]) -> tuple[list[Template], list[str]]:
    """As `templates_of`, of a source text; `errors` are the names of the error classes."""
    templates: list[Template] = []
    violations: list[str] = []
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    filled = {keyword.arg for node in calls if _fills(node) for keyword in node.keywords}
    for node in calls:
        name = _name(node.func)
        # `wire.Message` is a request or reply, not a sentence; it takes three positional arguments.
        if name not in errors and (name != "Message" or len(node.args) != 1):
            continue
        place = f"{shown}:{node.lineno}"
        hints = [keyword.value for keyword in node.keywords if keyword.arg in ("message", "hint")]
        said = [*(node.args[:1] if name == "Message" else node.args[:2]), *hints]
        given = {keyword.arg for keyword in node.keywords} or (filled if name == "Message" else set())
        values = None if None in given else frozenset(key for key in given if key)
        for argument in said:
            for text in _texts(argument, place, violations, strict=name == "Message"):
                template = Template(text, values, place)
                templates.append(template)
                if values is not None and not template.gaps <= values:
                    violations.append(
                        f"{place}: no value for {', '.join(sorted(template.gaps - values))} of {text!r}"
                    )
    return templates, violations


def _texts(argument: ast.expr, place: str, violations: list[str], *, strict: bool) -> Iterator[str]:
    """The constant texts of a message argument; what else may hold text is a violation, if `strict` anything else."""
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        if argument.value:
            yield argument.value
    elif isinstance(argument, ast.IfExp):
        yield from _texts(argument.body, place, violations, strict=strict)
        yield from _texts(argument.orelse, place, violations, strict=strict)
    elif _holds_text(argument) or (strict and not _is_key(argument)):
        violations.append(f"{place}: not a constant template: {ast.unparse(argument)}")


def _fills(node: ast.Call) -> bool:
    """Whether this is `Message(template.key, …)`."""
    return _name(node.func) == "Message" and len(node.args) == 1 and _is_key(node.args[0])


def _is_key(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "key"


def _holds_text(node: ast.AST) -> bool:
    """Whether an expression builds text outside of nested `Message(…)` calls, `literal(…)` and subscripts."""
    if isinstance(node, ast.Call) and _name(node.func) in ("Message", "literal"):
        return False
    if isinstance(node, ast.JoinedStr | ast.BinOp):
        return True
    if isinstance(node, ast.Call) and _name(node.func) in ("str", "format", "repr"):
        return True
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    return any(_holds_text(child) for child in ast.iter_child_nodes(node))


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
