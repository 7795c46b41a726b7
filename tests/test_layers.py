"""The architecture's promises: who imports whom, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = (
    # Words and data: what a request, an event, a report, a model, a setting is.
    "backend.message backend.dtypes backend.errors backend.report backend.events backend.pairs backend.models "
    "backend.job backend.request backend.settings backend.logs backend.token backend.families backend.images "
    "backend.prompt_words backend.prompt_dictionary backend.units backend.comfyui backend.foreign_latents "
    "backend.latents backend.shards backend.lazy_import backend.quality",
    # Bytes to tensors and back, without I/O.
    "backend.wire",
    # What computes here.
    "backend.device backend.vae",
    # Where a stage can run: elsewhere, or here if it fits. The endpoint is such a place for others.
    "backend.remote backend.placement backend.endpoint",
    # A stage, a job, a batch.
    "backend.run",
    # What a person or a program starts.
    "backend.studio backend.encode backend.compare backend.bench backend.cluster backend.conformance "
    "backend.doctor backend.models.__main__ backend.endpoint.__main__",
    "ui",
)
"""From the bottom up. A module is found by its longest prefix; it may import from its own layer and those below."""

Graph = Mapping[str, frozenset[str]]


def sources(*packages: str) -> dict[str, str]:
    """Module name → source, for each module of the packages."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imported(name: str, source: str, modules: Mapping[str, str]) -> Iterator[str]:
    """What a module imports anywhere: at its top, inside functions, for types only, or by `import_module`.

    Of `from a.b import c`, this is a.b.c if there is such a module, else a.b; so a package's own `__init__` counts
    where something is taken from it, and not where it is only passed on the way to a module inside.
    """
    is_package = any(other.startswith(f"{name}.") for other in modules)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".")[: None if is_package else -1]
            start = ".".join(parents[: len(parents) + 1 - node.level]) if node.level else ""
            base = ".".join(filter(None, (start, node.module)))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in modules else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called.startswith("import_module"):
                yield str(node.args[0].value)


def import_graph(modules: Mapping[str, str]) -> Graph:
    """Module → the others of `modules` that it imports."""
    return {
        name: frozenset(imported(name, source, modules)) & modules.keys() - {name}
        for name, source in modules.items()
    }


def circles(graph: Graph) -> list[list[str]]:
    """The strongly connected components of more than one module."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            new = graph[ahead.pop()] - seen
            seen |= new
            ahead += new
        return seen

    reach = {name: reached(name) for name in graph}
    found = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return sorted(sorted(component) for component in found if len(component) > 1)


def layer(module: str) -> int:
    """Raises KeyError for a module that no layer names."""
    places = {prefix: level for level, prefixes in enumerate(LAYERS) for prefix in prefixes.split()}
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (prefix := ".".join(parts[:length])) in places:
            return places[prefix]
    raise KeyError(module)


def imports_upwards(graph: Graph) -> list[str]:
    return [
        f"{name} imports {other}"
        for name in sorted(graph)
        for other in sorted(graph[name])
        if layer(other) > layer(name)
    ]


MODULES = sources("backend", "ui")
GRAPH = import_graph({name: source for name, source in MODULES.items() if name != "backend"})


def test_no_import_runs_in_a_circle() -> None:
    assert circles(GRAPH) == []


def test_no_import_runs_upwards() -> None:
    assert imports_upwards(GRAPH) == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("backend")])
def test_backend_knows_neither_gradio_nor_the_page(module: str) -> None:
    names = {name.partition(".")[0] for name in imported(module, MODULES[module], MODULES)}
    assert not names & {"gradio", "ui", "app"}


def test_a_circle_is_seen_however_it_is_hidden() -> None:
    """So that the tests above can fail."""
    modules = {
        "backend.errors": "from backend import job",
        "backend.job": "def late():\n    import backend.events",
        "backend.events": "if TYPE_CHECKING:\n    from backend.report import Report",
        "backend.report": "import_module('backend.errors')",
        "backend.vae": "from .base import VAE",
        "backend.vae.base": "from . import whole",
        "backend.vae.whole": "from ..vae import VAE",
        "backend.run": "import backend.vae.base, os",
    }
    graph = import_graph(modules)
    assert graph["backend.run"] == {"backend.vae.base"}
    assert circles(graph) == [
        ["backend.errors", "backend.events", "backend.job", "backend.report"],
        ["backend.vae", "backend.vae.base", "backend.vae.whole"],
    ]


def test_an_import_upwards_is_seen() -> None:
    graph = import_graph(
        {
            "backend.wire.tensors": "def late():\n    from backend.vae.base import VAE",
            "backend.vae.base": "from backend.wire.tensors import pack\nfrom backend.device import queue",
            "backend.device.queue": "import ui.page",
            "ui.page": "from backend.models.__main__ import main",
            "backend.models.__main__": "from backend.device.queue import DeviceQueue",
        }
    )
    assert imports_upwards(graph) == [
        "backend.device.queue imports ui.page",
        "backend.wire.tensors imports backend.vae.base",
    ]
    with pytest.raises(KeyError):
        layer("backend.somewhere")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return set(output.stdout.split())


@pytest.mark.parametrize("module", ["backend.studio", "backend.settings", "ui.page"])
def test_the_way_to_the_first_page_is_free_of_heavy_imports(module: str) -> None:
    heavy = {"torch", "diffusers", "transformers", "skimage", "scipy", "gradio"}
    assert not loaded_after(f"import {module}") & heavy - ({"gradio"} if module.startswith("ui.") else set())


def test_the_heavy_ones_are_seen_when_they_are_there() -> None:
    """So that the test above can fail."""
    assert "torch" in loaded_after("import backend.vae.whole")
