"""Mean and variance of a map's groups, from parts of the map; and the small tensors that a run needs again and again.

Nothing here makes the host wait for the device: no list is copied to it, no value is read back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class RunConstants:
    """Small float tensors on a run's device, each made once in a run."""

    def __init__(self, device: torch.device, norms: Sequence[nn.GroupNorm]) -> None:
        """`norms` are those that the run applies."""
        self._device = device
        self._shares: dict[tuple[int, ...], Tensor] = {}
        self._affine = _in_float32(norms)
        sizes = sorted({(norm.num_channels, norm.num_groups) for norm in norms})
        blocks = [averaging(*size) for size in sizes]
        unused = torch.zeros(2 * max((channels for channels, _ in sizes), default=0), device="cpu")
        # One copy, which the host need not wait for.
        flat = torch.cat([unused, *(block.flatten() for block in blocks)]).to(device, non_blocking=True)
        self._unused, *parts = flat.split([len(unused), *(block.numel() for block in blocks)])
        self._averaging = {size: part.view(2 * size[0], -1) for size, part in zip(sizes, parts, strict=True)}

    def affine(self, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
        """Weight and bias (C,) of a norm in float32."""
        return self._affine[norm]

    def unused(self, channels: int) -> tuple[Tensor, Tensor]:
        """Two buffers (C,) for results that nobody reads."""
        return self._unused[:channels], self._unused[-channels:]

    def averaging(self, channels: int, groups: int) -> Tensor:
        return self._averaging[channels, groups]

    def shares(self, counts: tuple[int, ...]) -> Tensor:
        """What part of the sum each count is, (N,); float64 where the device has it."""
        if counts not in self._shares:
            total, usual = sum(counts), counts[0]
            dtype = torch.float32 if self._device.type == "mps" else torch.float64
            shares = torch.full((len(counts),), usual / total, dtype=dtype, device=self._device)
            for index, count in enumerate(counts):
                if count != usual:  # of the strips of a map, only the last as a rule
                    shares[index].fill_(count / total)
            self._shares[counts] = shares
        return self._shares[counts]


class Statistics:
    """Mean and variance per channel of a map, gathered from parts of it that no pixel is in twice."""

    def __init__(self, constants: RunConstants) -> None:
        self.constants = constants
        self._parts: list[tuple[int, Tensor, Tensor]] = []

    def update(self, part: Tensor) -> None:
        """Add a part (1, C, rows, W) whose pixels are next to each other in memory."""
        channels = part.shape[1]
        if part.device.type == "mps":  # has no batch_norm_update_stats
            variance, mean = torch.var_mean(part.float(), dim=(0, 2, 3), correction=0)
        else:
            # Float32 buffers make the op return float32 statistics for half precision too; a momentum of 0 leaves them.
            mean, variance = torch.batch_norm_update_stats(part, *self.constants.unused(channels), 0.0)
        self._parts.append((part.numel() // channels, mean, variance))

    def groups(self, count: int) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (C,) in float32, equal within each of the `count` groups.

        Parts, then channels, are merged by the law of total variance, which is what Chan, Golub and LeVeque's pairwise
        update (1979) amounts to when all parts are at hand: var = E[var_i] + E[(mean_i - mean)^2].
        """
        mean, variance = self._channels()
        channels = len(mean)
        averaging = self.constants.averaging(channels, count)
        group_mean, distance = torch.mv(averaging, mean).split(channels)
        return group_mean, torch.mv(averaging[:channels], torch.addcmul(variance, distance, distance))

    def _channels(self) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each channel in the whole map."""
        if len(self._parts) == 1:
            return self._parts[0][1:]
        shares = self.constants.shares(tuple(count for count, _, _ in self._parts))
        parts = [mean for _, mean, _ in self._parts] + [variance for _, _, variance in self._parts]
        means, variances = torch.stack(parts).to(shares.dtype).chunk(2)
        mean = torch.mv(means.mT, shares)
        distance = means.sub_(mean)
        return mean.float(), torch.mv(variances.addcmul_(distance, distance).mT, shares).float()


def averaging(channels: int, groups: int) -> Tensor:
    """The matrix (2C, C) whose product with (C,) has each group's mean in the place of its members, then each member's
    distance from that mean; on the CPU."""
    size = channels // groups
    cells = torch.eye(groups, device="cpu")[:, None, :, None].expand(groups, size, groups, size)
    means = cells.reshape(channels, channels) / size
    return torch.cat([means, torch.eye(channels, device="cpu") - means])


def _in_float32(norms: Sequence[nn.GroupNorm]) -> dict[nn.GroupNorm, tuple[Tensor, Tensor]]:
    """Weights and biases of all norms, converted at once."""
    if not norms or norms[0].weight.dtype == torch.float32:
        return {norm: (norm.weight, norm.bias) for norm in norms}
    together = torch.cat([part for norm in norms for part in (norm.weight, norm.bias)]).float()
    parts = iter(together.split([len(norm.weight) for norm in norms for _ in "wb"]))
    return {norm: (next(parts), next(parts)) for norm in norms}
