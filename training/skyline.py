"""Where the sky ends: a small network that reads the skyline off a picture in any of the painter's styles.

Edges alone cannot tell a ridge from a cloud, a reflection or a brush stroke. The painter knows which pixels its land
covers, so the reader learns from scenes, painted and drawn by hand, and their true skylines; `check` says how well it
reads unseen ones.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from training.painter.noise import SIZE
from training.painter.scenes import choose, compose, paint
from training.painter.sketched import draw
from training.teaching import Lessons, blurred, teach

SIDE = 64
WIDTHS = (12, 24, 32)
LEVEL = 1.5
"""Rows of 64 by which a skyline must vary for a correlation with it to mean anything."""


READER_LESSONS = Lessons(3_000, epochs=8, batch=24, learning_rate=5e-3, weight_decay=0.02, seed=23)


class SkylineReader(nn.Module):
    """(B, 3, 64, 64) in [-1, 1] -> (B, 64, 64) logits: does this pixel lie under the skyline?"""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS
        self.fine = block(3, fine)
        self.middle = block(fine, middle)
        self.coarse = nn.Sequential(block(middle, coarse), block(coarse, coarse, dilation=2))
        self.up_middle = block(coarse + middle, middle)
        self.up_fine = block(middle + fine, fine)
        self.out = nn.Conv2d(fine, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        fine = self.fine(image)
        middle = self.middle(functional.avg_pool2d(fine, 2))
        coarse = self.coarse(functional.avg_pool2d(middle, 2))
        middle = self.up_middle(torch.cat([doubled(coarse), middle], 1))
        return self.out(self.up_fine(torch.cat([doubled(middle), fine], 1)))[:, 0]

    @torch.inference_mode()
    def read(self, pictures: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 -> (B, 64): rows of sky in each column, in [0, 64]."""
        return (1 - self(to_view(pictures)).sigmoid()).sum(1).numpy()


def block(narrow: int, wide: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(narrow, wide, 3, padding=1),
        nn.BatchNorm2d(wide),
        nn.GELU(),
        nn.Conv2d(wide, wide, 3, padding=dilation, dilation=dilation),
        nn.BatchNorm2d(wide),
        nn.GELU(),
    )


def doubled(maps: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


def to_view(pictures: np.ndarray) -> torch.Tensor:
    image = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return functional.interpolate(image, (SIDE, SIDE), mode="area")


def land_of(skylines: np.ndarray) -> torch.Tensor:
    """(B, 256) rows of 256 -> (B, 64, 64), 1 under the skyline."""
    rows = np.arange(SIZE)[None, :, None]
    under = torch.from_numpy((rows >= skylines[:, None, :]).astype(np.float32))
    return functional.avg_pool2d(under[:, None], SIZE // SIDE)[:, 0]


def painted(count: int, seed: int, **requested: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (B, 256, 256, 3) uint8 and their true skylines (B, 256); streams that no training stage draws from."""
    paintings = [paint(np.random.default_rng([seed, 7, number]), **requested) for number in range(count)]
    return np.stack([p.pixels for p in paintings]), np.stack([p.skyline for p in paintings])


def rows_of(skylines: np.ndarray) -> np.ndarray:
    """(B, 256) rows of 256 -> (B, 64) rows of 64, as the reader gives them."""
    return skylines.reshape(len(skylines), SIDE, -1).mean(2) * SIDE / SIZE


def shown(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What the reader learns from, as `painted` gives it: each third is a sketch, which is what img2img starts at."""
    pictures, skylines = [], []
    for number in range(count):
        rng = np.random.default_rng([seed, 8, number])
        if number % 3 == 0:
            look = choose(rng)
            pixels, skyline = draw(compose(rng, look), look, rng)
        else:
            painting = paint(rng)
            pixels, skyline = painting.pixels, painting.skyline
        pictures.append(pixels)
        skylines.append(skyline)
    return np.stack(pictures), np.stack(skylines)


def blotched(views: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Mirrored images stay the caller's business; this blurs, tints and adds the blotches of a weak model."""
    if rng.random() < 0.5:
        views = blurred(views, rng)
    if rng.random() < 0.5:
        side = int(rng.integers(8, 33))
        blotches = torch.randn((len(views), 3, side, side)) * float(rng.uniform(0.02, 0.12))
        views = views + functional.interpolate(blotches, (SIDE, SIDE), mode="bilinear", align_corners=False)
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(views), 3, 1, 1)).astype(np.float32))
    return views * gain + torch.randn_like(views) * 0.02


def train_reader(work: Path, lessons: Lessons) -> SkylineReader:
    """Read from work, or trained on freshly painted scenes and kept."""
    torch.manual_seed(lessons.seed)
    reader, kept = SkylineReader(), work / f"skyline-{lessons.pictures}.pt"
    if kept.exists():
        reader.load_state_dict(torch.load(kept, weights_only=True))
        return reader.eval()
    pictures, skylines = shown(lessons.pictures, lessons.seed)
    views, land = to_view(pictures), land_of(skylines)

    def loss_of(chosen: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        seen, wanted = views[chosen], land[chosen]
        if rng.random() < 0.5:
            seen, wanted = seen.flip(3), wanted.flip(2)
        return functional.binary_cross_entropy_with_logits(reader(blotched(seen, rng)), wanted)

    teach("skyline reader", reader, loss_of, len(views), lessons)
    work.mkdir(parents=True, exist_ok=True)
    torch.save(reader.state_dict(), kept)
    return reader.eval()


def correlation(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """Pearson correlation of two skylines (64,); None where the second is level."""
    if theirs.std() < LEVEL:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1]) if ours.std() > 0 else 0.0


def check(reader: SkylineReader, count: int, seed: int, **requested: str) -> float:
    """Mean correlation of what is read off unseen painted scenes with their true skylines."""
    pictures, skylines = painted(count, seed, **requested)
    found = [correlation(a, b) for a, b in zip(reader.read(pictures), rows_of(skylines), strict=True)]
    return float(np.mean([value for value in found if value is not None]))
