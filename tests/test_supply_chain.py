"""What is installed is pinned and hashed, weights are data and never code, and an audit is never silently skipped."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.audit import judge

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-without-torch.lock")
SOURCES = sorted(
    path for folder in ("backend", "ui", "benchmarks", "training") for path in (ROOT / folder).rglob("*.py")
)


def entries(name: str) -> dict[str, list[tuple[Version, str]]]:
    """Package → its pinned versions (one a marker) and the text of their entries."""
    found: dict[str, list[tuple[Version, str]]] = {}
    text = "\n".join(
        line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")
    )
    for entry in re.split(r"\n(?=\S)", text.strip()):
        package, version = re.match(r"([\w.-]+)==([\w.+]+)", entry).groups()  # type: ignore[union-attr]
        found.setdefault(package.lower(), []).append((Version(version), entry))
    return found


def wanted() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", LOCKS)
def test_every_version_is_exact_and_hashed_and_no_index_is_named(name: str) -> None:
    locked = entries(name)
    assert len(locked) > 60
    for versions in locked.values():
        assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for _, entry in versions)
    assert not re.search(r"--(index|extra-index|find-links|trusted)|://|@ ", (ROOT / name).read_text())


def test_the_lock_is_what_requirements_ask_for() -> None:
    locked = entries("requirements.lock")
    for requirement in wanted():
        for version, _ in locked[requirement.name.lower()]:
            assert version in requirement.specifier, f"{requirement} against {version}; run make lock"
    (torch,) = locked["torch"]
    assert torch[0].local is None and torch[1].count("--hash") > 10, (
        "the index's own files, for every platform"
    )


def test_the_other_lock_lacks_torch_and_its_kin_and_nothing_else() -> None:
    both, without = entries("requirements.lock"), entries("requirements-without-torch.lock")
    missing = both.keys() - without.keys()
    assert "torch" in missing and without.keys() <= both.keys()
    asked = {requirement.name.lower() for requirement in wanted()} - {"torch"}
    assert not asked & missing
    assert {name: [v for v, _ in without[name]] for name in without} == {
        name: [v for v, _ in both[name]] for name in without
    }


def test_the_image_is_built_from_the_lock() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes -r requirements.lock" in dockerfile
    assert "-r requirements.txt" not in dockerfile


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_code_comes_with_weights() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"trust_remote_code|import (pickle|joblib|dill)\b|custom_pipeline", text), path
        for name, call in calls(path):
            named = {word.arg: word.value for word in call.keywords}
            if name.endswith("torch.load"):
                assert getattr(named.get("weights_only"), "value", None) is True, path
            safe = named.get("use_safetensors")
            assert safe is None or getattr(safe, "value", False) is True, path


def test_the_app_loads_safetensors_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder whose weights are a pickle is refused, not read."""
    import torch
    from diffusers import AutoencoderKL

    from backend.device.queue import DeviceQueue
    from backend.endpoint.source import Source
    from backend.errors import LatentRelayError
    from backend.models import BUILTIN

    bomb = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (bomb,)  # type: ignore[return-value]

    (tmp_path / "config.json").write_text((Path(BUILTIN.repository) / "vae" / "config.json").read_text())
    torch.save({"x": Bomb()}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(LatentRelayError):
        Source("x", str(tmp_path), "cpu", "auto", DeviceQueue()).module()
    with pytest.raises((OSError, ValueError)):
        AutoencoderKL.from_pretrained(tmp_path, use_safetensors=True)
    assert not bomb.exists()


def test_every_way_of_loading_asks_for_safetensors() -> None:
    """`from_pretrained` in the app gets `use_safetensors=True`, itself or by the arguments it is handed."""
    for path in sorted((ROOT / "backend").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for name, call in calls(path):
            if name.endswith(".from_pretrained"):
                given = "use_safetensors" in {word.arg for word in call.keywords}
                handed = any(word.arg is None for word in call.keywords)
                assert given or (handed and '"use_safetensors": True' in text), f"{path}:{call.lineno}"


def test_an_audit_that_did_not_happen_says_so() -> None:
    good, skipped = {"name": "a", "vulns": []}, {"name": "b", "skip_reason": "not found"}
    bad = {"name": "c", "vulns": [{"id": "PYSEC-1"}]}
    assert judge({"dependencies": [good]}) == (0, "No known hole in the 1 packages of requirements.lock.")
    assert judge({"dependencies": [good, bad, skipped]})[0] == 1
    for nothing in ({"dependencies": []}, {"dependencies": [skipped]}):
        code, sentence = judge(nothing)
        assert code == 0 and sentence.startswith("NOT AUDITED")
    assert judge({"dependencies": [good, skipped]})[1].startswith("PARTLY AUDITED")
