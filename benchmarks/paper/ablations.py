"""The paper's ablations, on stories260K: ``python -m benchmarks.paper.ablations``.

Each option is varied on its own, from the defaults. A fit is one line of
``benchmarks/results/paper/ablations.jsonl``; what is there is not done again, so that an
interrupted run goes on. ``--tables`` only writes the tables and figures of what is there.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from benchmarks import markdown
from benchmarks.paper import ENCODERS, ablation_tables, data
from benchmarks.paper.ablation_tables import DEFAULT
from benchmarks.paper.data import KEPT, RESULTS
from benchmarks.stories import stories_model

ROWS = KEPT / "ablations.jsonl"
MARK = "<!-- below: written by benchmarks.paper.ablations -->"
SEEDS = (0, 1, 2)
SOURCE, TARGET = 1, 3
N_WORDS = 60  # words of each story that are read
BUDGET = {"n_tokens": 200_000, "batch_tokens": 512, "n_evaluations": 1}
_SIZES = (50, 100, 400, 800, 1200)
_KEY = ("setting", "seed")
# The options that each ablation varies; in figures a second one is told apart by color.
VARIED: dict[str, dict[str, Sequence[object]]] = {
    "encoder": {"encoder": ENCODERS, "decoder": ("transformer", "table")},
    "encoder_layers": {"encoder_layers": (0, 1, 2, 3)},
    "n_codes": {"n_codes": _SIZES},
    "temperature": {
        "temperature": (0.5, 1.0, 2.0, 3.0),
        "temperature_unit": ("relative", "raw"),
        "top_k": (5,),  # the nearest code alone, the default, makes every temperature the same
    },
    "top_k": {"top_k": (1, 5, 10, 50, 100)},
    "initialization": {"initialization": ("random", "kmeans++", "scaled_spherical")},
    "decoder_memory": {"decoder_memory": ("codes", "encoder")},
    "decoder": {"n_codes": _SIZES, "decoder": ("transformer", "table")},
}


def _combinations(varied: Mapping[str, Sequence[object]]) -> list[dict[str, Any]]:
    """Every combination of the values of some options; the first option changes fastest."""
    combinations = []
    for values in itertools.product(*reversed(varied.values())):
        combinations.append(dict(zip(varied, reversed(values), strict=True)))
    return combinations


GRID = {ablation: _combinations(varied) for ablation, varied in VARIED.items()}


def setting(options: Mapping[str, object]) -> str:
    """Equal for options that mean the same quantizer."""
    changed: dict[str, object] = {}
    for name, value in options.items():
        if value != getattr(DEFAULT, name):
            changed[name] = value
    return json.dumps(changed, sort_keys=True)


def run() -> None:
    """Does every fit that is still to be done; those with the decoder of the paper first."""
    done = {(row["setting"], row["seed"]) for row in rows()}
    todo: dict[tuple[str, int], dict[str, Any]] = {}
    for key, options in _wanted().items():
        if key not in done:
            todo[key] = options
    if not todo:
        return
    model = stories_model()
    train, held_out = short_stories()
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    for (key, seed), options in tqdm(todo.items(), unit="fit"):
        row = {"budget": BUDGET, "setting": key, "seed": seed}
        row |= measure(model, train, held_out, options, seed)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _wanted() -> dict[tuple[str, int], dict[str, Any]]:
    """The options of every fit, by setting and seed; a setting of several ablations comes once."""
    *paper, decoder = GRID
    wanted: dict[tuple[str, int], dict[str, Any]] = {}
    # Seed by seed, so that an interrupted run has every setting before it repeats one.
    for names in (paper, [decoder]):
        for seed in SEEDS:
            for name in names:
                for options in GRID[name]:
                    wanted[setting(options), seed] = options
    return wanted


def rows() -> Iterator[dict[str, Any]]:
    """What has been measured with this budget."""
    if not ROWS.exists():
        return
    for line in ROWS.read_text().splitlines():
        row = json.loads(line)
        if row["budget"] == BUDGET:
            yield row


def short_stories() -> tuple[list[str], list[str]]:
    """The first words of each story: texts to fit on, and texts to judge with."""
    train, held_out = data.stories()
    first_words = partial(data.cut, n_words=N_WORDS)
    return list(map(first_words, train)), list(map(first_words, held_out))


def measure(
    model: Any, train: list[str], held_out: list[str], options: Mapping[str, object], seed: int
) -> dict[str, float]:
    """Fits on one part, and judges on the other."""
    lens = model.add_clvq(SOURCE, TARGET, **options)
    try:
        start = time.process_time()  # of this process: others may use the machine
        lens.fit(train, **BUDGET, seed=seed, progress=False)
        fit_s = time.process_time() - start
        evaluation = lens.evaluate(held_out, seed=seed, progress=False)
    finally:
        lens.remove()
    values = evaluation.frame().set_index("metric")["value"].to_dict()
    return values | {"fit_s": fit_s, "n_tokens_held_out": evaluation.n_tokens}


def frame(ablation: str) -> pd.DataFrame:
    """One row for each fit of an ablation."""
    measured = pd.DataFrame(rows(), columns=[*_KEY, *ablation_tables.METRICS])
    tables = []
    for order, options in enumerate(GRID[ablation]):
        runs = measured[measured["setting"] == setting(options)]
        tables.append(runs.assign(**options, order=order))
    return pd.concat(tables, ignore_index=True)


def write() -> None:
    """The page of results; what a person wrote above its mark stays."""
    parts = [_head()]
    for name, varied in VARIED.items():
        options = list(varied)
        runs = frame(name)
        image = RESULTS / f"figures/ablation-{name}.png"
        group = options[1] if len(options) > 1 else None
        ablation_tables.picture(runs, options[0], group, image)
        parts += [
            f"## {name}",
            ablation_tables.table(runs, options),
            ablation_tables.verdict(runs, options),
            f"![{name}](figures/{image.name})",
        ]
    markdown.write_below(MARK, parts, RESULTS / "ablations.md", title="Ablations")


def _head() -> str:
    """How the numbers came about."""
    budget = ", ".join(f"{name} {value:,}" for name, value in BUDGET.items())
    n_held_out = next(rows())["n_tokens_held_out"]
    return (
        f"`python -m benchmarks.paper.ablations`; {ablation_tables.versions()}. stories260K, "
        f"residual stream after block {SOURCE} -> {TARGET}. Fitted on the first {N_WORDS} words of "
        f"800 stories of TinyStories ({budget}), measured on those of {len(data.stories()[1])} "
        f"others ({n_held_out:,} tokens). Seeds {', '.join(map(str, SEEDS))}: of data order, "
        f"initialization and sampling; in brackets the least and the most of them. Every option "
        f"that is not named has its default. Bold: the default; †: the paper's choice. Higher is "
        f"worse for FVU, better for CE loss recovered; FVU with codes at random is far above FVU "
        f"where the decoder relies on codes. Fits took turns with other work on one core; CPU "
        f"seconds are those of one thread."
    )


if __name__ == "__main__":
    torch.set_num_threads(1)  # CPU seconds of several threads depend on their number
    if "--tables" not in sys.argv:
        run()
    write()
