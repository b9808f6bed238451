"""The frozen pass: what each code stands for in the training tokens."""

import torch
from tqdm.auto import tqdm

from clvq_lens.data.activations import Activations
from clvq_lens.data.interrupt import add_each
from clvq_lens.data.stream import ShuffledStream
from clvq_lens.processes import ALONE, Processes
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.stats.precision import best_float
from clvq_lens.training.training_data import TrainingData


def frozen_pass(
    quantizer: CrossLayerQuantizer,
    data: TrainingData,
    stream: ShuffledStream,
    *,
    processes: Processes = ALONE,
    progress: bool,
) -> "FrozenPass":
    """Records usage and the means of source, encoder output and target on training tokens.

    Interrupted, it records what it has counted by then.

    Args:
        quantizer: A fitted quantizer, which is given what was counted.
        data: What it was fitted on.
        stream: The stream of these data.
        processes: Who shares the batches.
        progress: Whether to show a progress bar.
    """
    frozen = FrozenPass(quantizer)
    n_tokens = min(data.n_tokens, stream.n_tokens)
    with tqdm(desc="frozen pass", total=n_tokens, unit="tok", disable=not progress) as bar:

        def add(batch: Activations) -> None:
            frozen.add(batch)
            bar.update(batch.n_tokens * processes.size)  # others count theirs meanwhile

        # No bar over batches: the one over tokens tells how much is left.
        complete = add_each(data.once(stream), add, desc="frozen pass", progress=False)
    frozen.complete = not processes.any(not complete)
    frozen.sum_(processes)
    frozen.record_()
    return frozen


class FrozenPass:
    """Usage of each code, and the sums of source, encoder output and target.

    Args:
        quantizer: A fitted quantizer.
    """

    def __init__(self, quantizer: CrossLayerQuantizer) -> None:
        self.quantizer = quantizer
        k = quantizer.config.n_codes
        device, exact = quantizer.device, best_float(quantizer.device)
        self.usage = torch.zeros(k, dtype=torch.long, device=device)
        self.source_sums = torch.zeros(k, quantizer.d_source, dtype=exact, device=device)
        self.encoded_sums = torch.zeros(k, quantizer.d_code, dtype=exact, device=device)
        self.target_sums = torch.zeros(k, quantizer.d_target, dtype=exact, device=device)
        self.n_outliers = 0
        self.complete = False

    @torch.no_grad()
    def add(self, batch: Activations) -> None:
        """Counts a batch, all of it: Ctrl-C is handled between two batches."""
        source = batch.of_real_tokens("source")
        z = self.quantizer.encode(source)
        # Nearest codes, as in use; in training they are drawn.
        codes = self.quantizer.codebook.nearest(z)
        target = batch.of_real_tokens("target")
        sums = (self.source_sums, self.encoded_sums, self.target_sums)
        for total, values in zip(sums, (source, z, target), strict=True):
            total.index_add_(0, codes, values.to(total.dtype))
        self.usage.index_add_(0, codes, torch.ones_like(codes))
        self.n_outliers += batch.n_outliers

    def sum_(self, processes: Processes) -> None:
        """Adds what other processes have counted."""
        processes.sum_([self.usage, self.source_sums, self.encoded_sums, self.target_sums])
        self.n_outliers = round(processes.sums(self.n_outliers)[0])

    def record_(self) -> None:
        """Gives the quantizer what was counted."""
        self.quantizer.record_(self.usage, self.source_sums, self.encoded_sums, self.target_sums)
