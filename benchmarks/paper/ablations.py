"""The paper's ablations, on stories260K: ``python -m benchmarks.paper.ablations``.

Each option is varied on its own, from the defaults. A fit is one line of
``runs/paper/ablations.jsonl``; what is there is not done again, so that an interrupted run goes on.
``--tables`` only writes the tables and figures of what is there.
"""

import json
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

import clvq_lens as cl
from benchmarks.paper import ablation_tables, data
from benchmarks.paper.finetune import RUNS

ROWS = RUNS / "ablations.jsonl"
RESULTS = data.ROOT / "benchmarks/results"
MARK = "<!-- below: written by benchmarks.paper.ablations -->"
SEEDS = (0, 1, 2)
SOURCE, TARGET = 1, 3
N_WORDS = 60  # of each story
BUDGET = {"n_tokens": 100_000, "batch_tokens": 512, "n_evaluations": 1}
# Of each ablation the options that are varied; those of `CLVQConfig` are not said again.
GRID: dict[str, list[dict[str, Any]]] = {
    "n_codes": [{"n_codes": n} for n in (50, 100, 400, 800, 1200)],
    "temperature": [
        {"temperature": t, "temperature_unit": unit}
        for unit in ("relative", "raw")
        for t in (0.5, 1.0, 2.0, 3.0)
    ],
    "top_k": [{"top_k": k} for k in (1, 5, 10, 50, 100)],
    "initialization": [
        {"initialization": name} for name in ("random", "kmeans++", "scaled_spherical")
    ],
    "decoder_memory": [{"decoder_memory": name} for name in ("codes", "encoder")],
    "decoder": [
        {"n_codes": n, "decoder": name}
        for name in ("transformer", "table")
        for n in (50, 100, 400, 800, 1200)
    ],
}
_KEY = ("setting", "seed")
# The options of each ablation; a second one is told apart by colour.
VARIED = {name: list(options[0]) for name, options in GRID.items()}


def setting(options: dict[str, Any]) -> str:
    """Equal for options that mean the same quantizer."""
    default = cl.CLVQConfig()
    changed = {key: value for key, value in options.items() if value != getattr(default, key)}
    return json.dumps(changed, sort_keys=True)


def run() -> None:
    """Does every fit that is still to be done; those with the decoder of the paper first."""
    done = {(row["setting"], row["seed"]) for row in rows()}
    ablations = [list(GRID)[:-1], list(GRID)[-1:]]
    wanted = {
        (setting(options), seed): options
        for names in ablations
        for seed in SEEDS
        for name in names
        for options in GRID[name]
    }
    todo = {key: options for key, options in wanted.items() if key not in done}
    if not todo:
        return
    model = stories_model()
    train, held_out = ([_cut(text) for text in texts] for texts in data.stories())
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    for (key, seed), options in tqdm(todo.items(), unit="fit"):
        row = {"budget": BUDGET, "setting": key, "seed": seed}
        row |= measure(model, train, held_out, options, seed)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")


def rows() -> Iterator[dict[str, Any]]:
    """What has been measured with this budget."""
    if ROWS.exists():
        found = map(json.loads, ROWS.read_text().splitlines())
        yield from (row for row in found if row["budget"] == BUDGET)


def measure(
    model: Any, train: list[str], held_out: list[str], options: dict[str, Any], seed: int
) -> dict[str, float]:
    """Fits on one part, and judges on the other."""
    lens = model.add_clvq(SOURCE, TARGET, **options)
    try:
        start = time.process_time()
        lens.fit(train, **BUDGET, seed=seed, progress=False)
        fit_s = time.process_time() - start
        report = lens.evaluate(held_out, seed=seed, progress=False)
    finally:
        lens.remove()
    values = report.frame().set_index("metric")["value"].to_dict()
    return values | {"fit_s": fit_s, "n_tokens_held_out": report.n_tokens}


def frame(ablation: str) -> pd.DataFrame:
    """One row for each fit of an ablation."""
    found = pd.DataFrame(rows(), columns=[*_KEY, *ablation_tables.METRICS])
    parts = [
        found[found["setting"] == setting(options)].assign(**options, order=order)
        for order, options in enumerate(GRID[ablation])
    ]
    return pd.concat(parts, ignore_index=True)


def write() -> None:
    """The page of results; what a person wrote above its mark stays."""
    path = RESULTS / "ablations.md"
    remarks = path.read_text().split(MARK)[0] if path.exists() else "# Ablations\n\n"
    parts = [_head()]
    for name, options in VARIED.items():
        runs = frame(name)
        image = RESULTS / f"figures/ablation-{name}.png"
        ablation_tables.picture(runs, options[0], (*options, None)[1], image)
        parts += [
            f"## {name}",
            ablation_tables.table(runs, options),
            ablation_tables.verdict(runs, options),
            f"![{name}](figures/{image.name})",
        ]
    path.write_text(remarks + MARK + "\n\n" + "\n\n".join(parts) + "\n")


def _head() -> str:
    """How the numbers were made."""
    budget = ", ".join(f"{name} {value:,}" for name, value in BUDGET.items())
    n_held_out = next(rows())["n_tokens_held_out"]
    return (
        f"`python -m benchmarks.paper.ablations`; {ablation_tables.versions()}. stories260K, "
        f"residual stream after block {SOURCE} -> {TARGET}. Fitted on the first {N_WORDS} words of "
        f"800 stories of TinyStories ({budget}), measured on those of {len(data.stories()[1])} "
        f"others ({n_held_out:,} tokens). Seeds {', '.join(map(str, SEEDS))}: of data order, "
        f"initialisation and sampling; in brackets the least and the most of them. Every option "
        f"that is not named has its default. Bold: the default; †: the paper's choice. Higher is "
        f"worse for FVU, better for CE loss recovered; FVU with codes at random is far above FVU "
        f"where the decoder relies on codes. Fits took turns with other work on one core; CPU "
        f"seconds are those of one thread."
    )


def stories_model() -> Any:
    """LLaMA-like, 5 blocks of width 64, really trained on TinyStories."""
    from safetensors.torch import load_file
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformers import AutoTokenizer

    folder = data.SHARED / "models/stories260K"
    warnings.filterwarnings("ignore", "Hooked.* is deprecated", DeprecationWarning)
    cfg = HookedTransformerConfig(
        **json.loads((folder / "hooked/cfg.json").read_text()), device="cpu"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    model = HookedTransformer(cfg, tokenizer=tokenizer, default_padding_side="right")
    model.load_state_dict(load_file(folder / "hooked/model.safetensors"), strict=False)
    return model.eval()


def _cut(text: str) -> str:
    return " ".join(text.split()[:N_WORDS])


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--tables" not in sys.argv:
        run()
    write()
