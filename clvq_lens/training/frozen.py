"""The frozen pass: what each code stands for in the training tokens."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.activations import Activations


class FrozenPass:
    """Usage of each code, and the sums of source, encoder output and target.

    Args:
        quantizer: Fitted.
    """

    def __init__(self, quantizer: CrossLayerQuantizer) -> None:
        self.quantizer = quantizer
        k = quantizer.config.n_codes
        # Totals are on the CPU, in double precision, which not every device has.
        self.usage = torch.zeros(k, dtype=torch.long)
        self.encoded_sums = torch.zeros(k, quantizer.d_source, dtype=torch.double)
        self.target_sums = torch.zeros(k, quantizer.d_target, dtype=torch.double)
        self.source_sum = torch.zeros(quantizer.d_source, dtype=torch.double)
        self.n_outliers = 0

    @property
    def n_tokens(self) -> int:
        """Tokens counted."""
        return int(self.usage.sum())

    @torch.no_grad()
    def add(self, batch: Activations) -> None:
        """Counts a batch, all of it: whoever hears Ctrl-C hears it between two batches."""
        source = batch.source[batch.mask]
        z = self.quantizer.encode(source)
        codes = self.quantizer.codebook.nearest(z)
        self.source_sum += source.sum(0).cpu().double()
        _add_by_code(self.encoded_sums, codes, z)
        _add_by_code(self.target_sums, codes, batch.target[batch.mask])
        self.usage += torch.bincount(codes, minlength=len(self.usage)).cpu()
        self.n_outliers += batch.n_outliers

    def record_(self) -> None:
        """Gives the quantizer what was counted."""
        self.quantizer.record_(self.usage, self.encoded_sums, self.target_sums, self.source_sum)


def _add_by_code(
    sums: Float[Tensor, "k d"], codes: Int[Tensor, " n"], values: Float[Tensor, "n d"]
) -> None:
    """Adds up the values of each code: a batch in float32 on its device, the total on the CPU."""
    batch = values.new_zeros(sums.shape).index_add_(0, codes, values)
    sums += batch.cpu().double()
