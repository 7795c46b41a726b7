"""diffusers, asked for by several threads while it is still being imported: nobody gets the half of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

SCRIPT = """
import threading, time
from backend.lazy_import import diffusers_class
failures = []
def ask(delay):
    time.sleep(delay)
    try:
        diffusers_class("AutoencoderKL").from_config
    except Exception as error:
        failures.append(error)
threads = [threading.Thread(target=ask, args=(delay,)) for delay in (0, 0.02, 0.1, 0.3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
"""


def run(script: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr


def test_several_threads_at_once() -> None:
    run(SCRIPT)


COLLECTIONS = """
import gc
from backend.lazy_import import diffusers_class, garbage_collection_paused
counted = []
gc.callbacks.append(lambda phase, info: counted.append(info["generation"]) if phase == "start" else None)
import torch
before = counted.count(2)
diffusers_class("AutoencoderKL")
assert before and counted.count(2) == before, (before, counted.count(2))
assert gc.isenabled()
gc.disable()
with garbage_collection_paused():
    pass
assert not gc.isenabled(), "the owner's choice"
"""


def test_no_garbage_is_collected_while_diffusers_is_imported() -> None:
    run(COLLECTIONS)


FROZEN = """
import gc, weakref
from backend.lazy_import import diffusers_class
vae_class = diffusers_class("AutoencoderKL")
kept, watched = gc.get_freeze_count(), len(gc.get_objects())
assert kept > 10 * watched, (kept, watched)
vae = vae_class(block_out_channels=(8,), norm_num_groups=2)
vae.itself = [vae]  # a cycle: only the collector frees it
gone = weakref.ref(vae)
diffusers_class("UNet2DConditionModel")
assert gc.get_freeze_count() <= kept, "later imports would keep the models of their time"
del vae
gc.collect()
assert gone() is None
"""


def test_what_was_imported_is_left_out_of_collections_and_no_model_is() -> None:
    run(FROZEN)


def test_the_app_and_the_endpoint_import_diffusers_no_other_way() -> None:
    """A plain import may be handed the half of it, and leaves half a million objects to every collection."""
    imported = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "backend").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
        if name and name.partition(".")[0] == "diffusers"
    }
    assert {path for path in imported if not path.startswith("backend/conformance/")} == {
        "backend/doctor/examine.py"  # silences its progress bars
    }
