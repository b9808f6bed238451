"""How many rows the largest tensor of some width has that any operation makes."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestOutput(TorchDispatchMode):
    """While open, looks at what every operation of torch gives, in backward passes too.

    Args:
        width: Width of the last dimension of the tensors that count, such as of a vocabulary.
        dtype: Dtype of the tensors that count; None: any.
    """

    def __init__(self, width: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self._width, self._dtype = width, dtype
        self.n_rows = 0
        """Rows of the largest of them."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        outputs = function(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and self._counts(output):
                self.n_rows = max(self.n_rows, output.numel() // self._width)
        return outputs

    def _counts(self, output: Tensor) -> bool:
        has_dtype = self._dtype in (None, output.dtype)
        return has_dtype and output.ndim > 1 and output.shape[-1] == self._width
