"""What the evaluation's two small networks have in common: their lessons, and how their pictures are blurred."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from training.progress import Progress


@dataclass(frozen=True)
class Lessons:
    """`pictures`: how many to learn from."""

    pictures: int
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    seed: int


def teach(
    name: str,
    network: nn.Module,
    loss_of: Callable[[torch.Tensor, np.random.Generator], torch.Tensor],
    count: int,
    lessons: Lessons,
) -> None:
    """Train by `loss_of(indices, rng)`, with `indices` (batch,) into `count` pictures, and show progress."""
    optimiser = torch.optim.AdamW(
        network.parameters(), lessons.learning_rate, weight_decay=lessons.weight_decay
    )
    steps = lessons.epochs * max(1, count // lessons.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lessons.learning_rate, max(steps, 2))
    rng, progress = np.random.default_rng(lessons.seed), Progress(name)
    for step in range(steps):
        loss = loss_of(torch.from_numpy(rng.integers(0, count, lessons.batch)), rng)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        progress.show((step + 1) / steps, f"loss {loss.item():.3f}")


def blurred(views: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """(B, C, S, S) as if seen at a third of the size or more."""
    full = views.shape[-1]
    side = int(rng.integers(full // 3, full))
    small = functional.interpolate(views, (side, side), mode="area")
    return functional.interpolate(small, (full, full), mode="bilinear", align_corners=False)
