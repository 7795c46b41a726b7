"""Shards of latents for training: which pictures go together, what a folder of them holds already, and writing them.

Each is a safetensors file with one tensor a picture (C, h, w), named after the picture, and metadata that say what the
numbers mean, the pictures' sizes and the model. It is written whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import BadLatentsError, BadSettingError
from backend.latents import SHARD_FORMAT, check_meaning, meaning
from backend.models import ModelSpec

if TYPE_CHECKING:
    import torch

_TINY = "tiny"


def bucket(size: tuple[int, int], side: int, multiple: int) -> tuple[int, int]:
    """(width, height) for a picture of `size`: about `side` squared, near its shape, from a short list of shapes.

    The sides are multiples of an eighth of `side` (and of `multiple`), so that pictures of about the same shape come
    out equal and can go through the VAE together.
    """
    step = max(multiple, side // 8 // multiple * multiple)

    def to_step(value: float) -> int:
        return max(step, round(value / step) * step)

    aspect = min(4.0, max(0.25, size[0] / size[1]))
    return to_step(side * aspect**0.5), to_step(side / aspect**0.5)


def finished(out: Path, spec: ModelSpec, side: int, *, tiny: bool = False) -> set[str]:
    """Names of the pictures that are in complete shards already. `tiny`: of the model's tiny VAE.

    Raises:
        BadSettingError: a shard is damaged, or of another model, VAE or size: those are not to be mixed.
    """
    from safetensors import SafetensorError, safe_open

    names: set[str] = set()
    for path in sorted(out.glob("shard-*.safetensors")):
        try:
            with safe_open(str(path), framework="pt") as shard:
                shapes = {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
                metadata = shard.metadata() or {}
                _check_shard(path, metadata, shapes, spec, side)
                _check_tiny(path, metadata, tiny)
                names.update(shapes)
        except SafetensorError as error:
            raise BadSettingError(
                "The shard {path} is damaged.", "Delete it, and its pictures are done again.", path=str(path)
            ) from error
    return names


def _check_shard(
    path: Path, metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], spec: ModelSpec, side: int
) -> None:
    """Raises BadSettingError: the shard, whose tensors have those shapes, is not of this model, VAE and size."""
    if metadata.get("format") != SHARD_FORMAT:
        raise BadSettingError(
            "{path} is not a shard of this command.",
            "Please choose an empty folder for --out.",
            path=str(path),
        )
    if metadata.get("model") != spec.name:
        raise BadSettingError(
            "The shard {path} holds latents of the model {theirs}, not of {ours}.",
            "Please choose another folder for --out.",
            path=str(path),
            theirs=metadata.get("model", "–"),
            ours=spec.name,
        )
    # Version 1 wrote neither; they are a part of what the model's name means.
    known = {"channels": str(spec.latents.channels), "downscale": str(spec.latents.downscale)}
    try:
        check_meaning(known | dict(metadata), spec)
    except BadLatentsError as error:
        raise BadSettingError(
            "The shard {path} cannot be continued. {why}",
            "Please choose another folder for --out.",
            path=str(path),
            why=error.message,
        ) from error
    if not _is_of_side(metadata, shapes, spec, side):
        raise BadSettingError(
            "The shard {path} holds pictures of another size than {side}.",
            "Give the --size that it was made with, or choose another folder for --out.",
            path=str(path),
            side=side,
        )


def _check_tiny(path: Path, metadata: Mapping[str, str], tiny: bool) -> None:
    """Raises BadSettingError: the shard is not of this one of the model's two VAEs. Older ones do not say, and pass."""
    theirs = metadata.get(_TINY, _said(tiny))
    if theirs == _said(tiny):
        return
    raise BadSettingError(
        "The shard {path} holds latents of the model’s whole VAE, not of its tiny one."
        if tiny
        else "The shard {path} holds latents of the model’s tiny VAE, not of its whole one.",
        "Give the --vae-mode that it was made with, or choose another folder for --out.",
        path=str(path),
    )


def _said(value: bool) -> str:
    return "true" if value else "false"


def _is_of_side(
    metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], spec: ModelSpec, side: int
) -> bool:
    """Whether the shard says so; one of version 1, which does not, shows it by its tensors' shapes."""
    if "side" in metadata:
        return metadata["side"] == str(side)
    sizes: dict[str, tuple[int, int]] = json.loads(metadata.get("sizes", "{}"))
    for name, (_, h, w) in shapes.items():
        if name not in sizes or bucket(sizes[name], side, spec.size_multiple) != (
            w * spec.latents.downscale,
            h * spec.latents.downscale,
        ):
            return False
    return True


class Shard:
    """Pictures that wait to be written together."""

    def __init__(self, out: Path, spec: ModelSpec, side: int, tiny: bool) -> None:
        self._out = out
        marks = {"scaled": "true", "side": str(side), _TINY: _said(tiny)}
        self._meaning = {"format": SHARD_FORMAT, **meaning(spec), **marks}
        self._tensors: dict[str, torch.Tensor] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        numbers = [int(path.stem.removeprefix("shard-")) for path in out.glob("shard-*.safetensors")]
        self._number = max(numbers, default=-1) + 1

    def __len__(self) -> int:
        return len(self._tensors)

    def add(self, name: str, latents: torch.Tensor, size: tuple[int, int]) -> None:
        self._tensors[name] = latents.clone().contiguous()  # a tiny VAE's come with channels last
        self._sizes[name] = size

    def write(self) -> None:
        """Write and start the next; renamed into place only when all bytes are on the disk."""
        from safetensors.torch import save_file

        if not self._tensors:
            return
        path = self._out / f"shard-{self._number:05d}.safetensors"
        part = path.with_suffix(".part")
        metadata = {**self._meaning, "sizes": json.dumps(self._sizes)}
        save_file(self._tensors, str(part), metadata=metadata)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
        self._tensors, self._sizes = {}, {}
        self._number += 1
