"""Data-parallel training on one machine: single-thread processes that average their gradients.

On a busy CPU two such processes beat one process with two threads, whose every operation waits for the slower
thread. A CUDA run is one process.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing

from training.settings import Run


@dataclass(frozen=True)
class ProcessGroup:
    """This process's `rank` among `size`."""

    rank: int = 0
    size: int = 1
    parent: int | None = None

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    @property
    def orphaned(self) -> bool:
        """Whether the process that started the group has been killed; its children must not train on alone."""
        return self.parent is not None and os.getppid() != self.parent

    def mean(self, tensors: list[torch.Tensor], share: float) -> float:
        """Average `tensors` over the group in place; returns the leader's `share`, so that all stop
        together.
        """
        if self.size == 1:
            return share
        tail = torch.tensor([share * self.size if self.is_leader else 0.0])
        flat = torch.cat([*(tensor.reshape(-1) for tensor in tensors), tail])
        distributed.all_reduce(flat)
        flat /= self.size
        at = 0
        for tensor in tensors:
            tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
            at += tensor.numel()
        return float(flat[-1])

    def sum(self, flat: torch.Tensor) -> torch.Tensor:
        if self.size > 1:
            distributed.all_reduce(flat)
        return flat


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def join(rank: int, stage: Callable[..., None], run: Run, port: int, arguments: tuple) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=run.workers)
    try:
        stage(run, ProcessGroup(rank, run.workers, os.getppid()), *arguments)
    finally:
        distributed.destroy_process_group()


def launch(stage: Callable[..., None], run: Run, *arguments: object) -> None:
    """Call `stage(run, processes, *arguments)` in each process of a group; it must be a module's function."""
    if run.process_count < 2:
        stage(run, ProcessGroup(), *arguments)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    multiprocessing.spawn(join, (stage, run, free_port(), arguments), nprocs=run.workers, join=True)
