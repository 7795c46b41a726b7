"""Downloads from a hub on this computer, each in a process of its own, because the hub's library reads its
environment once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.device import hub
from backend.errors import Cancelled
from backend.models import MODELS, SD_V1
from tests.endpoint.conftest import tiny_kl
from tests.hubbing import COMMIT, Hub, serve

ROOT = Path(__file__).parents[2]
MINE = "someone/painter"
WEIGHTS = bytes(3_000_000)
FILES = {
    "README.md": b"# Painter",
    "model_index.json": b"{}",
    "painter.safetensors": b"all in one",
    "scheduler/scheduler_config.json": b"[]",
    "tokenizer/merges.txt": b"a b",
    "unet/config.json": b"{ }",
    "unet/diffusion_pytorch_model.safetensors": b"wide",
    "unet/diffusion_pytorch_model.fp16.safetensors": WEIGHTS,
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"other",
    "unet/diffusion_pytorch_model.fp16.bin": b"pickle",
    "text_encoder/model.safetensors": b"only wide",
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"vae",
    "safety_checker/model.fp16.safetensors": b"never",
}
FETCHED = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
]
SCRIPT = """
import json, sys
from dataclasses import replace
from backend.errors import LatentRelayError
from backend.device.loading import Loader
from backend.models import SD_V1
from backend.settings import Settings

spec = replace(SD_V1, name="painter", title="Painter", repository="someone/painter", vae_repository=None,
               revision=json.loads(sys.argv[1]))
told = []
try:
    Loader(Settings(device="cpu")).fetch(spec, sys.argv[2], told.append)
    print(json.dumps([[event.done, event.total] for event in told]))
except LatentRelayError as error:
    print(json.dumps(error.sentence))
"""


def in_a_process(script: str, *arguments: object, url: str, home: Path, **environment: str) -> Any:
    """What a fresh process prints last, from JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            **environment,
        },
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def fetch(
    url: str, home: Path, part: str = "denoiser", revision: str | None = None, **environment: str
) -> Any:
    """What a fresh process says: [[done, total], …], or the sentence of its error."""
    return in_a_process(SCRIPT, json.dumps(revision), part, url=url, home=home, **environment)


def cached(home: Path) -> list[str]:
    snapshot = home / "hub" / f"models--{MINE.replace('/', '--')}" / "snapshots" / COMMIT
    return sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())


def test_only_what_is_needed_comes_with_its_progress_and_stays(tmp_path: Path) -> None:
    """In the variant where there is one, no pickles, no VAE; then the same with the hub switched off."""
    with serve(Hub({MINE: FILES})) as url:
        told = fetch(url, tmp_path)
    assert cached(tmp_path) == FETCHED
    total = sum(len(FILES[name]) for name in FETCHED)
    assert told[0] == [0, total] and told[-1] == [total, total]
    assert fetch(url, tmp_path, HF_HUB_OFFLINE="1") == [], "no request is needed, and none is possible"
    assert "Painter is not on this computer yet" in fetch(url, tmp_path / "other", HF_HUB_OFFLINE="1")


def test_the_vae_comes_alone(tmp_path: Path) -> None:
    with serve(Hub({MINE: FILES})) as url:
        fetch(url, tmp_path, "VAE")
    assert cached(tmp_path) == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]


def test_a_revision_is_asked_for_and_a_missing_one_is_told(tmp_path: Path) -> None:
    server = Hub({MINE: FILES})
    with serve(server) as url:
        fetch(url, tmp_path, revision=COMMIT)
        assert not any("/main" in request for request in server.asked)
        assert "no longer on the hub" in fetch(url, tmp_path / "other", revision="b" * 40)


SERVED = """
import sys
from pathlib import Path
from backend.device import hub
from backend.endpoint.source import Source
from backend.device.queue import DeviceQueue

hub.LOCK = Path(sys.argv[1])
print(Source("mine", "someone/painter", "cpu", "auto", DeviceQueue()).module().config.latent_channels)
"""


