"""Where a process stands among those that train together, and the few words they exchange beside gradients."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """One of `world_size` processes; the default is a process that trains alone.

    With several, the default process group of `torch.distributed` must be there.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def is_first(self) -> bool:
        """Whether this process writes to the store and tells the tracker."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.world_size == 1

    def share_of(self, start: int, stop: int) -> tuple[int, int]:
        """This process's part of [start, stop): contiguous, and as even as it can be."""
        count = stop - start
        return start + count * self.rank // self.world_size, start + count * (self.rank + 1) // self.world_size

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, known to all."""
        if not self.is_alone:
            dist.all_reduce(values)
        return values

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors with those of the first process, in all of them."""
        if self.is_alone:
            return
        for tensor in tensors:
            whole = tensor.detach().contiguous()  # collectives want no gaps; channels-last has another order
            dist.broadcast(whole, src=0)
            tensor.detach().copy_(whole)
