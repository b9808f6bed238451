"""How many rows the largest tensor of logits has that any operation makes."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestOutput(TorchDispatchMode):
    """While open, looks at what every operation of torch gives, in backward passes too.

    Args:
        width: Width of the last dimension of the tensors that count, such as of a vocabulary.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width
        self.n_rows = 0
        """Rows of the largest of them."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        outputs = function(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and output.ndim > 1 and output.shape[-1] == self._width:
                self.n_rows = max(self.n_rows, output.numel() // self._width)
        return outputs
