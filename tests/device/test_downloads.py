"""Downloads from a hub on this computer, in their processes, and what may happen to them on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from backend.device.downloads import Downloads
from backend.device.hub import Part, choose, files_of, is_complete
from backend.device.loading import Loader
from backend.errors import Cancelled, LatentRelayError, ModelUnavailableError
from backend.events import Downloading
from backend.models import MODELS, SD_V1, ModelSpec
from backend.settings import Settings
from tests.hub_listings import LISTINGS
from tests.hubbing import COMMIT, Hub, hub_here
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PAINTER = replace(SD_V1, name="painter", title="Painter", repository="someone/painter", vae_repository=None)
INDEX = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "vae": ["diffusers", "AutoencoderKL"],
}
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
FILES = {
    "README.md": b"# Painter",
    "model_index.json": json.dumps(INDEX).encode(),
    "painter.safetensors": b"all in one",
    "tokenizer/merges.txt": b"a b",
    "unet/config.json": b"{ }",
    "unet/diffusion_pytorch_model.safetensors": b"wide",
    UNET: np.random.default_rng(7).bytes(3_000_000),
    "unet/diffusion_pytorch_model.fp16.bin": b"pickle",
    "text_encoder/config.json": b"{  }",
    "text_encoder/model.safetensors": b"only wide",
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"vae",
    "safety_checker/model.fp16.safetensors": b"never",
}
WANTED = [
    "model_index.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "unet/config.json",
    UNET,
]
DENOISER: list[Part] = ["denoiser"]
SOON = 2.0
"""Seconds within which a person's Stop must have ended a download."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub({PAINTER.repository: dict(FILES)})
    with hub_here(hub, tmp_path):
        yield hub


@dataclass
class Person:
    """Somebody who wants a model, on a thread of their own."""

    loader: Loader
    spec: ModelSpec = PAINTER
    parts: list[Part] = field(default_factory=lambda: DENOISER)
    seen: list[Downloading] = field(default_factory=list)
    error: LatentRelayError | None = None

    def __post_init__(self) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._want, daemon=True)
        self.thread.start()

    def _want(self) -> None:
        try:
            self.loader.fetch(self.spec, self.parts, self.seen.append, self.stop)
        except LatentRelayError as error:
            self.error = error

    def has(self, count: int) -> Callable[[], bool]:
        return lambda: bool(self.seen) and self.seen[-1].done >= count

    def seconds_to_stop(self) -> float:
        begin = time.monotonic()
        self.stop.set()
        self.thread.join(30)
        return time.monotonic() - begin

    def ends(self) -> Person:
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self


@pytest.fixture
def loader() -> Loader:
    return Loader(Settings(device="cpu"))


def cached(home: Path, repository: str = PAINTER.repository) -> list[str]:
    snapshot = home / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / COMMIT
    return sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())


def blobs(home: Path) -> list[Path]:
    return sorted((home / "hub" / "models--someone--painter" / "blobs").iterdir())


# -- what comes ------------------------------------------------------------------------------------------------


def test_what_is_needed_comes_with_its_progress_and_stays(hub: Hub, loader: Loader, tmp_path: Path) -> None:
    """In the variant where there is one, no pickles, no VAE; then the hub is not asked again."""
    assert len(loader.missing(PAINTER, ["VAE", "denoiser"])) == 2
    person = Person(loader).ends()
    assert person.error is None
    assert cached(tmp_path) == WANTED
    total = sum(len(FILES[name]) for name in WANTED)
    assert person.seen[-1].done == person.seen[-1].total == total
    assert all(one.done <= after.done for one, after in zip(person.seen, person.seen[1:], strict=False))
    asked = len(hub.asked)
    assert Person(Loader(Settings(device="cpu"))).ends().seen == []
    assert len(hub.asked) == asked
    assert not [path for path in blobs(tmp_path) if path.suffix], "nothing half done is left"


def test_the_vae_comes_alone(hub: Hub, loader: Loader, tmp_path: Path) -> None:
    assert Person(loader, parts=["VAE"]).ends().error is None
    assert cached(tmp_path) == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]


