"""What codes of a real model know of a text: ``python -m benchmarks.probing``.

Linear probes on every tenth of the 113 data sets with two classes that sae-probes carries, so that
nobody has chosen them: codes of SmolLM2 by both encoders, k-means of the source on the same tokens,
and the activations themselves.
"""

from pathlib import Path

import pandas as pd
import torch

import clvq_lens as cl
from benchmarks import markdown
from benchmarks.paper import trials
from benchmarks.paper.pictures import write_png
from clvq_lens.data.probing_data_sets import probing_data_sets
from clvq_lens.showing import with_interval

RESULTS = Path(__file__).parent / "results"
PAGE = RESULTS / "probing-smollm2.md"
FIGURE = RESULTS / "figures" / "probing-smollm2.png"
MARK = "<!-- below: written by benchmarks.probing -->"
TRIAL, ENCODERS = "wikitext-2", ("predictive", "residual")
EVERY, N_TEXTS = 10, 500
_PACKAGES = ("torch", "transformers", "transformer-lens", "scikit-learn", "sae-probes")


def measured() -> cl.Probing:
    """The probes of all methods; what the model makes of the texts is read once and kept."""
    trial = trials.load(TRIAL)
    names = [name for name, _ in probing_data_sets(None, n_texts=1, seed=0)]
    with trial.reading:
        lenses = {encoder: trials.fitted(trial, TRIAL, encoder) for encoder in ENCODERS}
        return cl.probing(lenses, names[::EVERY], train=trial.train, n_texts=N_TEXTS)


def parts(probing: cl.Probing) -> list[str]:
    """What the page shows: means, what methods differ by, and every data set."""
    about = (
        f"`python -m benchmarks.probing`, {torch.get_num_threads()} thread(s), "
        f"{markdown.versions(_PACKAGES)}. At most {N_TEXTS} texts of each data set. Accuracy, with "
        f"its 95 % interval over texts; of means and of their differences, over data sets."
    )
    means = probing.summary()
    of_means = [[row["method"], _cell(row, "accuracy")] for row in means.to_dict("records")]
    return [
        about,
        markdown.table(["mean of all", "accuracy"], "lr", of_means),
        markdown.table(["difference", "from", "mean"], "llr", _differences(probing)),
        _by_data_set(probing.frame()),
        f"![Accuracy of every method on every data set](figures/{FIGURE.name})",
    ]


def _differences(probing: cl.Probing) -> list[list[str]]:
    """Of means, from k-means and from activations."""
    rows: list[list[str]] = []
    for reference in ("k-means", "raw activations"):
        differences = probing.differences(reference)
        for row in differences[differences["data_set"] == "all"].to_dict("records"):
            interval = with_interval(row["difference"], row["low"], row["high"])
            rows.append([row["method"], reference, interval])
    return rows


def _by_data_set(frame: pd.DataFrame) -> str:
    methods = list(dict.fromkeys(frame["method"]))
    rows: list[list[str]] = []
    for name, of_set in frame.groupby("data_set", sort=False):
        cells = [_cell(row, "accuracy") for row in of_set.to_dict("records")]
        rows.append([f"`{name}`", str(of_set["n_texts"].iloc[0]), *cells])
    return markdown.table(["data set", "texts", *methods], "lr" + "r" * len(methods), rows)


def _cell(row: dict, metric: str) -> str:
    return with_interval(row[metric], row[f"{metric}_low"], row[f"{metric}_high"])


def main() -> None:
    """Measures, and writes the page and its figure."""
    probing = measured()
    write_png(probing.plot(), FIGURE)
    markdown.write_below(MARK, parts(probing), PAGE, title="What codes of SmolLM2 know of a text")


if __name__ == "__main__":
    main()
