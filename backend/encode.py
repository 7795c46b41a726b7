"""A folder of pictures to latents for training: `python -m backend.encode FOLDER --model NAME --out FOLDER`.

Each shard is a safetensors file with one tensor a picture (C, h, w), named after the picture, and metadata that say
what the numbers mean, the pictures' sizes and the model. A shard is written whole or not at all, and a picture counts
as done when its shard is there: after a kill the same command goes on with the rest.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from backend import images
from backend.errors import (
    BadImageError,
    BadLatentsError,
    BadSettingError,
    LatentRelayError,
    OutOfMemoryError,
)
from backend.job import MAX_SIDE, VaeOptions
from backend.latents import SHARD_FORMAT, check_meaning, meaning
from backend.message import Message
from backend.models import MODELS, ModelSpec
from backend.request import encode_request
from backend.run.batch_size import BatchSize
from backend.settings import Settings, merge_endpoints
from backend.studio import Studio
from backend.units import seconds

if TYPE_CHECKING:
    import torch

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Progress:
    """After each batch. `seconds_left` is a guess from this run's own speed, None before there is one."""

    done: int
    total: int
    unreadable: int
    pictures_per_second: float
    seconds_left: float | None


@dataclass
class Summary:
    """What a run did; `unreadable` has each picture's name and a sentence why."""

    encoded: int = 0
    skipped: int = 0
    seconds: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)


def find_pictures(folder: Path) -> list[str]:
    """Names of the pictures under `folder`, relative to it, with forward slashes, in a fixed order."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )


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


def finished(out: Path, spec: ModelSpec, side: int) -> set[str]:
    """Names of the pictures that are in complete shards already.

    Raises:
        BadSettingError: a shard is damaged, or of another model, VAE or size: those are not to be mixed.
    """
    from safetensors import SafetensorError, safe_open

    names: set[str] = set()
    for path in sorted(out.glob("shard-*.safetensors")):
        try:
            with safe_open(str(path), framework="pt") as shard:
                shapes = {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
                _check_shard(path, shard.metadata() or {}, shapes, spec, side)
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


class BulkEncoder:
    """Encodes a folder's pictures with a VAE mode into shards."""

    def __init__(
        self,
        studio: Studio,
        spec: ModelSpec,
        options: VaeOptions,
        *,
        side: int | None = None,
        batch: int | None = None,
        shard: int = 1000,
    ) -> None:
        """`side`: of the square whose area pictures are resized to (the model's native size if None).

        `batch` and `shard`: pictures in one. A batch of None is as many as turn out to be fastest here.

        Raises:
            BadSettingError: a number out of range.
        """
        self.studio = studio
        self.spec = spec
        self.options = options.checked()
        self.side = side or spec.native_size
        self.batch = batch
        self._fastest = BatchSize()
        self.shard = shard
        if not 64 <= self.side <= MAX_SIDE or (batch is not None and batch < 1) or shard < 1:
            raise BadSettingError(
                "--size must be between 64 and {high}, --batch and --shard at least 1.", high=MAX_SIDE
            )

    def run(
        self,
        folder: Path,
        out: Path,
        stop: threading.Event | None = None,
        notify: Callable[[Progress], None] = lambda _: None,
    ) -> Summary:
        """Encode what is not in `out` yet. Unreadable pictures are left out and named in the summary.

        Raises:
            BadSettingError: no folder, or `out` holds something else; see `finished`.
            LatentRelayError: as the VAE mode raised it; whole shards stay.
        """
        if not folder.is_dir():
            raise BadSettingError("There is no folder {folder}.", folder=str(folder))
        summary = Summary()
        pictures = {name: folder / name for name in find_pictures(folder)}
        for progress in self.each(pictures, out, summary, stop):
            notify(progress)
        return summary

    def each(
        self,
        pictures: Mapping[str, Path],
        out: Path,
        summary: Summary,
        stop: threading.Event | None = None,
    ) -> Iterator[Progress]:
        """Encode pictures, by the name that each shall have, if it is not in `out` yet; fills in `summary` on the way.

        Raises:
            BadSettingError: `out` holds something else. LatentRelayError: as the VAE mode raised it, Cancelled among
            them; what was encoded before is written all the same.
        """
        out.mkdir(parents=True, exist_ok=True)
        done = finished(out, self.spec, self.side)
        summary.skipped = sum(name in done for name in pictures)
        wanted = {name: path for name, path in pictures.items() if name not in done}
        shard = _Shard(out, self.spec, self.side)
        begin = time.monotonic()
        try:
            for group in self._batches(wanted, summary):
                for name, latents, size in self._encode(group, stop):
                    shard.add(name, latents, size)
                    summary.encoded += 1
                if len(shard) >= self.shard:
                    shard.write()
                summary.seconds = time.monotonic() - begin
                handled = summary.encoded + len(summary.unreadable)
                speed = summary.encoded / summary.seconds if summary.seconds else 0.0
                left = (len(wanted) - handled) / speed if speed else None
                yield Progress(summary.skipped + handled, len(pictures), len(summary.unreadable), speed, left)
        finally:
            shard.write()

    def _batches(
        self, pictures: Mapping[str, Path], summary: Summary
    ) -> Iterator[list[tuple[str, Image.Image, tuple[int, int]]]]:
        """Pictures (name, resized, original size) of equal size together; at most a batch of each size waits."""
        waiting: dict[tuple[int, int], list[tuple[str, Image.Image, tuple[int, int]]]] = {}
        for name, path in pictures.items():
            try:
                with Image.open(path) as picture:
                    rgb = images.to_rgb(picture)
            except BadImageError as error:
                summary.unreadable[name] = str(error)
                continue
            except images.BROKEN:
                summary.unreadable[name] = str(Message("This file cannot be read as a picture."))
                continue
            size = bucket(rgb.size, self.side, self.spec.size_multiple)
            group = waiting.setdefault(size, [])
            group.append((name, images.resize(rgb, *size), rgb.size))
            if len(group) >= (self.batch or self._fastest.current):
                yield waiting.pop(size)
        yield from waiting.values()

    def _encode(
        self, group: list[tuple[str, Image.Image, tuple[int, int]]], stop: threading.Event | None
    ) -> Iterator[tuple[str, torch.Tensor, tuple[int, int]]]:
        import torch

        most = self.batch or self._fastest.current
        if len(group) > most:  # gathered when more were thought to fit
            for start in range(0, len(group), most):
                yield from self._encode(group[start : start + most], stop)
            return
        pictures = [images.to_tensor(picture) for _, picture, _ in group]
        # Concatenating one would start OpenMP workers on this thread, beside those of the thread that computes.
        image = pictures[0] if len(pictures) == 1 else torch.cat(pictures)
        request = encode_request(self.spec, image, self.options)
        try:
            latents, report = self.studio.executor.stage(request, stop)
        except OutOfMemoryError:
            if self.batch is not None or len(group) == 1:
                raise
            self._fastest.too_large()
            yield from self._encode(group, stop)
            return
        self._fastest.took(len(group), len(group) * request.width * request.height, report.cost.seconds)
        for (name, _, size), one in zip(group, latents, strict=True):
            yield name, one, size


