"""Memory of a cache and of a fit from it: ``python -m benchmarks.flat_memory``."""

import tempfile
from pathlib import Path
from typing import Any

import torch

import clvq_lens as cl
from benchmarks import markdown
from benchmarks.apart import Taken, taken
from benchmarks.paper.data import stories
from benchmarks.stories import stories_model

RESULTS = Path(__file__).parent / "results" / "flat_memory.md"
SIZES = (1_000_000, 4_000_000)
_POINTS = [1, 3]
_FIT_TOKENS = 400_000


def _cache(corpus: str, folder: str) -> dict[str, Any]:
    model = stories_model(torch.device("cpu"))
    store = cl.cache_activations(model, corpus, folder, points=_POINTS, progress=False)
    return {"n_tokens": store.n_tokens}


def _fit(folder: str) -> dict[str, Any]:
    model: Any = stories_model(torch.device("cpu"))
    lens = model.add_clvq(*_POINTS, n_codes=400, decoder="table")
    lens.fit(cl.ActivationStore(folder), n_tokens=_FIT_TOKENS, progress=False)
    return {}


def _corpus(n_tokens: int, path: Path) -> None:
    """A document per line, none twice: 50 words of a story, which are 120 tokens, about."""
    texts = [" ".join(text.split()[:50]) for text in stories()[0]]
    with path.open("w") as file:
        for number in range(n_tokens // 120):
            file.write(f"{number} {texts[number % len(texts)]}\n")


def main() -> None:
    """Measures all, and writes the page."""
    found: list[tuple[int, Taken, Taken]] = []
    with tempfile.TemporaryDirectory() as name:
        for size in SIZES:
            corpus, store = Path(name) / f"{size}.txt", Path(name) / str(size)
            _corpus(size, corpus)
            cache = taken(_cache, str(corpus), str(store))
            found.append((cache.result["n_tokens"], cache, taken(_fit, str(store))))
    rows: list[list[str]] = []
    for n_tokens, *both in found:
        rows.append([f"{n_tokens:,}", *(f"{job.memory_bytes / 1e6:,.0f} MB" for job in both)])
    (_, *fewest), (_, *most) = found[0], found[-1]
    ratios = [b.memory_bytes / a.memory_bytes for a, b in zip(fewest, most, strict=True)]
    rows.append(["ratio", *(f"{ratio:.3f}" for ratio in ratios)])
    titles = ["tokens in the corpus", "cache", f"fit of {_FIT_TOKENS:,} tokens"]
    RESULTS.write_text(
        f"# Memory by the size of the corpus\n\n`python -m benchmarks.flat_memory`, stories260K, "
        f"blocks {_POINTS[0]} and {_POINTS[1]}, 400 codes; {markdown.versions(['torch'])}. Memory "
        f"of the process at its peak, with interpreter, libraries and model; mapped files are not "
        f"in it.\n\n{markdown.table(titles, 'lrr', rows)}\n"
    )
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
