"""Which VAE latents are of. Two VAEs of one shape and scaling still are two latent spaces: a retrained one decodes
another's latents to mud, and nothing in the numbers shows it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from backend.models import ModelSpec
from backend.models.revisions import revision_of

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_CHECKPOINT_PREFIX = "first_stage_model."
"""Before the names of the VAE's tensors in a checkpoint as the original repositories published it."""
_CHUNK = 2**20


def vae_fingerprint(spec: ModelSpec) -> str:
    """`sha256:…` of the weights of a local VAE, `repository@revision` of one from the hub.

    The files are read once (335 MB for SD v1), and again only after they changed.

    Raises:
        OSError: the weights cannot be read.
    """
    source = spec.vae_repository or spec.repository
    path = Path(source)
    if not path.exists():
        return f"{source}@{revision_of(spec, source)}"
    if path.is_file():
        files = [path]
    else:
        folder = path if spec.vae_repository else path / "vae"
        files = [folder / _WEIGHTS] if (folder / _WEIGHTS).is_file() else sorted(folder.glob("*.safetensors"))
    return "sha256:" + _hash(tuple(map(_state, files)), is_checkpoint=path.is_file())


def _state(file: Path) -> tuple[Path, int, int]:
    found = file.stat()
    return file, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=32)
def _hash(files: tuple[tuple[Path, int, int], ...], is_checkpoint: bool) -> str:
    """Of the files' bytes, or of the VAE's tensors in a checkpoint; size and time are in the key of the cache only."""
    digest = hashlib.sha256()
    for file, _, _ in files:
        with file.open("rb") as stream:
            if not is_checkpoint:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                continue
            (length,) = struct.unpack("<Q", stream.read(8))
            for name, start, end in _vae_tensors(json.loads(stream.read(length))):
                digest.update(name.encode())
                stream.seek(8 + length + start)
                digest.update(stream.read(end - start))
    return digest.hexdigest()[:32]


def _vae_tensors(header: dict[str, dict[str, list[int]]]) -> Iterable[tuple[str, int, int]]:
    """(name, start, end) of each, in bytes behind the header."""
    for name in sorted(header):
        if name.startswith(_CHECKPOINT_PREFIX):
            start, end = header[name]["data_offsets"]
            yield name, start, end