def test_a_token_goes_to_the_hub_and_not_to_its_storage(
    hub: Hub, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert Person(loader).ends().error is None
    assert hub.authorised == {"127.0.0.1"} and hub.sent[UNET] == 3_000_000


@pytest.mark.parametrize("spec", [s for s in MODELS.values() if not s.is_local], ids=lambda spec: spec.name)
def test_every_model_comes_from_its_repositories_as_they_are(spec: ModelSpec, tmp_path: Path) -> None:
    """Their true files, with a few bytes in each."""
    hub = Hub({})
    components = {
        "unet": 1,
        "transformer": 1,
        "text_encoder": 1,
        "text_encoder_2": 1,
        "tokenizer": 0,
        "scheduler": 0,
    }
    for repository, listing in LISTINGS.items():
        files = {name: f"{{}} {name}".encode() for name in listing}
        held = {
            name: ["lib", "Model" if components[name] else "Tokenizer"]
            for name in components
            if any(file.startswith(f"{name}/") for file in files)
        }
        files |= {"model_index.json": json.dumps(held).encode()} if "model_index.json" in files else {}
        for name in files:
            if name.endswith(".index.json"):
                pieces = [
                    n.rpartition("/")[2]
                    for n in files
                    if n.startswith(name.partition("/")[0]) and "-of-" in n
                ]
                files[name] = json.dumps({"weight_map": dict(enumerate(pieces))}).encode()
        hub.files[repository] = files
    parts: list[Part] = ["denoiser", "VAE", *(["tiny VAE"] if spec.tiny_vae else [])]  # type: ignore[list-item]
    with hub_here(hub, tmp_path):
        person = Person(Loader(Settings(device="cpu")), spec, parts).ends()
        assert person.error is None
        assert all(is_complete(files_of(spec, part)) for part in parts)
    expected: dict[str, set[str]] = {}
    for part in parts:
        files = files_of(spec, part)
        expected.setdefault(files.repository, set()).update(
            choose(LISTINGS[files.repository], files.variant, files.subfolder)
        )
    for repository, names in expected.items():
        assert set(cached(tmp_path, repository)) == names


# -- who stops, who follows ------------------------------------------------------------------------------------


def test_stop_ends_a_slow_download_and_the_next_one_goes_on_from_there(
    hub: Hub, loader: Loader, tmp_path: Path
) -> None:
    hub.speed = 1_000_000
    person = Person(loader)
    wait_until(person.has(800_000))
    assert person.seconds_to_stop() < SOON and isinstance(person.error, Cancelled)
    assert not hub.ranges(UNET)
    hub.speed = None
    again = Person(loader).ends()
    assert again.error is None and again.seen[0].done >= 800_000
    (begin,) = hub.ranges(UNET)
    assert begin >= 700_000, "the rest alone was asked for"
    assert (tmp_path / "hub/models--someone--painter/snapshots" / COMMIT / UNET).read_bytes() == FILES[UNET]


@pytest.mark.parametrize("silent", [True, False], ids=["no answer", "no bytes"])
def test_stop_ends_a_download_that_hangs(silent: bool, hub: Hub, loader: Loader) -> None:
    hub.silent, hub.speed = silent, 0
    person = Person(loader)
    wait_until(lambda: bool(hub.asked))
    wait_until(lambda: silent or any("/storage/" in asked for asked in hub.asked))
    assert person.seconds_to_stop() < SOON and isinstance(person.error, Cancelled)


def test_weights_in_xet_come_by_plain_http(hub: Hub, loader: Loader) -> None:
    hub.xet = True
    assert Person(loader).ends().error is None
    assert hub.sent[UNET] == 3_000_000 and not any("xet-token" in asked for asked in hub.asked)


def test_two_people_share_one_download_and_one_s_stop_leaves_the_other_s(hub: Hub, loader: Loader) -> None:
    hub.speed = 1_000_000
    first = Person(loader)
    wait_until(first.has(300_000))
    second = Person(loader)
    wait_until(second.has(600_000))
    assert first.seconds_to_stop() < SOON and isinstance(first.error, Cancelled)
    hub.speed = None
    assert second.ends().error is None
    assert hub.sent[UNET] == 3_000_000, "the bytes came once"


def test_another_repository_comes_beside_one_that_hangs(hub: Hub, loader: Loader) -> None:
    hub.held = {PAINTER.repository}
    stuck = Person(loader)
    wait_until(lambda: any("/storage/" in asked for asked in hub.asked))
    hub.files["someone/else"] = {name: data for name, data in FILES.items() if name != UNET} | {UNET: b"few"}
    assert Person(loader, replace(PAINTER, name="other", repository="someone/else")).ends().error is None
    assert stuck.thread.is_alive()
    assert stuck.seconds_to_stop() < SOON


def test_the_process_ends_with_the_app_that_began_it(hub: Hub, tmp_path: Path) -> None:
    hub.speed = 0
    code = "import sys, time\nfrom backend.device.downloads import Downloads\nfrom backend.device.hub import HubFiles\n"
    code += "Downloads().follow([HubFiles('someone/painter', 'main', None, None)], print)"
    app = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        wait_until(lambda: any("/storage/" in asked for asked in hub.asked))
        (child,) = children_of(app.pid)
        app.send_signal(signal.SIGKILL)
        app.wait(10)
        wait_until(lambda: not Path(f"/proc/{child}").exists() or "Z" in state_of(child))
    finally:
        app.kill()
        app.wait(10)


def children_of(pid: int) -> list[int]:
    found = []
    for place in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (place / "children").read_text().split()]
    return found


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


