"""The page of `benchmarks.paper`: tables and figures from what has been measured."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

import clvq_lens as cl
from benchmarks import markdown
from benchmarks.paper import CLOSE, ENCODERS
from benchmarks.paper.data import KEPT, RESULTS
from benchmarks.paper.pictures import write_png
from benchmarks.paper.set_by_set import set_by_set
from clvq_lens.comparison.comparison import as_table
from clvq_lens.comparison.described import METRICS
from clvq_lens.plots.comparison_panels import plot_comparison

MARK = "<!-- below: written by benchmarks.paper -->"
_PACKAGES = ("torch", "transformer-lens", "scikit-learn", "clvq-lens")
_OF_LABELS = ("ami", "nmi", "purity")
_IN_FIGURES = (
    "fvu",
    "ce_loss_recovered",
    "readout_kl",
    "purity_ambiguous",
    "ami_ambiguous",
    "stability",
)
_HEAD = """`python -m benchmarks.paper` with {versions}; each fit with a seed of its
own. Values are means over {n_seeds} fits; brackets reach from the lowest to the highest end of
their 95 % intervals over documents (jackknife), those of effects of removals also over codes, and
those of specific drops are as wide as Holm's method asks. All methods of a trial have the same
texts and budget to fit on, and the same decoders: "table" holds the mean target of each code,
"transformer" is trained on codes that stay what they are. Rows that are no methods: random codes;
k-means of the target, which reads what no code of the source can see; and the prediction of the
target from the source before it is quantized. Tables of differences: each method less {first}
codes, fit by fit and on the same documents; where the interval leaves out 0, one is better than
the other."""
_SET_BY_SET = """## Set by set

Is the default better than all of {others}? The worst answer beside any of them: "apart" where
intervals of single numbers do not overlap; "by pairs" where only the interval of the difference on
the same documents leaves out 0; "open" where it does not; "behind" where it is worse.

{table}"""


def keep_accuracy(name: str, accuracy: float) -> None:
    """Keeps how often the model of a trial is right, for the page.

    Args:
        name: Name of the trial.
        accuracy: Of the model on all held-out texts.
    """
    values = _accuracies() | {name: accuracy}
    _accuracy_file().write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _accuracies() -> dict[str, float]:
    path = _accuracy_file()
    return json.loads(path.read_text()) if path.is_file() else {}


def _accuracy_file() -> Path:
    return KEPT / "accuracy.json"


def write(
    codes: Mapping[str, cl.Comparison],
    judged: Mapping[str, cl.Comparison],
    missing: Sequence[str],
    *,
    n_seeds: int,
) -> None:
    """Writes paper.md and the figures; what a person wrote above its mark stays.

    Args:
        codes: What was measured of codes, by trial; trials that lack the default are left out.
        judged: What was measured of their faithfulness, likewise.
        missing: What is not measured yet, in words.
        n_seeds: Fits of each method.
    """
    head = _HEAD.format(versions=markdown.versions(_PACKAGES), n_seeds=n_seeds, first=ENCODERS[0])
    sections = [head, _set_by_set(codes)]
    for name in codes:
        if ENCODERS[0] in codes[name].methods:
            sections.append(_section_of_codes(name, codes[name]))
        if ENCODERS[0] in judged[name].methods:
            sections.append(_section_of_classes(name, judged[name]))
    if missing:
        sections.append(f"Not measured yet: {'; '.join(missing)}.")
    path = RESULTS / "paper.md"
    markdown.write_below(MARK, sections, path, title="The paper's comparison")


def _set_by_set(codes: Mapping[str, cl.Comparison]) -> str:
    answers = set_by_set(codes, ENCODERS[0], CLOSE)
    return _SET_BY_SET.format(others=", ".join(CLOSE), table=_as_markdown(answers, n_names=6))


def _section_of_codes(name: str, comparison: cl.Comparison) -> str:
    figure = RESULTS / "figures" / f"paper-{name}.png"
    shown = {metric: METRICS[metric] for metric in _IN_FIGURES}
    frame = comparison.frame()
    write_png(plot_comparison(frame, shown), figure)
    of_labels = [column for column in frame if str(column).startswith(_OF_LABELS)]
    differences = as_table(comparison.differences(ENCODERS[0]))
    parts = [
        f"## {name}",
        _as_markdown(as_table(frame.drop(columns=of_labels))),
        f"![](figures/{figure.name})",
        f"Less what {ENCODERS[0]} codes have with the same decoder, on the same documents:",
        _as_markdown(differences),
    ]
    if of_labels:
        # Which code a token has does not depend on the decoder.
        codes = frame[["method", "decoder", *of_labels]].dropna().drop_duplicates("method")
        labels = as_table(codes).drop(columns="decoder")
        parts += ["Codes beside the true concepts of tokens:", _as_markdown(labels, n_names=1)]
    return "\n\n".join(parts)


def _as_markdown(table: pd.DataFrame, *, n_names: int = 2) -> str:
    """A table whose first columns hold names, and the others numbers."""
    cells = table.astype(str).to_numpy().tolist()
    alignment = "l" * n_names + "r" * (len(table.columns) - n_names)
    return markdown.table(list(table.columns), alignment, cells)


def _section_of_classes(name: str, comparison: cl.Comparison) -> str:
    judged = comparison.faithfulness[ENCODERS[0], "transformer"]
    verdict = "- " + judged.verdict().replace("\n", "\n- ")
    accuracy = _accuracies().get(name)
    right = "" if accuracy is None else f"; the model is right in {accuracy:.3f} of all texts"
    return (
        f"## {name}: do codes matter?\n\n{judged.n_texts} texts of {judged.n_documents} "
        f"documents{right}; chance {judged.chance:.3f}; completeness error of integrated "
        f"gradients {judged.completeness_error:.2%}.\n\n{_metrics_as_rows(comparison.table())}\n\n"
        f"{ENCODERS[0]}, first fit, honest protocol:\n\n{verdict}"
    )


def _metrics_as_rows(table: pd.DataFrame) -> str:
    """Few methods and many metrics: metrics as columns would be too wide."""
    turned = table.drop(columns="decoder").set_index("method").T
    rows = []
    for title, row in turned.iterrows():
        rows.append([str(title), *row])
    return markdown.table(["", *turned.columns], "l" * (len(turned.columns) + 1), rows)
