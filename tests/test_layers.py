"""The architecture's promises: who imports whom, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BACKEND = sorted((ROOT / "backend").rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", BACKEND, ids=lambda p: str(p.relative_to(ROOT)))
def test_backend_knows_neither_gradio_nor_the_page(path: Path) -> None:
    assert not imported(path) & {"gradio", "ui", "app"}


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return set(output.stdout.split())


@pytest.mark.parametrize("module", ["backend.studio", "backend.settings"])
def test_the_way_to_the_first_page_is_free_of_heavy_imports(module: str) -> None:
    assert not loaded_after(f"import {module}") & {"torch", "diffusers", "transformers", "skimage", "gradio"}


def test_the_heavy_ones_are_seen_when_they_are_there() -> None:
    """So that the test above can fail."""
    assert "torch" in loaded_after("import backend.vae.whole")
