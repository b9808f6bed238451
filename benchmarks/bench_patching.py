"""concept_patching over a 64-token pair, beside the bare forward passes that it needs."""

from functools import partial
from typing import Any

import pandas as pd
import torch

from benchmarks.bench_attach import gpt2_small_shaped
from benchmarks.timing import Row, device, interleaved, rows
from clvq_lens.add import add_clvq
from clvq_lens.interventions.metrics import logit_diff
from clvq_lens.interventions.patching import concept_patching

POSITIONS, SOURCE, TARGET, N_CODES = 64, 4, 8, 400


def run(repetitions: int = 3) -> list[Row]:
    from transformer_lens import patching

    model, bare = gpt2_small_shaped(), gpt2_small_shaped()  # same seed, same weights
    generator = torch.Generator().manual_seed(0)
    corpus = torch.randint(50257, (16, 256), generator=generator)
    lens = add_clvq(model, SOURCE, TARGET, n_codes=N_CODES)
    lens.fit(corpus, n_tokens=2_048, batch_tokens=2_048, held_out_fraction=0.0, progress=False)
    pair = torch.randint(50257, (2, POSITIONS), generator=generator).to(device())
    clean, corrupted = pair[:1], pair[1:]
    rows_per_pass = lens.host.positions_per_pass // POSITIONS
    residual = torch.randn(POSITIONS, POSITIONS, 768, generator=generator).to(device())

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, 10] - logits[0, -1, 20]

    def ours(metric: Any, control: bool) -> None:
        concept_patching(lens, clean, corrupted, metric, control=control, progress=False)

    def layers_above(n: int) -> None:
        bare(clean)
        bare(corrupted)
        for part in residual.repeat(n, 1, 1).split(rows_per_pass):
            bare(part, start_at_layer=TARGET + 1)

    def whole_passes() -> None:
        bare(clean)
        bare(corrupted)
        for part in corrupted.repeat(POSITIONS, 1).split(rows_per_pass):
            bare(part)

    def one_by_one() -> None:
        _, cache = model.run_with_cache(clean, names_filter="clvq.4-8.hook_codes")
        patching.generic_activation_patch(
            model,
            corrupted,
            cache,
            difference,
            _patch,
            "clvq.4-8.hook_codes",
            index_df=pd.DataFrame({"layer": [None] * POSITIONS, "pos": range(POSITIONS)}),
        )

    with torch.no_grad():
        medians = interleaved(
            {
                "bare: 2 whole passes, 64 above the target": partial(layers_above, 1),
                "concept_patching, any function of logits": partial(ours, difference, False),
                "concept_patching, logit_diff": partial(ours, logit_diff(10, 20), False),
                "bare: 2 whole passes, 128 above the target": partial(layers_above, 2),
                "with random codes as control, any function": partial(ours, difference, True),
                "with control, logit_diff": partial(ours, logit_diff(10, 20), True),
                "bare: 66 whole passes": whole_passes,
                "transformer_lens.patching, one by one": one_by_one,
            },
            repetitions=repetitions,
        )
    name = f"GPT-2-small-shaped model, pair of {POSITIONS} tokens"
    return rows(name, medians, "bare: 2 whole passes, 64 above the target")


def _patch(codes: torch.Tensor, index: list[int], clean: torch.Tensor) -> torch.Tensor:
    codes[:, index[1]] = clean[:, index[1]]
    return codes