class _Shard:
    """Pictures that wait to be written together."""

    def __init__(self, out: Path, spec: ModelSpec, side: int) -> None:
        self._out = out
        self._meaning = {"format": SHARD_FORMAT, **meaning(spec), "scaled": "true", "side": str(side)}
        self._tensors: dict[str, torch.Tensor] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        numbers = [int(path.stem.removeprefix("shard-")) for path in out.glob("shard-*.safetensors")]
        self._number = max(numbers, default=-1) + 1

    def __len__(self) -> int:
        return len(self._tensors)

    def add(self, name: str, latents: torch.Tensor, size: tuple[int, int]) -> None:
        self._tensors[name] = latents.clone()
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if all went well, 1 if something was unreadable, 2 if it could not be done."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    say = logging.getLogger("backend.encode").info
    try:
        settings = Settings(device=options.device, endpoints=merge_endpoints(options.endpoint or []))
        studio = Studio(settings)
        encoder = BulkEncoder(
            studio,
            studio.find_model(options.model),
            VaeOptions(options.vae_mode, options.tile_size, options.tile_overlap),
            side=options.size,
            batch=options.batch,
            shard=options.shard,
        )
        summary = encoder.run(options.folder, options.out, notify=lambda progress: say(_line(progress)))
    except LatentRelayError as error:
        say(error.sentence)
        return 2
    say(f"{summary.encoded} encoded in {seconds(summary.seconds)}, {summary.skipped} were there already.")
    for name, reason in summary.unreadable.items():
        say(f"Left out: {name}: {reason}")
    return 1 if summary.unreadable else 0


def _line(progress: Progress) -> str:
    left = "" if progress.seconds_left is None else f", {seconds(progress.seconds_left)} left"
    return f"{progress.done} of {progress.total}, {progress.pictures_per_second:.2f} a second{left}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backend.encode", description="A folder of pictures to latents for training."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="pictures, in subfolders too")
    parser.add_argument(
        "--model", default="builtin", help=f"one of {', '.join(MODELS)} (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--vae-mode", default="auto", help="as on the page (default %(default)s)")
    parser.add_argument("--size", type=int, help="side of the square whose area pictures are brought to")
    parser.add_argument(
        "--batch", type=int, help="pictures of equal size at once (default: as many as turn out fastest)"
    )
    parser.add_argument("--shard", type=int, default=1000, help="pictures a shard (default 1000)")
    parser.add_argument("--tile-size", type=int, default=512)
    parser.add_argument("--tile-overlap", type=int, default=128)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default %(default)s)")
    parser.add_argument("--endpoint", action="append", metavar="MODEL=URL", help="for --vae-mode remote")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
