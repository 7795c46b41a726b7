"""The README's promises: its commands exist, its Python runs, its map and its front matter are true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gradio
import pytest
from PIL import Image

from backend.models import MODELS
from backend.settings import table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
OUTSIDE = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
"""The environment of an example: a person's, but with one thread, as all tests have."""
MODULES = sorted(set(re.findall(r"python -m ([\w.]+)", README)))


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.split("\n")[0][:40])
def test_python_examples_run(code: str, app_url: str, tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "sketch.png")
    code = code.replace("http://127.0.0.1:7860", app_url)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**OUTSIDE, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_commands_explain_themselves(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "usage" in done.stdout


@pytest.mark.parametrize("target", ["run", "test", "check"])
def test_make_knows_its_targets(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_flag_in_the_table_is_a_flag() -> None:
    done = subprocess.run(
        [sys.executable, "app.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    flags = set(re.findall(r"^\| `(--[\w-]+)", README, re.MULTILINE))
    assert flags and all(flag in done.stdout for flag in flags)
    told = set(re.findall(r"^  (--[\w-]+)", done.stdout, re.MULTILINE))
    assert told - flags == {"--doctor", "--json"}, "no settings: they have a section of their own"
    assert flags <= told and all(flag in README for flag in told)


def test_the_settings_table_is_the_one_the_app_reads() -> None:
    assert table() in README, "print it with: python -c 'from backend.settings import table; print(table())'"


def test_the_map_names_what_is_there() -> None:
    block = README.split("## Where things are")[1]
    folder = ROOT
    for line in re.findall(r"^ *[\w./]+  +\S.*$", block, re.MULTILINE):
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT
            assert (ROOT / name).exists(), name
            folder = ROOT / name if name.endswith("/") else ROOT
        else:
            assert (folder / name).exists(), f"{folder.name}/{name}"


def test_the_architecture_names_what_is_there() -> None:
    section = README.split("## Architecture")[1].split("## Where things are")[0]
    names = set(re.findall(r"[\w/]+(?:\.py|/)(?=[`\s),])", section))
    assert len(names) > 20
    for name in names:
        assert any((ROOT / folder / name).exists() for folder in (".", "backend")), name
    assert len(section.splitlines()) < 50, "one screen"


def test_every_model_is_in_the_table() -> None:
    for name in MODELS:
        assert f"`{name}`" in README


def test_front_matter_is_what_a_space_accepts() -> None:
    head = README.split("---")[1]
    fields = dict(re.findall(r"^(\w+): (.+)$", head, re.MULTILINE))
    assert fields["sdk"] == "gradio" and fields["sdk_version"] == gradio.__version__
    assert (ROOT / fields["app_file"]).exists() and fields["license"] == "apache-2.0"
    assert len(fields["short_description"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {fields["colorFrom"], fields["colorTo"]} <= colours


def test_pictures_are_there() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).exists(), path
