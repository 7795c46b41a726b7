"""What a model needs of the Hugging Face hub's repositories: which files, at which revision, and how large they are.

Nothing here downloads (see `download.py`). HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they always
mean. What is loaded is a folder of the hub's cache, so that loading never asks the network.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from backend.errors import UnsupportedVAEError
from backend.models import ModelSpec
from backend.models.revisions import LOCK, MAIN, revision_of

_LEFT_OUT = (
    "vae",
    "vae_1_0",
    "vae_encoder",
    "vae_decoder",
    "safety_checker",
    "feature_extractor",
    "image_encoder",
)
"""Folders of a pipeline that are not loaded with its denoiser: VAEs, and what works on pixels."""
_CONFIGS = (".json", ".txt", ".model")
_WEIGHTS = ("diffusion_pytorch_model", "model")
"""How diffusers and transformers name the weights that they read; others are copies for other programs."""
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")

Part = Literal["denoiser", "VAE", "tiny VAE"]


@dataclass(frozen=True)
class HubFiles:
    """What a part of a model takes of a repository (or of a local folder in its place)."""

    repository: str
    revision: str
    subfolder: str | None
    """"" means the top folder alone, None a whole pipeline without its VAE and what works on pixels."""
    variant: str | None
    weights: bool = True
    """False: configs and tokenizers alone, those of a whole pipeline with its VAE."""

    @property
    def is_local(self) -> bool:
        return Path(self.repository).exists()

    def choose(self, names: Iterable[str]) -> list[str]:
        """Of a repository's files those that are read: see `choose`."""
        return choose(names, self.variant, self.subfolder) if self.weights else choose_configs(names)


def files_of(spec: ModelSpec, part: Part) -> HubFiles:
    """Where the files of a part are.

    Raises:
        UnsupportedVAEError: there is no tiny VAE for this model.
    """
    if part == "denoiser":
        repository, subfolder = spec.repository, None
    elif part == "VAE":
        own = spec.vae_repository is None
        repository, subfolder = (spec.repository, "vae") if own else (spec.vae_repository or "", "")
    elif spec.tiny_vae is None:
        raise UnsupportedVAEError(
            "There is no tiny VAE for {model}.", "Please choose another mode.", model=spec.title_message
        )
    else:
        repository, subfolder = spec.tiny_vae, ""
    variant = spec.variant if repository == spec.repository else None
    return HubFiles(repository, revision_of(spec, repository), subfolder, variant)


def configs_beside(spec: ModelSpec) -> Path:
    """The folder of a checkpoint's name next to it, which may hold its configs and tokenizer in diffusers' format."""
    return Path(spec.repository).with_suffix("")


def config_files(spec: ModelSpec) -> HubFiles | None:
    """What a checkpoint, which holds weights only, needs of the hub; None if nothing, as any other model."""
    if not spec.is_checkpoint or spec.config_repository is None or configs_beside(spec).is_dir():
        return None
    repository = spec.config_repository
    return HubFiles(repository, revision_of(spec, repository), None, None, weights=False)


def folder(files: HubFiles) -> Path:
    """Where they lie on this computer; asks no network.

    Raises:
        huggingface_hub.errors.LocalEntryNotFoundError: nowhere.
    """
    from huggingface_hub import errors, try_to_load_from_cache

    if files.is_local:
        return Path(files.repository)
    name = (
        "model_index.json" if files.subfolder is None else str(PurePosixPath(files.subfolder) / "config.json")
    )
    found = try_to_load_from_cache(files.repository, name, revision=files.revision)
    if not isinstance(found, str):
        raise errors.LocalEntryNotFoundError(f"{files.repository} is not in the cache.")
    return Path(found.removesuffix(name))


def choose(names: Iterable[str], variant: str | None, subfolder: str | None) -> list[str]:
    """Of a repository's files those that are read: configs and safetensors, each network in `variant` if it has that.

    `subfolder` as in `HubFiles`.
    """
    chosen: list[str] = []
    by_folder: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path in map(PurePosixPath, names):
        by_folder["" if path.parent == PurePosixPath() else str(path.parent)].append(path)
    for place, paths in by_folder.items():
        if subfolder is None and (place in _LEFT_OUT or "/" in place):
            continue
        if subfolder is not None and place != subfolder:
            continue
        chosen += [str(p) for p in paths if p.suffix in _CONFIGS and ".index." not in p.name]
        if subfolder is None and place == "":
            continue  # a single-file copy of the whole pipeline, beside its parts
        weights = [p for p in paths if ".safetensors" in p.name and _stem(p).partition(".")[0] in _WEIGHTS]
        of_variant = [p for p in weights if _variant(p) == variant]
        chosen += [str(p) for p in of_variant or [p for p in weights if _variant(p) is None]]
    return sorted(chosen)


def choose_configs(names: Iterable[str]) -> list[str]:
    """Of a repository's files the configs and tokenizers of a pipeline with its VAE."""
    paths = map(PurePosixPath, names)
    left_out = set(_LEFT_OUT) - {"vae"}
    return sorted(
        str(path)
        for path in paths
        if len(path.parts) <= 2
        and path.parts[0] not in left_out
        and path.suffix in _CONFIGS
        and ".index." not in path.name
    )


