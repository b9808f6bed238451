"""concept_patching over a 64-token pair, beside the bare forward passes that it needs."""

from functools import partial
from typing import Any

import pandas as pd
import torch

from benchmarks.bench_attach import gpt2_small_shaped
from benchmarks.timing import Row, device, interleaved, rows
from clvq_lens.add import add_clvq
from clvq_lens.interventions.logit_metrics import logit_diff
from clvq_lens.interventions.patching import concept_patching

POSITIONS, SOURCE, TARGET, N_CODES = 64, 4, 8, 400


def run(repetitions: int = 3) -> list[Row]:
    """Patching position by position, in batches and one by one, beside the passes it needs."""
    model, bare = gpt2_small_shaped(), gpt2_small_shaped()  # same seed, same weights
    generator = torch.Generator().manual_seed(0)
    corpus = torch.randint(50257, (16, 256), generator=generator)
    lens = add_clvq(model, SOURCE, TARGET, n_codes=N_CODES)
    lens.fit(corpus, n_tokens=2_048, batch_tokens=2_048, held_out_fraction=0.0, progress=False)
    pair = torch.randint(50257, (2, POSITIONS), generator=generator).to(device())
    clean, corrupted = pair[:1], pair[1:]
    residual = torch.randn(POSITIONS, POSITIONS, 768, generator=generator).to(device())
    passes = _BarePasses(bare, clean, corrupted, residual, lens.host.positions_per_pass)

    def ours(metric: Any, control: bool) -> None:
        concept_patching(lens, clean, corrupted, metric, control=control, progress=False)

    with torch.no_grad():
        medians = interleaved(
            {
                "bare: 2 whole passes, 64 above the target": partial(passes.above_target, 1),
                "concept_patching, any function of logits": partial(ours, difference, False),
                "concept_patching, logit_diff": partial(ours, logit_diff(10, 20), False),
                # Controls double the passes, so they have a reference of their own.
                "bare: 2 whole passes, 128 above the target": partial(passes.above_target, 2),
                "with random codes as control, any function": partial(ours, difference, True),
                "with control, logit_diff": partial(ours, logit_diff(10, 20), True),
                "bare: 66 whole passes": passes.whole,
                "transformer_lens.patching, one by one": partial(
                    one_by_one, model, clean, corrupted
                ),
            },
            repetitions=repetitions,
        )
    name = f"GPT-2-small-shaped model, pair of {POSITIONS} tokens"
    return rows(name, medians, "bare: 2 whole passes, 64 above the target")


def difference(logits: torch.Tensor) -> torch.Tensor:
    """What `logit_diff` is, as a function that nothing is known about."""
    return logits[0, -1, 10] - logits[0, -1, 20]


class _BarePasses:
    """The passes that patching cannot do without, and nothing else."""

    def __init__(
        self,
        model: Any,
        clean: torch.Tensor,
        corrupted: torch.Tensor,
        residual: torch.Tensor,
        positions_per_pass: int,
    ) -> None:
        self._model, self._clean, self._corrupted = model, clean, corrupted
        self._residual, self._n_rows = residual, positions_per_pass // POSITIONS

    def above_target(self, n: int) -> None:
        """Both texts, and ``n`` times as many passes above the target as there are positions."""
        self._model(self._clean)
        self._model(self._corrupted)
        for rows_of_pass in self._residual.repeat(n, 1, 1).split(self._n_rows):
            self._model(rows_of_pass, start_at_layer=TARGET + 1)

    def whole(self) -> None:
        """Both texts, and as many whole passes as there are positions."""
        self._model(self._clean)
        self._model(self._corrupted)
        for rows_of_pass in self._corrupted.repeat(POSITIONS, 1).split(self._n_rows):
            self._model(rows_of_pass)


def one_by_one(model: Any, clean: torch.Tensor, corrupted: torch.Tensor) -> None:
    """The same codes patched by TransformerLens itself, with a pass for each position."""
    from transformer_lens import patching

    point = f"clvq.{SOURCE}-{TARGET}.hook_codes"
    _, cache = model.run_with_cache(clean, names_filter=point)
    positions = pd.DataFrame({"layer": [None] * POSITIONS, "pos": range(POSITIONS)})
    patching.generic_activation_patch(
        model, corrupted, cache, difference, _patch, point, index_df=positions
    )


def _patch(codes: torch.Tensor, index: list[int], clean: torch.Tensor) -> torch.Tensor:
    codes[:, index[1]] = clean[:, index[1]]
    return codes
