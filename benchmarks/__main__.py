"""Runs all benchmarks, prints a table and keeps it: ``python -m benchmarks [name ...]``."""

import platform
import sys
from pathlib import Path

import torch

from benchmarks import (
    bench_attach,
    bench_checkpoint,
    bench_codebook,
    bench_concepts,
    bench_growth,
    bench_hosts,
    bench_initialization,
    bench_patching,
    bench_start,
    bench_step,
    bench_store,
    bench_whole,
    markdown,
)
from benchmarks.timing import Row, device

BENCHMARKS = {
    "codebook": bench_codebook.run,
    "attach": bench_attach.run,
    "initialization": bench_initialization.run,
    "patching": bench_patching.run,
    "concepts": bench_concepts.run,
    "hosts": bench_hosts.run,
    "store": bench_store.run,
    "checkpoint": bench_checkpoint.run,
    "whole": bench_whole.run,
    "growth": bench_growth.run,
    "step": bench_step.run,
    "start": bench_start.run,
}
RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "torch",
    "transformer-lens",
    "faiss-cpu",
    "scikit-learn",
    "vector-quantize-pytorch",
    "sae-lens",
)


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    cells = []
    for row in rows:
        median, ratio = f"{1000 * row.median_s:,.1f} ms", f"{row.ratio:.2f}"
        cells.append([row.benchmark, row.contestant, median, ratio, row.note])
    titles = ["benchmark", "contestant", "median", "ratio", "note"]
    return markdown.table(titles, "llrrl", cells)


def machine() -> str:
    """What the times depend on."""
    name = torch.cuda.get_device_name() if device().type == "cuda" else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads; {markdown.versions(_PACKAGES)}"


def main(names: list[str]) -> None:
    """Runs the benchmarks of some names, or all of them."""
    RESULTS.mkdir(exist_ok=True)
    for name in names or list(BENCHMARKS):
        text = table(BENCHMARKS[name]())
        print(f"\n{name}\n\n{text}")
        command = f"`python -m benchmarks {name}` on {machine()}. Medians of interleaved runs."
        head = f"# {name}\n\n{command}\n\n"
        # After each of them: an interrupted run keeps what it has measured.
        (RESULTS / f"{name}-{device().type}.md").write_text(head + text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
