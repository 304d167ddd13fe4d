"""The processes of one training run, as `torchrun` starts them.

Gradients are averaged by one `all_reduce` a step. `DistributedDataParallel` would reduce in every
backward pass, of which a step has one for each sampled subnet, and search each for the parameters
that its subnet does not use.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from ofa_compile.errors import ConfigError, OfaCompileError

__all__ = ["LostProcessError", "Processes", "processes"]

_TIMEOUT = datetime.timedelta(minutes=30)


class LostProcessError(OfaCompileError):
    """Another process of the run ended or cannot be reached."""


class Processes:
    """Place of this process among those that train together; alone, there is nothing to do."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def parts(self, total: int | None) -> tuple[list[int], int]:
        """Return this process's parts of each batch, and how many parts there are."""
        total = total or self.count
        if total % self.count:
            message = f"{total} parts cannot be shared evenly by {self.count} processes"
            raise ConfigError(message, hint="Use a multiple of the number of processes.")
        share = total // self.count
        return list(range(self.rank * share, (self.rank + 1) * share)), total

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their sums over all processes, in one message."""
        tensors = list(tensors)
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _explained():
            dist.all_reduce(flat)
        for tensor, part in zip(
            tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True
        ):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            with _explained():
                dist.barrier()


@contextmanager
def _explained() -> Iterator[None]:
    """Say in our words that another process is gone."""
    try:
        yield
    except RuntimeError as err:
        message = f"another process of this training run ended or cannot be reached: {err}"
        hint = "Start the same command again: it continues from the last checkpoint."
        raise LostProcessError(message, hint=hint) from err


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started; without it, train alone.

    Parameters
    ----------
    device
        Device type: GPUs talk through NCCL, CPUs through Gloo.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    backend = "nccl" if device == "cuda" else "gloo"
    with _explained():
        dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
