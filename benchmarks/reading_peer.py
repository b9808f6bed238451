"""Reading two hook points with sae-lens, beside which our reading is timed."""

import importlib.util
import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

_ONE, _TWO = "sae-lens, once for each hook point", "sae-lens, both hook points at once"
_POSITIONS = 2_048  # in a batch, as in ours
NOT_INSTALLED = "sae-lens is not installed: pip install --no-deps 'sae-lens==6.54.*'"


class Reading(NamedTuple):
    """A way to read, and how many positions it reads: whole batches alone."""

    read: Callable[[], None]
    n_positions: int


def readings(model: Any, points: tuple[str, str], batches: list[Tensor]) -> dict[str, Reading]:
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
    context = max(batch.shape[1] for batch in batches)
    rows = _rows(batches, context)
    n_rows = max(1, min(len(rows), _POSITIONS // context))
    rows = rows[: len(rows) // n_rows * n_rows]

    def one_by_one() -> None:
        for point in points:
            _read(model, (point,), rows, n_rows)

    n_read = len(rows) * context
    return {
        _ONE: Reading(one_by_one, n_read),
        _TWO: Reading(partial(_read, model, points, rows, n_rows), n_read),
    }


def _rows(batches: list[Tensor], context: int) -> list[dict[str, list[int]]]:
    """The positions of all batches as rows of one length."""
    tokens: list[int] = []
    for batch in batches:
        tokens += batch.flatten().tolist()
    starts = range(0, len(tokens) - context + 1, context)
    return [{"tokens": tokens[start : start + context]} for start in starts]


def _read(
    model: Any, points: tuple[str, ...], rows: list[dict[str, list[int]]], n_rows: int
) -> None:
    """Reads all rows, some of them at a time."""
    from datasets import Dataset
    from sae_lens.training.activations_store import ActivationsStore

    store = ActivationsStore.from_config_multi_hook(
        model,
        dataset=Dataset.from_list(rows),
        hook_names=list(points),
        hook_d_ins=dict.fromkeys(points, model.cfg.d_model),
        streaming=False,
        context_size=len(rows[0]["tokens"]),
        store_batch_size_prompts=n_rows,
        prepend_bos=False,
        total_training_tokens=1,
        device=str(model.cfg.device),
    )
    for _ in range(len(rows) // n_rows):
        store._get_filtered_multi_hook_llm_batch(raise_on_epoch_end=True)
