"""Weights from the Hugging Face hub: only what is needed, only safetensors, with progress, at a pinned revision.

Everything goes through `huggingface_hub`, so HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they always
mean. What is loaded afterwards is a folder of its cache, so that loading never asks the network.

`python -m backend.models --pin` writes each repository's present commit into revisions.json; a repository that is not
in there follows its branch `main`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from backend.events import Downloading
from backend.models import ModelSpec

LOCK = Path(__file__).parents[1] / "revisions.json"
MAIN = "main"
_REPORT_SECONDS = 0.5
"""At least this long between two reports of progress."""
_LEFT_OUT = ("vae", "vae_1_0", "safety_checker", "feature_extractor", "image_encoder")
_CONFIGS = (".json", ".txt", ".model")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")

ProgressCallback = Callable[[Downloading], None]


@cache
def pinned() -> Mapping[str, str]:
    """Commit hashes by repository."""
    return json.loads(LOCK.read_bytes()) if LOCK.is_file() else {}


def revision_of(spec: ModelSpec, repository: str) -> str:
    """The commit, tag or branch that the spec names for its repository, else the lock file's, else `main`."""
    specified = spec.revision if repository == spec.repository else None
    return specified or pinned_revision(repository)


def pinned_revision(repository: str) -> str:
    """The commit in the lock file, else `main`."""
    return pinned().get(repository, MAIN)


def folder(repository: str, revision: str, subfolder: str | None) -> Path:
    """Where the cache holds that revision; asks no network.

    Raises:
        huggingface_hub.errors.LocalEntryNotFoundError: it does not.
    """
    from huggingface_hub import errors, try_to_load_from_cache

    name = "model_index.json" if subfolder is None else str(PurePosixPath(subfolder) / "config.json")
    found = try_to_load_from_cache(repository, name, revision=revision)
    if not isinstance(found, str):
        raise errors.LocalEntryNotFoundError(f"{repository} is not in the cache.")
    return Path(found.removesuffix(name))


def fetch(
    spec: ModelSpec, repository: str, subfolder: str | None, on_progress: ProgressCallback = lambda _: None
) -> None:
    """Download what is missing into the cache: the weights in `subfolder`, or (None) a pipeline's.

    `on_progress` may raise to end the download; what is there stays, and the next one goes on from it.

    Raises:
        huggingface_hub.errors.HfHubHTTPError, OSError: from the hub, the network or the disk.
    """
    from huggingface_hub import HfApi, snapshot_download

    revision = revision_of(spec, repository)
    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = choose(sizes, spec.variant if repository == spec.repository else None, subfolder)
    missing = [name for name in wanted if not _is_here(repository, info.sha or revision, name)]
    total = sum(sizes[name] for name in missing)
    if missing:
        on_progress(Downloading(spec.title, 0, total, None))
    bar = _bar(spec.title, total, on_progress)
    snapshot_download(repository, revision=revision, allow_patterns=wanted, tqdm_class=bar)
    if missing:
        on_progress(Downloading(spec.title, total, total, 0.0))


def choose(names: Iterable[str], variant: str | None, subfolder: str | None) -> list[str]:
    """Of a repository's files those to fetch: configs and safetensors, each network in `variant` if it has that.

    `subfolder` "" means the top folder alone, None a whole pipeline without its VAE and what works on pixels.
    """
    chosen: list[str] = []
    by_folder: dict[str, list[PurePosixPath]] = {}
    for path in map(PurePosixPath, names):
        by_folder.setdefault("" if path.parent == PurePosixPath() else str(path.parent), []).append(path)
    for place, paths in by_folder.items():
        if subfolder is None and (place in _LEFT_OUT or "/" in place):
            continue
        if subfolder is not None and place != subfolder:
            continue
        chosen += [str(p) for p in paths if p.suffix in _CONFIGS and ".index." not in p.name]
        if subfolder is None and place == "":
            continue  # a single-file copy of the whole pipeline, beside its parts
        weights = [p for p in paths if ".safetensors" in p.name]
        of_variant = [p for p in weights if _variant(p) == variant]
        chosen += [str(p) for p in of_variant or [p for p in weights if _variant(p) is None]]
    return sorted(chosen)


def _variant(path: PurePosixPath) -> str | None:
    """`fp16` of `model.fp16-00001-of-00002.safetensors` and of `model.safetensors.index.fp16.json`."""
    name = path.name.removesuffix(".json").replace(".safetensors.index", "").removesuffix(".safetensors")
    return _SPLIT.sub("", name).partition(".")[2] or None


def _is_here(repository: str, revision: str, name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, name, revision=revision), str)


def _bar(title: str, total: int, on_progress: ProgressCallback) -> type[Any]:
    """A tqdm class for `snapshot_download` that draws nothing and calls `on_progress` instead.

    The hub shows several bars; those in bytes count the same download, on the wire and on the disk.
    """
    from tqdm import tqdm

    begin = time.monotonic()
    guard = threading.Lock()
    last = begin

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            self._bytes = 0
            self._counts = options.get("unit") == "B"
            super().__init__(*args, **options | {"disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal last
            if not self._counts or not n:
                return None
            with guard:
                self._bytes += int(n)
                now = time.monotonic()
                if now - last < _REPORT_SECONDS and self._bytes < total:
                    return None
                last = now
            done = min(self._bytes, total)
            left = (now - begin) / done * (total - done) if done else None
            on_progress(Downloading(title, done, total, left))
            return None

    return Bar


def pin(repositories: Iterable[str], path: Path = LOCK) -> dict[str, str]:
    """Write each repository's present commit to the lock file, and give them.

    Raises:
        huggingface_hub.errors.HfHubHTTPError, OSError: one could not be asked; nothing is written then.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    commits = {name: str(api.model_info(name, revision=MAIN).sha) for name in sorted(set(repositories))}
    path.write_text(json.dumps(commits, indent=1) + "\n", encoding="utf-8")
    return commits
