"""docs/endpoint.md: its commands and its Python run as they stand, against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from backend.endpoint.__main__ import _parser
from backend.job import LOSSLESS
from backend.models import BUILTIN

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "endpoint.md").read_text()


def test_the_examples_scale_as_the_built_in_model_does() -> None:
    assert set(re.findall(r"scaling_factor=([\d.]+)", TEXT)) == {repr(BUILTIN.latents.scaling_factor)}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.fixture
def folder(tmp_path: Path, picture: Image.Image) -> Path:
    picture.save(tmp_path / "picture.png")
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_commands(base: str, folder: Path) -> None:
    (script,) = blocks("bash")
    script = script.replace("http://127.0.0.1:7861", base)
    subprocess.run(["bash", "-euc", script], cwd=folder, check=True, timeout=60)
    assert size(folder / "back.png") == size(folder / "picture.png")
    assert "shape: [1, 4, 16, 24]" in (folder / "headers.txt").read_text()


@pytest.mark.parametrize("index", range(2))
def test_the_python_examples(base: str, folder: Path, index: int) -> None:
    script = blocks("python")[index].replace("http://127.0.0.1:7861", base)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if index:
        assert done.stdout.startswith("ready ") and "lossless=True" in done.stdout
    else:
        assert size(folder / "again.png") == (96, 64)


def test_the_commands_have_flags_that_exist() -> None:
    for line in re.findall(r"^python -m backend\.endpoint (.+)$", TEXT, re.MULTILINE):
        _parser().parse_args(line.split())
    assert len(blocks("python")) == 2


def test_the_table_of_transfers_is_the_codes() -> None:
    described = {
        name: answer == "yes"
        for name, answer in re.findall(r"^\| `(\w+)`.*\| (yes|no) \|$", TEXT, re.MULTILINE)
    }
    assert described == LOSSLESS
