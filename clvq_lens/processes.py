"""The processes that share a fit: this one alone, or those that torchrun started.

All of them take every step together. A batch is shared by rows, gradients are summed, and what
updates the codebook is collected from all, so that weights are the same everywhere.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn

from clvq_lens.errors import ProcessesError


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "Processes":
        """The processes of torch.distributed, or this one alone if it has not been started."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    @property
    def shared(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    @property
    def rows(self) -> slice:
        """The rows of a batch, or the items of a list, that are this process's."""
        return slice(self.rank, None, self.size)

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Adds up tensors over all processes, in place."""
        if self.shared:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def sum_gradients_(self, parameters: Sequence[nn.Parameter]) -> None:
        """Adds up gradients over all processes; a missing one counts as zero."""
        if not self.shared:
            return
        gradients: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        # One message for all of them: each would wait for an answer of its own.
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, total in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(total.view_as(gradient))

    def sums(self, *values: float | int) -> list[float]:
        """The sum of each number over all processes."""
        if not self.shared:
            return list(map(float, values))
        totals = torch.tensor(values, dtype=torch.double)
        dist.all_reduce(totals)
        return totals.tolist()

    def sums_by_name(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The sum of each array over all processes.

        Args:
            arrays: Arrays by name. Those that a process lacks count as zero; the first one has all.
        """
        shapes = {name: array.shape for name, array in arrays.items()}
        shapes = json.loads(self._text_of_first(json.dumps(shapes)))
        totals: dict[str, np.ndarray] = {}
        for name, shape in shapes.items():
            total = torch.zeros(shape, dtype=torch.double)
            if name in arrays:
                total += torch.from_numpy(arrays[name])
            self.sum_([total])
            totals[name] = total.numpy()
        return totals

    def _text_of_first(self, text: str) -> str:
        """A text that the first process has; bytes and no object, so that nothing is unpickled."""
        if not self.shared:
            return text
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        size = torch.tensor([len(content)])
        dist.broadcast(size, 0)
        if not self.is_first:
            content = torch.zeros(int(size), dtype=torch.uint8)
        dist.broadcast(content, 0)
        return bytes(content.tolist()).decode()

    def least(self, value: int) -> int:
        """The least of the values of all processes."""
        return int(self.together(torch.tensor([value]), self.size).min())

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        return bool(self.sums(flag)[0])

    def together(self, mine: Shaped[Tensor, "r *d"], n_rows: int) -> Shaped[Tensor, "n *d"]:
        """The rows of all processes, in the order of the batch that they share.

        Args:
            mine: The rows of this process.
            n_rows: Rows of the batch.
        """
        if not self.shared:
            return mine
        most = -(-n_rows // self.size)  # processes differ by one row at most
        padded = mine.new_zeros(most, *mine.shape[1:])
        padded[: len(mine)] = mine
        of_rank = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(of_rank, padded)
        return torch.stack(of_rank, 1).flatten(0, 1)[:n_rows]

    def spread_(self, module: nn.Module) -> None:
        """Gives every process the weights and buffers of the first one."""
        if self.shared:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def spread_generator_(self, generator: torch.Generator) -> None:
        """Gives every process the state of the first one's generator."""
        if self.shared:
            state = generator.get_state()
            dist.broadcast(state, 0)
            generator.set_state(state)

    def wait(self) -> None:
        """Waits for all other processes."""
        if self.shared:
            dist.barrier()

    def require_same(self, what: str, value: str, remedy: str) -> None:
        """Raises `ProcessesError` in all processes unless all have the same value.

        Args:
            what: What the value is, for the message.
            value: The value in this process.
            remedy: What to do about it.
        """
        if not self.shared:
            return
        digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
        mine = torch.tensor([int.from_bytes(digest, "big", signed=True)])
        digests = self.together(mine, self.size)
        others = [rank for rank in range(self.size) if digests[rank] != digests[0]]
        if others:
            raise ProcessesError(
                f"{what} differs between processes: in process {', '.join(map(str, others))} from "
                f"that in process 0. Here, in process {self.rank}, it is {value}. {remedy}"
            )


ALONE = Processes()
"""No other process takes part."""
