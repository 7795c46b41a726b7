"""No regular expression of the project can be made slow by a text: each takes time in proportion to its length.

One that did let a single PNG stop the whole process for hours.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.patterns import LENGTH, ROOT, SOURCES, Pattern, attacks, collect

FOUND, UNREADABLE = collect(
    {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in SOURCES}
)


def attacked(pattern: Pattern, seconds: float) -> str | None:
    """What all attacks on it say, in a process of its own; None if they are not over in that time."""
    case = json.dumps([pattern.text, pattern.flags, pattern.is_bytes, pattern.methods])
    command = [sys.executable, "-m", "tests.patterns"]
    try:
        return subprocess.run(
            command, cwd=ROOT, input=case, text=True, stdout=subprocess.PIPE, timeout=seconds, check=True
        ).stdout
    except subprocess.TimeoutExpired:
        return None


def test_every_pattern_is_a_constant_that_can_be_tried() -> None:
    assert UNREADABLE == [] and len(FOUND) >= 7


@pytest.mark.parametrize("pattern", FOUND, ids=lambda pattern: pattern.place)
def test_no_text_makes_it_slow(pattern: Pattern) -> None:
    """Linear ones need less than a second for all of it; with 50,000 letters a quadratic one needs minutes."""
    assert int(attacked(pattern, 30.0) or 0) > 50


SLOW = {
    r"\s*([^:,]+):\s*([^,]*)(?:,|$)": "findall",  # cubic, on spaces: what stopped the process
    r"(a+)+$": "match",
    r"(?:\w+\s?)*:": "match",
    r"\s+$": "search",
    r'"(?:[^"\\]|\\.)*"': "search",  # an escaped quote may begin a string, and so may the next
}


def test_slow_ones_are_found() -> None:
    """All at once, since each is given up on only after its time; the last one is quick even beside them."""
    quick = Pattern("a+b", 0, False, ("match",), "here")
    patterns = [*(Pattern(text, 0, False, (method,), "here") for text, method in SLOW.items()), quick]
    with ThreadPoolExecutor(len(patterns)) as pool:
        over = list(pool.map(attacked, patterns, [6.0] * len(SLOW) + [60.0]))
    assert over[:-1] == [None] * len(SLOW) and over[-1] is not None


def test_patterns_are_collected_with_their_flags_and_uses() -> None:
    found, unreadable = collect(
        {
            "a.py": "import re\nID = re.compile(rb'[a-z]+', re.DOTALL | re.ASCII)\nre.match('x', y)\nre.sub(z, '', y)",
            "b.py": "from a import ID\nID.fullmatch(x)\nother.search(y)",
        }
    )
    assert [(p.text, p.is_bytes, p.methods) for p in found] == [
        ("[a-z]+", True, ("fullmatch",)),
        ("x", False, ("match",)),
    ]
    assert found[0].flags == re.DOTALL | re.ASCII and unreadable == ["a.py:4"]


def test_attacks_are_long_and_pump_every_repetition() -> None:
    texts = list(attacks(r"\{part\d\}(?: \{part\d\})+"))
    assert all(len(text) < 2 * LENGTH for text in texts)
    assert any(text.startswith("{part7} {part7} {part7}") and len(text) > LENGTH / 2 for text in texts)
