"""Which thing stands here: a small network that names the thing in the middle of a cut-out.

It learns from the painter's own scenes, cut out around the thing that each is about, and from cut-outs of nothing. What
it makes of unseen painter pictures is the ceiling of the measure.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from training.judge import softened
from training.painter.figures import FITTING
from training.painter.scenes import Painting, choose, compose, paint_composition
from training.teaching import Lessons, teach

SIDE = 64
NOTHING = "nothing"
# Those that can be told by what is cut out around them.
THINGS = (
    "snowman", "person", "car", "balloon", "windmill", "bridge", "fence", "rainbow", "palm", "island", "castle", "boat",
    "house", "tree",
)  # fmt: skip
LABELS = (*THINGS, NOTHING)
ROOM = 1.25  # how much larger than the thing a cut-out is
RECOGNISER_LESSONS = Lessons(3_000, epochs=10, batch=48, learning_rate=3e-3, weight_decay=0.03, seed=31)

Box = tuple[int, int, int, int]


class Recogniser(nn.Module):
    """(B, 3, 64, 64) in [-1, 1] -> (B, labels) scores."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for wider in (24, 48, 72, 96):
            layers += [
                nn.Conv2d(width, wider, 3, padding=1),
                nn.BatchNorm2d(wider),
                nn.GELU(),
                nn.MaxPool2d(2),
            ]
            width = wider
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width * 4, len(LABELS))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pooled = functional.adaptive_avg_pool2d(self.features(image), 2)
        return self.head(pooled.flatten(1))

    @torch.inference_mode()
    def names(self, pictures: list[np.ndarray], boxes: list[Box]) -> list[str]:
        """What it takes the thing in each picture's box for."""
        views = torch.stack([cut_out(picture, box) for picture, box in zip(pictures, boxes, strict=True)])
        return [LABELS[index] for index in self(views).argmax(1)]


def cut_out(picture: np.ndarray, box: Box) -> torch.Tensor:
    """(3, 64, 64) in [-1, 1]: the square around a box, with some room."""
    left, top, right, bottom = box
    size = picture.shape[0]
    side = int(np.clip(max(right - left, bottom - top, 16) * ROOM, 1, size))
    x = int(np.clip((left + right - side) / 2, 0, size - side))
    y = int(np.clip((top + bottom - side) / 2, 0, size - side))
    view = torch.from_numpy(picture[y : y + side, x : x + side].copy()).permute(2, 0, 1)[None].float()
    return functional.interpolate(view / 127.5 - 1, (SIDE, SIDE), mode="area")[0]


def scene_with(rng: np.random.Generator, thing: str, **requested: str) -> Painting | None:
    """A scene about this thing, in some look; None where it happens to be hidden."""
    terrain = str(rng.choice([name for name, fitting in FITTING.items() if thing in fitting]))
    if thing == "snowman":
        requested = {**requested, "season": "winter"}
    look = choose(rng, terrain=terrain, **requested)
    painting = paint_composition(compose(rng, look, thing), look, rng)
    return painting if thing in painting.places else None


def examples(count: int, seed: int) -> tuple[list[np.ndarray], list[Box], list[str]]:
    """Pictures, boxes and labels; one in eight is of nothing: a box beside the thing."""
    pictures, boxes, labels = [], [], []
    number = 0
    while len(labels) < count:
        rng = np.random.default_rng([seed, 8, number])
        thing = THINGS[number % len(THINGS)]
        number += 1
        painting = scene_with(rng, thing)
        if painting is None:
            continue
        box = painting.places[thing]
        if number % 8 == 0:
            side, thing = int(rng.integers(40, 100)), NOTHING
            left, top = rng.integers(0, 256 - side, 2)
            if overlap((left, top, left + side, top + side), box) > 0.1:
                continue
            box = (int(left), int(top), int(left) + side, int(top) + side)
        pictures.append(painting.pixels)
        boxes.append(box)
        labels.append(thing)
    return pictures, boxes, labels


def overlap(one: Box, other: Box) -> float:
    """The share of `other` that lies within `one`."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0) / max((other[2] - other[0]) * (other[3] - other[1]), 1)


def train_recogniser(work: Path, lessons: Lessons) -> Recogniser:
    """Read from work, or trained on freshly painted scenes and kept."""
    torch.manual_seed(lessons.seed)
    network, kept = Recogniser(), work / f"things-{lessons.pictures}.pt"
    if kept.exists():
        network.load_state_dict(torch.load(kept, weights_only=True))
        return network.eval()
    pictures, boxes, labels = examples(lessons.pictures, lessons.seed)
    views = torch.stack([cut_out(picture, box) for picture, box in zip(pictures, boxes, strict=True)])
    targets = torch.tensor([LABELS.index(label) for label in labels])

    def loss_of(chosen: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        scores = network(softened(views[chosen], rng))
        return functional.cross_entropy(scores, targets[chosen], label_smoothing=0.05)

    teach("recogniser of things", network, loss_of, len(views), lessons)
    work.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), kept)
    return network.eval()


def ceiling(network: Recogniser, count: int, seed: int) -> float:
    """The share of things in unseen painter pictures that it names."""
    pictures, boxes, labels = examples(count, seed)
    named = network.names(pictures, boxes)
    right = [ours == theirs for ours, theirs in zip(named, labels, strict=True) if theirs != NOTHING]
    return float(np.mean(right))