# -- what goes wrong -------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_is_taken_up_again(hub: Hub, loader: Loader) -> None:
    hub.breaks = [700_000, 700_000]
    assert Person(loader).ends().error is None
    first, second = hub.ranges(UNET)
    lost = 2**18  # what is read at once, and not written yet
    assert 700_000 - lost <= first <= second - 700_000 + lost, "from where it broke, not from the start"


def test_a_damaged_part_is_fetched_anew(hub: Hub, loader: Loader, tmp_path: Path) -> None:
    hub.speed = 1_000_000
    person = Person(loader)
    wait_until(person.has(800_000))
    person.seconds_to_stop()
    (part,) = [
        path for path in blobs(tmp_path) if path.suffix == ".partial" and path.stat().st_size > 100_000
    ]
    part.write_bytes(bytes(part.stat().st_size))
    hub.speed = None
    assert Person(loader).ends().error is None
    assert (tmp_path / "hub/models--someone--painter/snapshots" / COMMIT / UNET).read_bytes() == FILES[UNET]


def test_a_part_that_is_longer_than_the_file_is_fetched_anew(
    hub: Hub, loader: Loader, tmp_path: Path
) -> None:
    hub.speed = 0
    person = Person(loader)
    wait_until(lambda: any("/storage/" in asked for asked in hub.asked))
    person.seconds_to_stop()
    for part in (path for path in blobs(tmp_path) if path.suffix == ".partial"):
        part.write_bytes(bytes(4_000_000))
    hub.speed = None
    assert Person(loader).ends().error is None


def sentence(loader: Loader) -> str:
    error = Person(loader).ends().error
    assert isinstance(error, ModelUnavailableError)
    assert error.sentence.endswith(".")
    return error.sentence


def test_what_arrives_damaged_every_time_is_not_kept(hub: Hub, loader: Loader, tmp_path: Path) -> None:
    hub.damage = {UNET}
    assert "damaged on the way" in sentence(loader)
    assert hub.sent[UNET] == 6_000_000 and UNET not in cached(tmp_path)


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(hub: Hub, loader: Loader) -> None:
    hub.claim = {UNET: 10**16}
    assert "disk is full" in sentence(loader)
    assert not any("/storage/" in asked for asked in hub.asked)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full disk")
def test_a_disk_that_fills_up_on_the_way(hub: Hub, loader: Loader, tmp_path: Path) -> None:
    blob = tmp_path / "hub/models--someone--painter/blobs" / hashlib.sha256(FILES[UNET]).hexdigest()
    blob.parent.mkdir(parents=True)
    blob.with_name(f"{blob.name}.partial").symlink_to("/dev/full")
    assert "disk is full" in sentence(loader)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"files": {}}, "Painter was not found on the hub"),
        ({"refuse": (401, {"x-error-message": "Invalid credentials in Authorization header"})}, "token"),
        ({"refuse_files": (403, {"x-error-code": "GatedRepo"})}, "accept its licence first"),
        ({"refuse": (429, {})}, "asked too often"),
    ],
    ids=["missing", "wrong token", "gated", "too often"],
)
def test_each_refusal_has_its_sentence(
    broken: dict[str, object], said: str, hub: Hub, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for name, value in broken.items():
        setattr(hub, name, value)
    assert said in sentence(loader)


def test_a_revision_is_asked_for_and_a_missing_one_is_told(hub: Hub, loader: Loader) -> None:
    assert Person(loader, replace(PAINTER, revision=COMMIT)).ends().error is None
    assert not any("/main" in request for request in hub.asked)
    error = Person(loader, replace(PAINTER, revision="b" * 40)).ends().error
    assert error is not None and "no longer on the hub" in error.sentence


def test_no_network_has_its_sentence(hub: Hub, loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "not on this computer yet, and the model hub cannot be reached" in sentence(loader)


def test_a_hub_that_is_switched_off_is_not_asked(loader: Loader) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "hub cannot be reached" in sentence(loader)


def test_a_process_that_dies_is_told(hub: Hub, loader: Loader) -> None:
    hub.speed = 0
    person = Person(loader)
    wait_until(lambda: any("/storage/" in asked for asked in hub.asked))
    (download,) = loader.downloads._running.values()
    download.end()
    assert person.ends().error is not None and "broke off" in str(person.error)


def test_the_speed_of_the_latest_download_is_remembered(hub: Hub) -> None:
    downloads = Downloads()
    assert downloads.last_speed is None
    hub.speed = 2_000_000
    downloads.follow([files_of(PAINTER, "denoiser")], lambda _: None)
    assert downloads.last_speed is not None and downloads.last_speed > 0
