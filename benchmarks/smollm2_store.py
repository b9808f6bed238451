"""Activations of SmolLM2 on disk, and fits from them: ``python -m benchmarks.smollm2_store``.

The model is read once into a store, and killed in the middle of it. Then quantizers of several
sizes are fitted from the store, each in a process of its own, in which the model refuses to run.
Time and memory of each are put beside what `cl.plan` said before.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import clvq_lens as cl
from benchmarks import markdown, smollm2
from benchmarks.apart import begun, taken
from benchmarks.paper.data import wikitext
from clvq_lens.config import CLVQConfig, FitConfig

RESULTS = Path(__file__).parent / "results" / "smollm2_store.md"
N_TOKENS, CONTEXT = 200_000, 160  # about that many tokens has a paragraph
SOURCE, TARGET = smollm2.LAYERS
FITS = (
    (CLVQConfig(n_codes=100, decoder="table"), FitConfig()),
    (CLVQConfig(n_codes=400, decoder="table"), FitConfig()),
    (CLVQConfig(n_codes=1_600, decoder="table"), FitConfig()),
    (CLVQConfig(n_codes=400, decoder="transformer"), FitConfig(n_tokens=300_000)),
)
_POLL_S = 0.1
_MB = 1e6


# ---- in processes of their own -------------------------------------------------------------------


def _cache(folder: str) -> dict[str, Any]:
    model = smollm2.model()
    started = time.monotonic()
    texts = wikitext()[0]
    store = cl.cache_activations(
        model, texts, folder, points=[SOURCE, TARGET], n_tokens=N_TOKENS, progress=False
    )
    return {"wall_s": time.monotonic() - started, "n_tokens": store.n_tokens}


def _plan(number: int) -> dict[str, Any]:
    config, fit = FITS[number]
    model = smollm2.model()
    plan = cl.plan(
        model,
        N_TOKENS,
        source=SOURCE,
        target=TARGET,
        config=config,
        fit=fit,
        context=CONTEXT,
        progress=False,
    )
    return {
        "seconds": {phase.name: phase.wall_s for phase in plan.phases},
        "memory_bytes": plan.memory_bytes,
        "disk_bytes": plan.disk_bytes,
    }


def _fit(number: int, folder: str) -> dict[str, Any]:
    config, fit = FITS[number]
    model = smollm2.model()
    store = cl.ActivationStore(folder)

    def refuse(*_: object) -> None:
        raise RuntimeError("the model was run")

    started = time.monotonic()
    model.register_forward_pre_hook(refuse)
    history = model.add_clvq(SOURCE, TARGET, config=config).fit(store, config=fit, progress=False)
    return {
        "wall_s": time.monotonic() - started,
        "seconds": history.seconds,
        "stop": history.stop,
        "n_tokens": history.n_tokens,
        "n_trained": history.records[-1].n_tokens,
        "fvu": history.records[-1].held_out_fvu,
    }


# ---- around them ---------------------------------------------------------------------------------


def _cached_until_killed(store: Path, folder: Path) -> tuple[float, int]:
    """Seconds until half of the tokens were there, and how many were when it was killed."""
    process = begun(_cache, str(store), answer=folder / "answer.json")
    started: float | None = None
    while process.is_alive():
        if started is None and store.exists():
            started = time.monotonic()
        if started is not None and _tokens_in(store) >= N_TOKENS / 2:
            time.sleep(2.0)  # into the next shard, which is lost
            process.kill()
            process.join()
            return time.monotonic() - started, _tokens_in(store)
        process.join(_POLL_S)
    raise RuntimeError("The cache ended before half of its tokens were seen.")


def _tokens_in(store: Path) -> int:
    return sum(json.loads(path.read_text())["n_tokens"] for path in store.glob("shard-*.json"))


# ---- the page ------------------------------------------------------------------------------------


def _cached(store: Path, folder: Path, plan: dict[str, Any]) -> tuple[str, list[str]]:
    """Fills the store, killed once: a paragraph, and a row of the table."""
    killed_s, n_kept = _cached_until_killed(store, folder)
    rest = taken(_cache, str(store)).result
    n_tokens, n_rest = rest["n_tokens"], rest["n_tokens"] - n_kept
    n_bytes = sum(path.stat().st_size for path in store.iterdir())
    a_token = plan["seconds"]["read the model"] / N_TOKENS
    text = (
        f"Blocks {SOURCE} and {TARGET}, {n_tokens:,} tokens of WikiText-2 in float32: "
        f"{n_bytes / _MB:,.0f} MB on disk (planned for {N_TOKENS:,}: "
        f"{plan['disk_bytes'] / _MB:,.0f} MB). The cache was killed with SIGKILL after "
        f"{killed_s:.0f} s, when {n_kept:,} tokens were there; called again, it read the other "
        f"{n_rest:,} in {rest['wall_s']:.0f} s."
    )
    name = f"reading, {n_rest:,} tokens"
    return text, [name, *_cells(a_token * n_rest, rest["wall_s"], "s"), "", "", "", ""]


def _fitted(number: int, store: Path, plan: dict[str, Any]) -> list[str]:
    """A row of the table for a fit from the store."""
    fit = taken(_fit, number, str(store))
    result, config = fit.result, FITS[number][0]
    print(json.dumps({"plan": plan, "fit": result, "memory": fit.memory_bytes}))
    planned_s = sum(plan["seconds"].values()) - plan["seconds"]["read the model"]
    return [
        f"{config.n_codes:,} codes, {config.decoder}, {result['n_tokens']:,} tokens",
        *_cells(planned_s, result["wall_s"], "s"),
        *_cells(plan["memory_bytes"] / _MB, fit.memory_bytes / _MB, "MB"),
        "" if result["stop"] == "finished" else f"ended at {result['n_trained']:,}",
    ]


def _cells(planned: float, measured: float, unit: str) -> list[str]:
    return [f"{planned:,.0f} {unit}", f"{measured:,.0f} {unit}", f"{measured / planned:.2f}"]


def main() -> None:
    """Measures all, and writes the page."""
    smollm2.unpacked()
    plans = [taken(_plan, number).result for number in range(len(FITS))]
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "store"
        text, row = _cached(store, Path(name), plans[0])
        rows = [row]
        for number, plan in enumerate(plans):
            rows.append(_fitted(number, store, plan))
            _write(text, rows)


def _write(text: str, rows: list[list[str]]) -> None:
    titles = ["", "planned", "measured", "ratio", "memory planned", "measured", "ratio", ""]
    RESULTS.write_text(
        f"# SmolLM2-135M on disk\n\n`python -m benchmarks.smollm2_store`, "
        f"{torch.get_num_threads()} threads, {markdown.versions(['torch'])}. {text}\n\nEvery fit "
        f"read the store in a process of its own; the model, loaded beside it, was made to refuse "
        f"to run. `cl.plan` was asked before, each time. Memory is that of the process at its "
        f"peak, with the model; mapped files are not in it.\n\n"
        f"{markdown.table(titles, 'lrrrrrrl', rows)}\n"
    )


if __name__ == "__main__":
    main()
