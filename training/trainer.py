"""The training loop that the VAE and the denoiser share: steps, averages, checkpoints, the clock."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training.process_group import ProcessGroup
from training.progress import Progress
from training.settings import Budget

LossOf = Callable[[float, np.random.Generator], tuple[torch.Tensor, dict[str, float], int]]


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by five Newton-Schulz steps (Jordan et al. 2024, "Muon").

    For weight matrices (convolutions flattened to one). The update is scaled by 0.2 sqrt(longer side),
    which gives it Adam's usual size (Liu et al. 2025, arXiv 2502.16982). Each process of a group
    orthogonalises its share.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        processes: ProcessGroup,
        momentum=0.95,
        decay=0.01,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "decay": decay})
        self.processes = processes
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002 (the base class names it)
        for group in self.param_groups:
            updates = []
            for index, weight in enumerate(group["params"]):
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                mine = index % self.processes.size == self.processes.rank
                ahead = weight.grad.lerp(state["momentum"], group["momentum"])
                updates.append(self.orthogonal(ahead) if mine else torch.zeros_like(weight).reshape(-1))
            flat = self.processes.sum(torch.cat(updates))
            for weight, update in zip(group["params"], flat.split([u.numel() for u in updates]), strict=True):
                weight.mul_(1 - group["lr"] * group["decay"]).add_(update.view_as(weight), alpha=-group["lr"])

    def orthogonal(self, gradient: torch.Tensor) -> torch.Tensor:
        """The update in float32, flat."""
        a, b, c = self.COEFFICIENTS
        matrix = gradient.reshape(len(gradient), -1).to(self.dtype)
        tall = matrix.shape[0] > matrix.shape[1]
        matrix = matrix.T if tall else matrix
        matrix = matrix / (matrix.norm() + 1e-7)
        for _ in range(5):
            square = matrix @ matrix.T
            matrix = a * matrix + (b * square + c * square @ square) @ matrix
        matrix = matrix.T if tall else matrix
        return matrix.float().reshape(-1) * 0.2 * max(matrix.shape) ** 0.5


@dataclass
class Trainer:
    """Trains `parameters` until the budget is spent.

    State that must survive a kill is in `modules` (by name), their averages, the optimisers and the
    clock; it is written to `checkpoint` every `save_every` seconds. Randomness is drawn from (seed, step,
    rank), so that nothing else needs saving.
    """

    stage: str
    processes: ProcessGroup
    device: str
    modules: dict[str, nn.Module]
    optimisers: list[torch.optim.Optimizer]
    budget: Budget
    checkpoint: Path
    ema: float
    seed: int
    save_every: float = 120.0
    step: int = 0
    seconds: float = 0.0
    averages: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base_rates = [[group["lr"] for group in o.param_groups] for o in self.optimisers]
        self.averages = {
            name: {key: value.detach().clone() for key, value in module.state_dict().items()}
            for name, module in self.modules.items()
        }
        self.resume()

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for o in self.optimisers for group in o.param_groups for p in group["params"]]

    @property
    def share(self) -> float:
        return self.budget.share(self.seconds, self.step)

    def resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.averages, self.step, self.seconds = state["averages"], state["step"], state["seconds"]
        if self.processes.is_leader:
            print(f"{self.stage}: continuing at step {self.step}, {self.seconds / 60:.1f} min in", flush=True)

    def save(self) -> None:
        if not self.processes.is_leader:
            return
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "averages": self.averages,
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self.checkpoint)

    def step_rng(self) -> np.random.Generator:
        """The generator of this step and process."""
        return np.random.default_rng([self.seed, self.step, self.processes.rank])

    def run(
        self,
        loss_of: LossOf,
        rate_of: Callable[[float], float],
        review: Callable[[], str] | None = None,
        review_every: float = 240.0,
    ) -> None:
        """Train. `loss_of(share, rng)` -> loss, figures to print, pictures in it; `rate_of(share)` in
        [0, 1].
        """
        progress = Progress(self.stage, silent=not self.processes.is_leader)
        share, saved, reviewed = self.share, self.seconds, self.seconds
        sums: dict[str, float] = {}
        pictures = steps = 0
        since = time.monotonic()
        while share < 1:
            if self.processes.orphaned:
                raise SystemExit(1)
            began = time.monotonic()
            rng = self.step_rng()
            torch.manual_seed(int(rng.integers(2**31)))
            self.set_rates(rate_of(share))
            loss, figures, count = loss_of(share, rng)
            for optimiser in self.optimisers:
                optimiser.zero_grad(set_to_none=True)
            loss.backward()
            share = self.finish_step()
            self.seconds += time.monotonic() - began
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value
            pictures, steps = pictures + count * self.processes.size, steps + 1
            if progress.now() - progress.printed > progress.every:
                words = " ".join(f"{name} {value / steps:.4f}" for name, value in sums.items())
                speed = pictures / (time.monotonic() - since)
                left = (1 - share) * self.seconds / max(share, 1e-9)
                progress.show(share, f"step {self.step}  {words}  {speed:.1f}/s", left=left)
                sums, pictures, steps, since = {}, 0, 0, time.monotonic()
            if self.seconds - saved > self.save_every:
                self.save()
                saved = self.seconds
            if review and self.processes.is_leader and self.seconds - reviewed > review_every:
                print(f"{self.stage}: {self.seconds / 60:.1f} min  {review()}", flush=True)
                reviewed = self.seconds
        self.save()
        if review and self.processes.is_leader:
            print(f"{self.stage}: finished after {self.seconds / 60:.1f} min  {review()}", flush=True)

    def finish_step(self) -> float:
        """Average the gradients, update weights and their moving average; returns the share of the budget."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        share = self.processes.mean(gradients, self.budget.share(self.seconds, self.step + 1))
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        keep = min(self.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, module in self.modules.items():
                for key, value in module.state_dict().items():
                    if value.is_floating_point():
                        self.averages[name][key].lerp_(value, 1 - keep)
        return share

    def set_rates(self, factor: float) -> None:
        for optimiser, rates in zip(self.optimisers, self.base_rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * float(factor)


def matrices_and_rest(modules: Iterable[nn.Module], keep_out: tuple[str, ...]) -> tuple[list, list]:
    """Split trainable parameters for Muon and Adam; names containing one of `keep_out` go to Adam."""
    matrices, rest = [], []
    for module in modules:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            inner = parameter.ndim >= 2 and not any(word in name for word in keep_out)
            (matrices if inner else rest).append(parameter)
    return matrices, rest
