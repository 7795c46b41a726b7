"""A judge of pictures: a small network that reads the painter's attributes off a picture.

It learns from scenes painted for it and their labels, looks at 128 x 128 pixels, and is blurred at random
while it learns, so that it goes by what is shown and not by how sharp it is. A second one learns the style alone, from
photographs and generic pictures: one that has seen landscapes only can't tell it on a face.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from training.painter.attributes import CHOICES, STYLES, Attributes
from training.painter.scenes import paint
from training.photos import training_photos
from training.progress import Progress
from training.teaching import Lessons, blurred, teach
from training.twins import original, stylised

SIDE = 128
WIDTHS = (48, 96, 128)


class Judge(nn.Module):
    """(B, 3, 128, 128) in [-1, 1] -> for each attribute, (B, options) scores."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 4, 4), nn.GELU()]
        for narrow, wide in pairwise(WIDTHS):
            layers += [nn.Conv2d(narrow, narrow, 3, padding=1), nn.BatchNorm2d(narrow), nn.GELU()]
            layers += [nn.Conv2d(narrow, wide, 3, 2, 1), nn.BatchNorm2d(wide), nn.GELU()]
        layers += [nn.Conv2d(WIDTHS[-1], WIDTHS[-1], 3, padding=1), nn.BatchNorm2d(WIDTHS[-1]), nn.GELU()]
        self.features = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * WIDTHS[-1], len(o)) for name, o in CHOICES.items()})

    def pooled(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 256): what it sees in the upper and in the lower half, sky and land, roughly."""
        upper, lower = (half.mean((2, 3)) for half in self.features(image).chunk(2, dim=2))
        return torch.cat([upper, lower], 1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        pooled = self.pooled(image)
        return {name: head(pooled) for name, head in self.heads.items()}


JUDGE_LESSONS = Lessons(6_000, epochs=6, batch=32, learning_rate=2e-3, weight_decay=0.05, seed=11)
PHOTO_LESSONS = Lessons(2_400, epochs=8, batch=32, learning_rate=2e-3, weight_decay=0.05, seed=12)


def to_view(pictures: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 of any size -> what the judge looks at."""
    image = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return functional.interpolate(image, (SIDE, SIDE), mode="area")


def targets_of(attributes: list[Attributes]) -> dict[str, torch.Tensor]:
    """The index of each attribute's value; -100 (ignored by the loss) where the picture cannot show it."""
    targets = {}
    for name, options in CHOICES.items():
        indices = [options.index(getattr(one, name)) if judged(one, name) else -100 for one in attributes]
        targets[name] = torch.tensor(indices)
    return targets


def judged(attributes: Attributes, name: str) -> bool:
    if not getattr(attributes, name):
        return False
    if name == "season":
        return attributes.shows_season and attributes.style != "pencil"
    return attributes.shows_time if name == "time" else True


def softened(views: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Mirrored, blurred, tinted by chance."""
    views = views.flip(3) if rng.random() < 0.5 else views
    roll = rng.random()
    if roll < 0.6:
        views = blurred(views, rng)
    gain = torch.from_numpy(rng.uniform(0.92, 1.08, (len(views), 3, 1, 1)).astype(np.float32))
    return views * gain + torch.randn_like(views) * 0.02


def train_judge(work: Path, lessons: Lessons) -> Judge:
    """Read from work, or trained on freshly painted scenes and kept."""

    def scene(rng: np.random.Generator) -> tuple[np.ndarray, Attributes]:
        painting = paint(rng)
        return painting.pixels, painting.attributes

    return _trained("judge", scene, work, lessons)


def train_photo_judge(work: Path, lessons: Lessons) -> Judge:
    """The same for the style of photographs and generic pictures; it knows nothing else."""
    photos = training_photos()

    def picture(rng: np.random.Generator) -> tuple[np.ndarray, Attributes]:
        style, pixels = str(rng.choice(STYLES)), original(rng, photos)
        if style != "photo":
            pixels = stylised(rng, pixels, style)
        return pixels, Attributes("", "", "", "", style)

    return _trained("photo-judge", picture, work, lessons)


def _trained(
    name: str,
    picture: Callable[[np.random.Generator], tuple[np.ndarray, Attributes]],
    work: Path,
    lessons: Lessons,
) -> Judge:
    torch.manual_seed(lessons.seed)
    judge, kept = Judge(), work / f"{name}-{lessons.pictures}.pt"
    if kept.exists():
        judge.load_state_dict(torch.load(kept, weights_only=True))
        return judge.eval()
    count, attributes, seen = lessons.pictures, [], []
    progress = Progress(f"painting for the {name}")
    for number in range(count):
        pixels, labels = picture(np.random.default_rng([lessons.seed, 9, number]))
        attributes.append(labels)
        seen.append(to_view(pixels[None]).half())
        progress.show((number + 1) / count)
    targets, views = targets_of(attributes), torch.cat(seen)

    def loss_of(chosen: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        scores = judge(softened(views[chosen].float(), rng))
        return sum(
            functional.cross_entropy(scores[name], targets[name][chosen], label_smoothing=0.05)
            for name in CHOICES
            if (targets[name][chosen] >= 0).any()
        )

    teach(name, judge, loss_of, count, lessons)
    work.mkdir(parents=True, exist_ok=True)
    torch.save(judge.state_dict(), kept)
    return judge.eval()


@torch.inference_mode()
def agreement(judge: Judge, pictures: np.ndarray, attributes: list[Attributes]) -> dict[str, float]:
    """For each attribute the share of pictures in which the judge sees what was asked for; "all" is
    their mean.
    """
    scores = judge(to_view(pictures))
    shares = {}
    for name, wanted in targets_of(attributes).items():
        asked = wanted >= 0
        if asked.any():
            seen = scores[name].argmax(1)
            shares[name] = float((seen[asked] == wanted[asked]).float().mean())
    shares["all"] = float(np.mean(list(shares.values())))
    return shares
