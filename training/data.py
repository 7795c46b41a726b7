"""Painted pictures on disk: shards of pixels with their labels and captions, each a pure function of
seed and number (and, for some of the generic ones, of the photographs on this machine). They come in groups of twins.

A shard appears under its name only when it is whole, so a killed run continues with the first one missing.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import numpy as np

from training.painter.attributes import STYLES, Attributes
from training.painter.noise import SIZE
from training.photos import training_photos
from training.progress import Progress
from training.settings import DataSettings
from training.twins import GROUP, PAINTINGS, Twin, original, paint_twin, picture_twin, plan

# The second number of every seed: held-out pictures never share one with the training set.
SPLITS = {"scenes": 0, "heldout": 1, "generic": 2}


def picture_rng(seed: int, split: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS[split], number])


def group_rng(seed: int, split: str, group: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS[split], group, 1])


@cache
def photos_here() -> list[np.ndarray]:
    return training_photos()


def paint_numbered(settings: DataSettings, split: str, number: int) -> tuple[np.ndarray, Twin]:
    """Picture `number` of a split, (256, 256, 3) uint8, and what is known of it; `GROUP` in a row are twins."""
    group, place = divmod(number, GROUP)
    shared, rng = group_rng(settings.seed, split, group), picture_rng(settings.seed, split, number)
    if split != "generic":
        return paint_twin(rng, plan(shared), place, settings.captions)
    looks = tuple(str(style) for style in shared.permutation([s for s in STYLES if s != "photo"])[:2])
    return picture_twin(rng, original(shared, photos_here()), looks, place, settings.captions)


def heldout_paintings(count: int) -> np.ndarray:
    """The first paintings (no sketches) that are held out, (count, 256, 256, 3) uint8."""
    numbers = [n for n in range(count * 2) if n % GROUP < PAINTINGS][:count]
    return np.stack([paint_numbered(DataSettings(), "heldout", n)[0] for n in numbers])


def shard_paths(folder: Path, split: str, index: int) -> tuple[Path, Path]:
    return folder / split / f"{index:05}.npy", folder / split / f"{index:05}.json"


def write_shard(settings: DataSettings, folder: Path, split: str, count: int, index: int) -> int:
    """Paint shard `index` unless it is there; returns how many pictures it holds."""
    pixels_path, records_path = shard_paths(folder, split, index)
    numbers = range(index * settings.shard, min(count, (index + 1) * settings.shard))
    if pixels_path.exists():
        return len(numbers)
    pictures = np.empty((len(numbers), SIZE, SIZE, 3), np.uint8)
    records = []
    for place, number in enumerate(numbers):
        pictures[place], record = paint_numbered(settings, split, number)
        records.append(asdict(record))
    records_path.write_text(json.dumps(records))
    partial_path = pixels_path.with_suffix(".partial")
    with partial_path.open("wb") as stream:
        np.save(stream, pictures)
    partial_path.rename(pixels_path)
    return len(numbers)


def paint_all(settings: DataSettings, folder: Path, workers: int) -> None:
    """Paint every split that is not yet complete, on `workers` processes."""
    counts = {"heldout": settings.heldout, "generic": settings.generic, "scenes": settings.scenes}
    for split, count in counts.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        shards = range(-(-count // settings.shard))
        missing = [index for index in shards if not shard_paths(folder, split, index)[0].exists()]
        if not missing:
            continue
        progress, done = Progress(f"painting {split}"), 0
        for written in in_parallel(partial(write_shard, settings, folder, split, count), missing, workers):
            done += written
            speed = done / (progress.now() - progress.started)
            share = done / min(count, len(missing) * settings.shard)
            progress.show(min(1.0, share), f"{speed:.1f} pictures/s", force=share >= 1)


def in_parallel(job: Callable[[int], int], indices: list[int], workers: int) -> Iterator[int]:
    if workers < 2:
        yield from map(job, indices)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(job, indices)


def read_records(path: Path) -> list[Twin]:
    records = []
    for entry in json.loads(path.read_text()):
        attributes = Attributes(**dict(entry["attributes"], things=tuple(entry["attributes"]["things"])))
        says = tuple(tuple(names) for names in entry["says"])
        records.append(Twin(entry["kind"], attributes, tuple(entry["captions"]), says))
    return records


class Pictures:
    """A split read back, memory-mapped: `pictures[i]` is (256, 256, 3) uint8."""

    def __init__(self, folder: Path, split: str) -> None:
        paths = sorted((folder / split).glob("*.npy"))
        if not paths:
            raise FileNotFoundError(f"no {split} in {folder}: paint them first")
        self.shards = [np.load(path, mmap_mode="r") for path in paths]
        self.paths = paths
        self.starts = np.cumsum([0, *(len(shard) for shard in self.shards)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, number: int) -> np.ndarray:
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.shards[shard][number - self.starts[shard]]

    def records(self) -> list[Twin]:
        return [record for path in self.paths for record in read_records(path.with_suffix(".json"))]
