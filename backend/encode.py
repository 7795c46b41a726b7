"""A folder of pictures to latents for training: `python -m backend.encode FOLDER --model NAME --out FOLDER`.

Pictures are read and prepared while others are encoded. One counts as done when its shard is there (`shards.py`): after
a kill the same command goes on with the rest.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from backend import images
from backend.errors import BadImageError, BadSettingError, LatentRelayError, OutOfMemoryError
from backend.job import MAX_SIDE, VaeOptions
from backend.message import Message
from backend.models import MODELS, ModelSpec
from backend.request import encode_request
from backend.run.batch_size import BatchSize
from backend.settings import Settings, merge_endpoints
from backend.shards import Shard, bucket, finished
from backend.studio import Studio
from backend.units import seconds

if TYPE_CHECKING:
    import torch

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class _Prepared:
    """A picture as it goes into the VAE: float32 (1, 3, H, W) in [-1, 1]."""

    name: str
    pixels: torch.Tensor
    size: tuple[int, int]
    """(width, height) of the picture itself."""


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
        tiny = self.options.mode == "tiny"
        done = finished(out, self.spec, self.side, tiny=tiny)
        summary.skipped = sum(name in done for name in pictures)
        wanted = {name: path for name, path in pictures.items() if name not in done}
        shard = Shard(out, self.spec, self.side, tiny)
        begin = time.monotonic()
        try:
            for group in _ahead(self._batches(wanted, summary)):
                for picture, latents in self._encode(group, stop):
                    shard.add(picture.name, latents, picture.size)
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

    def _batches(self, pictures: Mapping[str, Path], summary: Summary) -> Iterator[list[_Prepared]]:
        """Pictures that come out of equal size together; at most a batch of each size waits."""
        waiting: dict[tuple[int, int], list[_Prepared]] = {}
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
            group.append(_Prepared(name, images.to_tensor(images.resize(rgb, *size)), rgb.size))
            if len(group) >= (self.batch or self._fastest.current):
                yield waiting.pop(size)
        yield from waiting.values()

    def _encode(
        self, group: list[_Prepared], stop: threading.Event | None
    ) -> Iterator[tuple[_Prepared, torch.Tensor]]:
        import torch

        most = self.batch or self._fastest.current
        if len(group) > most:  # gathered when more were thought to fit
            for start in range(0, len(group), most):
                yield from self._encode(group[start : start + most], stop)
            return
        # Concatenating one would start OpenMP workers on this thread, beside those of the thread that computes.
        image = group[0].pixels if len(group) == 1 else torch.cat([picture.pixels for picture in group])
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
        yield from zip(group, latents, strict=True)


def _ahead(batches: Iterator[list[_Prepared]]) -> Iterator[list[_Prepared]]:
    """The same, each made on a thread of its own while the one before it is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


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
