"""Runs all benchmarks, prints a table and keeps it: ``python -m benchmarks [name ...]``."""

import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import (
    bench_attach,
    bench_codebook,
    bench_concepts,
    bench_hosts,
    bench_initialization,
    bench_patching,
)
from benchmarks.timing import Row, device

BENCHMARKS = {
    "codebook": bench_codebook.run,
    "attach": bench_attach.run,
    "initialization": bench_initialization.run,
    "patching": bench_patching.run,
    "concepts": bench_concepts.run,
    "hosts": bench_hosts.run,
}
RESULTS = Path(__file__).parent / "results"


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    lines = ["| benchmark | contestant | median | ratio | note |", "|---|---|--:|--:|---|"]
    lines += [
        f"| {row.benchmark} | {row.contestant} | {1000 * row.median_s:,.1f} ms "
        f"| {row.ratio:.2f} | {row.note} |"
        for row in rows
    ]
    return "\n".join(lines)


def machine() -> str:
    name = torch.cuda.get_device_name() if device().type == "cuda" else platform.machine()
    packages = ("torch", "transformer-lens", "faiss-cpu", "scikit-learn", "vector-quantize-pytorch")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{name}, {torch.get_num_threads()} threads; {versions}"


def main(names: list[str]) -> None:
    RESULTS.mkdir(exist_ok=True)
    for name in names or list(BENCHMARKS):
        text = table(BENCHMARKS[name]())
        print(f"\n{name}\n\n{text}")
        command = f"`python -m benchmarks {name}` on {machine()}. Medians of interleaved runs."
        head = f"# {name}\n\n{command}\n\n"
        (RESULTS / f"{name}-{device().type}.md").write_text(head + text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
