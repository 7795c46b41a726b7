"""SECURITY.md: each promise names the tests that hold it, and they exist."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PROMISES = re.split(r"^- ", TEXT.partition("## What is promised")[2].partition("\n## ")[0], flags=re.M)[1:]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda text: text.split("**")[1])
def test_a_promise_names_tests_that_exist(promise: str) -> None:
    files = re.findall(r"\]\((tests/[\w/]+\.py)\)", promise)
    assert files, "nothing holds it"
    for file in files:
        assert "def test_" in (ROOT / file).read_text(encoding="utf-8"), file


def test_there_are_promises() -> None:
    assert len(PROMISES) > 12
