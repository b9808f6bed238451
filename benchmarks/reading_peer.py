"""Reading two hook points with sae-lens, beside which our reading is timed."""

import importlib.util
import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

_ONE, _TWO = "sae-lens, once for each hook point", "sae-lens, both hook points at once"
_POSITIONS = 2_048  # in a batch, as in ours
NOT_INSTALLED = "sae-lens is not installed: pip install --no-deps 'sae-lens==6.54.*'"


def readings(
    model: Any, points: tuple[str, str], batches: list[Tensor]
) -> dict[str, Callable[[], None]]:
    """Ways to read two hook points with its ActivationsStore; none if it is not installed.

    Only its newest versions read both at once.

    Args:
        model: A model of TransformerLens.
        points: Hook points.
        batches: Tokens, of which it reads as many positions.
    """
    if importlib.util.find_spec("sae_lens") is None:
        return {}
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", module="sae_lens")
    # Rows as long as our longest, or attention would be cheaper.
    rows = _rows(batches, max(batch.shape[1] for batch in batches))
    return {
        _ONE: lambda: [_read(model, (point,), rows) for point in points],
        _TWO: partial(_read, model, points, rows),
    }


def _rows(batches: list[Tensor], context: int) -> list[dict[str, list[int]]]:
    """The positions of all batches as rows of one length."""
    tokens: list[int] = []
    for batch in batches:
        tokens += batch.flatten().tolist()
    starts = range(0, len(tokens) - context + 1, context)
    return [{"tokens": tokens[start : start + context]} for start in starts]


def _read(model: Any, points: tuple[str, ...], rows: list[dict[str, list[int]]]) -> None:
    """Reads all rows, in batches of as many positions as ours have."""
    from datasets import Dataset
    from sae_lens.training.activations_store import ActivationsStore

    context = len(rows[0]["tokens"])
    n_rows = max(1, min(len(rows), _POSITIONS // context))
    store = ActivationsStore.from_config_multi_hook(
        model,
        dataset=Dataset.from_list(rows),
        hook_names=list(points),
        hook_d_ins=dict.fromkeys(points, model.cfg.d_model),
        streaming=False,
        context_size=context,
        store_batch_size_prompts=n_rows,
        prepend_bos=False,
        total_training_tokens=1,
        device=str(model.cfg.device),
    )
    for _ in range(len(rows) // n_rows):
        store._get_filtered_multi_hook_llm_batch(raise_on_epoch_end=True)