def _stem(path: PurePosixPath) -> str:
    """`model.fp16` of `model.fp16-00001-of-00002.safetensors` and of `model.safetensors.index.fp16.json`."""
    name = path.name.removesuffix(".json").replace(".safetensors.index", "").removesuffix(".safetensors")
    return _SPLIT.sub("", name)


def _variant(path: PurePosixPath) -> str | None:
    return _stem(path).partition(".")[2] or None


def is_complete(files: HubFiles) -> bool:
    """Whether everything that is read lies on this computer, by what the files themselves say; asks no network.

    A pipeline's model_index.json names its components; each network needs its config and its weights, all pieces of
    them where they are split.
    """
    from huggingface_hub import errors

    if files.is_local:
        return True
    try:
        place = folder(files)
    except errors.LocalEntryNotFoundError:
        return False
    names = files.choose(_names(place))
    try:
        return all(_has_component(place, names, *one) for one in _components(place, files))
    except (OSError, ValueError, AttributeError, TypeError):
        return False  # a damaged file of JSON; the download looks after it


def _names(place: Path) -> list[str]:
    return [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()]


def _components(place: Path, files: HubFiles) -> Iterator[tuple[str, bool]]:
    """(folder, whether its weights are wanted)"""
    if files.subfolder is not None:
        yield files.subfolder, True
        return
    for name, made_of in json.loads((place / "model_index.json").read_bytes()).items():
        is_read = name not in _LEFT_OUT or (name == "vae" and not files.weights)
        if not is_read or not isinstance(made_of, list) or not made_of[-1]:
            continue
        yield name, files.weights and not any(word in made_of[-1] for word in ("Tokenizer", "Scheduler"))


def _has_component(place: Path, names: Iterable[str], subfolder: str, is_network: bool) -> bool:
    inside = [name for name in names if name.rpartition("/")[0] == subfolder]
    if not is_network:
        return bool(inside)
    pieces: set[str] = set()
    for name in inside:
        if ".index." in name:
            pieces |= set(json.loads((place / name).read_bytes())["weight_map"].values())
    held = {name.rpartition("/")[2] for name in inside if name.endswith(".safetensors")}
    return "config.json" in {name.rpartition("/")[2] for name in inside} and bool(held) and pieces <= held


# -- sizes -----------------------------------------------------------------------------------------------------

Listing = Callable[[HubFiles], Mapping[str, int] | None]
"""All files of a repository, by name, in bytes; None if they cannot be known."""


def local_listing(files: HubFiles) -> Mapping[str, int] | None:
    """Of what lies in a local folder, or in the hub's cache, complete or not; asks no network."""
    from huggingface_hub import errors

    try:
        place = folder(files)
    except errors.LocalEntryNotFoundError:
        return None
    if place.is_file():
        return {place.name: place.stat().st_size}
    return {name: (place / name).stat().st_size for name in _names(place)}


def hub_listing(files: HubFiles) -> Mapping[str, int] | None:
    """As the hub says; takes as long as the network does. None where it does not answer or refuses."""
    from huggingface_hub import HfApi

    if files.is_local:
        return local_listing(files)
    try:
        info = HfApi().model_info(files.repository, revision=files.revision, files_metadata=True, timeout=10)
    except (OSError, network_error()):
        return None
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def weight_bytes(
    spec: ModelSpec,
    parts: Iterable[Part],
    listing: Listing = local_listing,
    dtype_bytes: int | None = None,
) -> Mapping[str, int] | None:
    """Bytes of the weights of a model's parts, by component ("unet", "text_encoder", …, "vae").

    With `dtype_bytes` as they will lie in memory with floats of so many bytes, where all of a part is on this computer,
    else as stored. A single-file checkpoint is the one component "checkpoint". None if a part cannot be known: with
    `local_listing` until it is downloaded, with `hub_listing` if the hub does not answer.
    """
    sizes: dict[str, int] = defaultdict(int)
    for part in parts:
        files = files_of(spec, part)
        is_file = Path(files.repository).is_file()
        if is_file and part != "denoiser":
            continue  # counted with it
        is_here = is_complete(files)
        listed = local_listing(files) if is_here else listing(files)
        if listed is None:
            return None
        names = list(listed) if is_file else files.choose(listed)
        weights = [name for name in names if name.endswith(".safetensors")]
        if not weights:
            return None
        for name in weights:
            component = "checkpoint" if is_file else "vae" if part == "VAE" else name.partition("/")[0]
            if dtype_bytes is None or not is_here:
                sizes[component] += listed[name]
            else:
                place = Path(files.repository).parent if is_file else folder(files)
                sizes[component] += loaded_bytes(place / name, dtype_bytes)
    return dict(sizes)


def loaded_bytes(file: Path, dtype_bytes: int) -> int:
    """What a safetensors file takes once loaded with floats of `dtype_bytes`.

    Reads its header only (https://github.com/huggingface/safetensors#format).
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    size = 0
    for tensor in header.values():
        begin, end = tensor["data_offsets"]
        floats = str(tensor["dtype"]).startswith(("F", "BF"))
        size += math.prod(tensor["shape"]) * dtype_bytes if floats else end - begin
    return size


def network_error() -> type[Exception]:
    """The root of the errors of the HTTP library that huggingface_hub uses, which has changed over time."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


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