def test_the_headless_endpoint_keeps_to_the_lock_file(tmp_path: Path) -> None:
    lock, vae = tmp_path / "revisions.json", tmp_path / "vae"
    lock.write_text(json.dumps({MINE: COMMIT}))
    tiny_kl(latent_channels=8).save_pretrained(vae)
    server = Hub({MINE: {path.name: path.read_bytes() for path in vae.iterdir()}})
    with serve(server) as url:
        assert in_a_process(SERVED, lock, url=url, home=tmp_path / "home") == 8
    assert any(COMMIT in request for request in server.asked)
    assert not any("/main" in request for request in server.asked)


@pytest.mark.parametrize(
    ("server", "sentence"),
    [
        (Hub({}), "Painter was not found on the hub"),
        (
            Hub(
                {MINE: FILES},
                refuse=(401, {"x-error-message": "Invalid credentials in Authorization header"}),
            ),
            "token",
        ),
        (Hub({MINE: FILES}, refuse_files=(403, {"x-error-code": "GatedRepo"})), "accept its licence first"),
        (Hub({MINE: FILES}, refuse=(429, {})), "asked too often"),
    ],
    ids=["missing", "wrong token", "gated", "too often"],
)
def test_each_refusal_has_its_sentence(server: Hub, sentence: str, tmp_path: Path) -> None:
    with serve(server) as url:
        said = fetch(url, tmp_path, HF_TOKEN="hf_wrong")
    assert sentence in said and said.endswith(".")


def test_no_network_has_its_sentence(tmp_path: Path) -> None:
    said = fetch("http://127.0.0.1:9", tmp_path)
    assert "not on this computer yet, and the model hub cannot be reached" in said


@pytest.mark.parametrize(
    ("subfolder", "variant", "chosen"),
    [
        ("", None, ["README.txt", "config.json", "diffusion_pytorch_model.safetensors"]),
        ("vae", "fp16", ["vae/diffusion_pytorch_model.safetensors"]),
    ],
)
def test_choosing(subfolder: str, variant: str | None, chosen: list[str]) -> None:
    names = [
        "README.txt",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.bin",
    ]
    names += ["vae/diffusion_pytorch_model.safetensors", "vae/old/diffusion_pytorch_model.safetensors"]
    assert hub.choose(names, variant, subfolder) == chosen


def test_split_weights_come_with_their_index() -> None:
    names = [f"transformer/d.safetensors.index{v}.json" for v in ("", ".fp16")]
    names += [f"transformer/d{v}-0000{n}-of-00002.safetensors" for v in ("", ".fp16") for n in (1, 2)]
    assert hub.choose(names, "fp16", None) == sorted(n for n in names if "fp16" in n)
    assert hub.choose(names, None, None) == sorted(n for n in names if "fp16" not in n)


def test_pinning_writes_a_lock_file_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repositories = {
        r for s in MODELS.values() if not s.is_local for r in (s.repository, s.vae_repository, s.tiny_vae)
    }
    server = Hub({str(name): {} for name in repositories if name})
    lock = tmp_path / "revisions.json"
    with serve(server) as url:
        code = "from backend.device import hub; from backend.models import __main__ as models; import pathlib, sys; "
        code += "hub.pin.__defaults__ = (pathlib.Path(sys.argv[1]),); sys.exit(models.main(['--pin']))"
        done = subprocess.run(
            [sys.executable, "-c", code, str(lock)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)},
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(lock.read_text())[SD_V1.repository] == COMMIT
    monkeypatch.setattr(hub, "LOCK", lock)
    hub.pinned.cache_clear()
    try:
        assert hub.revision_of(SD_V1, SD_V1.repository) == COMMIT
        assert hub.revision_of(replace(SD_V1, revision="v2"), SD_V1.repository) == "v2"
        assert hub.revision_of(SD_V1, "someone/else") == "main"
    finally:
        hub.pinned.cache_clear()


def test_the_bar_tells_bytes_and_time_left_and_may_be_stopped() -> None:
    told = []
    bar = hub._bar("Painter", 100, told.append)(desc="Downloading bytes", total=0, unit="B")
    files = hub._bar("Painter", 100, told.append)(desc="Fetching 2 files", total=2)
    files.update(1)
    assert told == [], "files are not bytes"
    bar.update(100)
    assert [(t.title, t.done, t.total) for t in told] == [("Painter", 100, 100)] and told[0].seconds_left == 0

    def stop(_: object) -> None:
        raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        hub._bar("Painter", 10, stop)(unit="B").update(10)
