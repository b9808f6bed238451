"""How time, memory and products grow with tokens, codes, width and layers.

An exponent is the logarithm of a ratio over that of the sizes: 1 is in proportion. Where time grows
no faster than products do, no part of the library grows by itself.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks.apart import taken
from benchmarks.peak import peak_above
from benchmarks.products import flops_of
from benchmarks.random_models import random_model, random_tokens
from benchmarks.timing import Row, interleaved
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.quantizer.codebook import Codebook

_REPETITIONS = 2
_SEARCHED, _SEARCH_CODES, _SEARCH_WIDTH = 16_384, 65_536, 768
_AT_ONCE = 1_024  # rows of the bare product, whose result would take 4 GB as a whole


@dataclass(frozen=True, kw_only=True)
class Size:
    """What grows."""

    tokens: int = 8_192
    codes: int = 100
    width: int = 64
    layers: int = 2


_BASE = Size()
_GROWN = {
    "tokens": replace(_BASE, tokens=10 * _BASE.tokens),
    "codes": replace(_BASE, codes=10 * _BASE.codes),
    "width": replace(_BASE, width=4 * _BASE.width),
    "layers": replace(_BASE, layers=2 * _BASE.layers),
}
_VERBS = ("fit", "evaluate", "concepts")


def run() -> list[Row]:
    """Exponents of each verb for each size, then the search among very many codes."""
    table: list[Row] = []
    for verb in _VERBS:
        base = taken(_measured, verb, vars(_BASE)).result
        for what, size in _GROWN.items():
            grown = taken(_measured, verb, vars(size)).result
            ratio = getattr(size, what) / getattr(_BASE, what)
            rows = _exponents(f"{verb}, {what} x {ratio:g}", base, grown, ratio)
            print(f"{rows[-1].benchmark}: {rows[-1].note}")
            table += rows
    return table + _search()


def _exponents(
    name: str, base: dict[str, float], grown: dict[str, float], ratio: float
) -> list[Row]:
    table = [Row(name, "before", base["seconds"], 1.0)]
    exponents: list[str] = []
    for what in ("seconds", "flops", "bytes"):
        exponent = math.log(grown[what] / base[what]) / math.log(ratio)
        exponents.append(f"{what} {exponent:.2f}")
    factor = grown["seconds"] / base["seconds"]
    table.append(Row(name, "after", grown["seconds"], factor, ", ".join(exponents)))
    return table


def _measured(verb: str, size: dict[str, int]) -> dict[str, Any]:
    """Time, memory and products of a verb, in a process of its own."""
    work = _work(verb, Size(**size))
    n_bytes = peak_above(work)  # the first time, when no memory can be used again
    seconds: list[float] = []
    for _ in range(_REPETITIONS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return {"bytes": max(1, n_bytes), "seconds": min(seconds), "flops": flops_of(work)}


def _work(verb: str, size: Size) -> Callable[[], object]:
    """A verb, ready to be called; of the random model, all but the last block are between."""
    model = random_model(size.width, n_layers=size.layers)
    tokens = random_tokens(size.tokens)
    lens = model.add_clvq(0, size.layers - 1, config=CLVQConfig(n_codes=size.codes))
    # The budget and not the data decide how long a fit takes, and patience could end it early.
    config = FitConfig(n_tokens=4 * size.tokens, patience=1_000)
    if verb == "fit":
        return partial(lens.fit, tokens, config, progress=False)
    lens.fit(tokens, config.replace(n_tokens=2_048), progress=False)
    return partial(getattr(lens, verb), tokens, progress=False)


# ---- very many codes -----------------------------------------------------------------------------


def _search() -> list[Row]:
    name = f"nearest of {_SEARCH_CODES:,} codes x {_SEARCH_WIDTH}, {_SEARCHED:,} tokens"
    found = taken(_searched).result
    memory = f"memory above tokens and codes: {found['bytes'] / 1e6:,.0f} MB"
    return [
        Row(name, "bare product, 1,024 rows at a time", found["bare"], 1.0),
        Row(name, "clvq_lens", found["nearest"], found["nearest"] / found["bare"], memory),
    ]


def _searched() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    config = CLVQConfig(n_codes=_SEARCH_CODES)
    codebook = Codebook(config, _SEARCH_WIDTH, generator=generator)
    codebook.vectors.copy_(torch.randn(_SEARCH_CODES, _SEARCH_WIDTH, generator=generator))
    z = torch.randn(_SEARCHED, _SEARCH_WIDTH, generator=generator)

    def bare() -> None:
        for rows in z.split(_AT_ONCE):
            rows @ codebook.vectors.T

    with torch.no_grad():
        n_bytes = peak_above(lambda: codebook.nearest(z))
        times = interleaved({"bare": bare, "nearest": lambda: codebook.nearest(z)}, repetitions=1)
    return {"bytes": n_bytes, **times}
