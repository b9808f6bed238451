"""What this machine does in a second: the model reads a little, and a short fit is run."""

import tempfile
import time
from pathlib import Path
from typing import Any, SupportsIndex

import torch

from clvq_lens.add import add_clvq
from clvq_lens.data.store.cache import cache_activations
from clvq_lens.data.store.store import ActivationStore
from clvq_lens.host.host import Host
from clvq_lens.planning.by_formula import Work

_NAME = "plan"
_READING_S = 4.0
_FEWEST_PER_CODE = 4  # tokens; fewer could not start a codebook
_N_STEPS = 8
_HELD_OUT = 0.2  # of the texts of the short fit, so that a validation takes some time


def measured_seconds(
    model: Any,
    source: SupportsIndex | str,
    target: SupportsIndex | str,
    work: Work,
    *,
    progress: bool,
) -> tuple[dict[str, float], str]:
    """Seconds of every phase on this machine, and how they are known.

    Args:
        model: A loaded model.
        source: Layer or hook point of the source.
        target: Layer or hook point of the target.
        work: What has to be done.
        progress: Whether to show progress bars.
    """
    with tempfile.TemporaryDirectory() as folder:
        store, read_s = _read(model, [source, target], work, Path(folder))
        rates = {"read the model": read_s / store.n_tokens}
        rates |= _rates_of_short_fit(model, source, target, store, work, progress=progress)
    seconds: dict[str, float] = {}
    for phase, of_a_token in rates.items():
        seconds[phase] = of_a_token * work.tokens_of(phase)
    basis = f"Measured here, on {store.n_tokens:,} random tokens and {_N_STEPS} steps."
    return seconds, basis


def _read(
    model: Any, points: list[SupportsIndex | str], work: Work, folder: Path
) -> tuple[ActivationStore, float]:
    """A small store, and the seconds that it took to fill it."""
    host = Host(model)
    context = min(work.context, host.n_context)
    n_texts, n_needed = 4, _FEWEST_PER_CODE * work.config.n_codes
    generator = torch.Generator().manual_seed(0)
    while True:
        tokens = torch.randint(host.cfg.d_vocab, (n_texts, context), generator=generator)
        started = time.monotonic()
        store = cache_activations(
            model, tokens, folder / str(n_texts), points=points, progress=False
        )
        read_s = time.monotonic() - started
        if read_s >= _READING_S / 2 and store.n_tokens >= n_needed:
            return store, read_s
        # As many more as take the time, but never much more at once: the first ones are slow.
        n_texts = min(8 * n_texts, max(2 * n_texts, round(n_texts * _READING_S / read_s)))


def _rates_of_short_fit(
    model: Any,
    source: SupportsIndex | str,
    target: SupportsIndex | str,
    store: ActivationStore,
    work: Work,
    *,
    progress: bool,
) -> dict[str, float]:
    """Seconds that a token takes in each phase of a fit."""
    options = {
        "n_tokens": _N_STEPS * work.fit.batch_tokens,
        "held_out_fraction": _HELD_OUT,
        "n_evaluations": 1,
        "kl_weight": work.fit.kl_weight,
        "batch_tokens": work.fit.batch_tokens,
        "keep_outliers": True,  # nobody wants to hear how many of random tokens are outliers
    }
    lens = add_clvq(model, source, target, name=_NAME, config=work.config)
    try:
        history = lens.fit(store, progress=progress, **options)
    finally:
        lens.remove()
    n_trained = history.records[-1].n_tokens
    n_held_out = store.n_tokens * history.n_held_out_documents / store.n_documents
    n_training = store.n_tokens - n_held_out
    n_tokens = {
        "start": min(work.tokens_of("start"), n_training),
        "encoder": n_trained,
        "fit": n_trained,
        "validation": n_held_out * (1 + work.is_predictive),
        "frozen pass": min(n_trained, n_training),
    }
    rates: dict[str, float] = {}
    for phase, n in n_tokens.items():
        if phase in history.seconds:
            rates[phase] = history.seconds[phase] / max(1, n)
    return rates
