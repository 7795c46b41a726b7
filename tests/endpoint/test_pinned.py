"""The headless endpoint's weights come at the commit that the lock file names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.endpoint.conftest import tiny_kl
from tests.hubbing import COMMIT, Hub, serve

ROOT = Path(__file__).parents[2]
MINE = "someone/painter"
SERVED = """
import sys
from pathlib import Path
from backend.models import revisions
from backend.endpoint.source import Source
from backend.device.queue import DeviceQueue

revisions.LOCK = Path(sys.argv[1])
print(Source("mine", "someone/painter", "cpu", "auto", DeviceQueue()).module().config.latent_channels)
"""


def test_the_headless_endpoint_keeps_to_the_lock_file(tmp_path: Path) -> None:
    lock, vae = tmp_path / "revisions.json", tmp_path / "vae"
    lock.write_text(json.dumps({MINE: COMMIT}))
    tiny_kl(latent_channels=8).save_pretrained(vae)
    server = Hub({MINE: {path.name: path.read_bytes() for path in vae.iterdir()}})
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with serve(server) as url:
        done = subprocess.run(
            [sys.executable, "-c", SERVED, str(lock)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            env={**kept, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"},
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "8"
    assert any(COMMIT in request for request in server.asked)
    assert not any("/main" in request for request in server.asked)
