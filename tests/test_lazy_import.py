"""diffusers, asked for by several threads while it is still being imported: nobody gets the half of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import threading, time
from backend.lazy_import import import_module_locked
failures = []
def ask(delay):
    time.sleep(delay)
    try:
        import_module_locked("diffusers").AutoencoderKL
    except Exception as error:
        failures.append(error)
threads = [threading.Thread(target=ask, args=(delay,)) for delay in (0, 0.02, 0.1, 0.3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
"""


def test_several_threads_at_once() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
