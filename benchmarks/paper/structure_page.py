"""The page of `benchmarks.paper.structure`: tables and figures from what has been measured."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks import markdown
from benchmarks.markdown import spread
from benchmarks.paper import ablation_tables
from benchmarks.paper.data import RESULTS
from benchmarks.paper.pictures import write_png
from clvq_lens.comparison.layer_agreement import SHUFFLED
from clvq_lens.plots.alignment_panels import plot_alignment
from clvq_lens.plots.layer_panels import plot_collapse
from clvq_lens.plots.stability_points import plot_stability

MARK = "<!-- below: written by benchmarks.paper.structure -->"
_THRESHOLDS = (0.8, 0.9, 0.95)
Measured = Mapping[str, tuple[Mapping[str, pd.DataFrame], Mapping[str, Any]]]
"""Tables and what is said of them, for each seed, or for each way in which fits differ."""

# Title and decimals of each column of a table.
_COLLAPSE = {
    "n_used": ("parts in use", 0),
    "clusters_per_code": ("clusters per code", 2),
    "codes_per_cluster": ("codes per cluster", 2),
    "h_cluster_normalized": ("H(cluster \\| code) / H(cluster)", 3),
    "h_code_normalized": ("H(code \\| cluster) / H(code)", 3),
    "ami": ("AMI", 3),
    "fvu": ("FVU", 3),
    "own_needed": ("clusters for equal FVU, all layers", 0),
    "saved": ("saved", 2),
}
_ALIGNMENT = {
    "n_codes": ("judged", 0),
    "codes_aligned": ("aligned", 3),
    "codes_aligned_highest": ("aligned, shuffled", 3),
    "tokens_covered": ("tokens covered", 3),
    "tokens_covered_highest": ("covered, shuffled", 3),
    "labels_found": ("labels found", 3),
    "one_token": ("one token", 3),
    "covered_by_others": ("covered by others", 3),
}
_DETECTION = {
    "n_codes": ("codes judged", 0),
    "n_left_out": ("too rare to judge", 0),
    "accuracy": ("accuracy", 3),
    "low": ("lower end", 3),
    "high": ("upper end", 3),
    "control": ("accuracy, names of other codes", 3),
}
_HOW = {
    "seeds": "Fits of the same texts with different seeds, every pair",
    "halves": "Fits of the two halves of the texts, for three random splits",
}


def collapse(name: str, about: str, measured: Measured) -> list[str]:
    """Two tables and a figure."""
    image = RESULTS / f"figures/collapse-{_slug(name)}.png"
    first, said = next(iter(measured.values()))
    write_png(plot_collapse(first["layers"], chance=SHUFFLED), image)
    return [
        f"## Collapse of duplicates: {name}",
        f"{about}; {said['n_tokens']:,} tokens to fit and to cluster, {said['n_held_out']:,} of "
        f"{said['n_documents']} other texts to measure. Means over layers; {_seeds(measured)}.",
        _over_seeds(_tables("methods", measured), ["method"], _COLLAPSE),
        f"Layer by layer, seed {min(measured)}, in brackets the 95 % interval over texts "
        f"(≥: the largest number of clusters that was tried does not reach that FVU):",
        _row_by_row(first["layers"], _layer),
        f"![{name}](figures/{image.name})",
    ]


def alignment(name: str, about: str, measured: Measured, *, threshold: float) -> list[str]:
    """A table and a figure for each kind of label."""
    sections = []
    first, said = next(iter(measured.values()))
    for kind, counts in said.items():
        image = RESULTS / f"figures/alignment-{_slug(name)}-{_slug(kind)}.png"
        curve, labels = first[f"{kind}/curve"], first[f"{kind}/labels"]
        write_png(plot_alignment(curve, labels, threshold=threshold), image)
        curves = _tables(f"{kind}/curve", measured)
        curves = curves[curves["threshold"].isin(_THRESHOLDS)]  # the figure has the others
        sections += [
            f"## Known labels: {name}, {kind}",
            f"{about}; {counts['n_texts']} texts, {counts['n_tokens']:,} tokens, "
            f"{counts['n_labels']} labels. {_seeds(measured)}. The figure is of seed "
            f"{min(measured)}.",
            _over_seeds(curves, ["method", "threshold"], _ALIGNMENT),
            *_inside(_tables(f"{kind}/labels", measured), threshold),
            f"![{name}, {kind}](figures/{image.name})",
        ]
    return sections


def _inside(labels: pd.DataFrame, threshold: float) -> list[str]:
    """What is covered of the tokens of words alone; nothing where all tokens are words."""
    if "none" not in set(labels["label"]):
        return []
    words = labels[labels["label"] != "none"]  # the label of tokens outside of words
    held = (words["covered"] * words["n_tokens"]).groupby(words["method"], sort=False)
    n_tokens = words["n_tokens"].groupby(words["method"], sort=False).sum()
    said = [f"{method} {share:.3f}" for method, share in (held.sum() / n_tokens).items()]
    title = f"Of the tokens of words, the part in a code aligned with their label at {threshold}"
    return [f"{title}: {', '.join(said)}."]


def detection(name: str, about: str, measured: Measured) -> list[str]:
    """A table: the judge's accuracy with names of the codes themselves, and of other codes."""
    said = next(iter(measured.values()))[1]
    return [
        f"## Names that tell codes: {name}",
        f"{about}; contexts from {said['n_documents']} texts that no name was made of. "
        f"{_seeds(measured)}; ends are those of the 95 % interval over codes, chance is 0.5.",
        _over_seeds(_wide(_tables("methods", measured)), ["method"], _DETECTION),
    ]


def _wide(summaries: pd.DataFrame) -> pd.DataFrame:
    """One row for each method and seed, with the control's accuracy in a column of its own."""
    is_own = summaries["names"] == "own"
    own, control = summaries[is_own], summaries[~is_own]
    return own.assign(control=control["accuracy"].to_numpy())


def stability(name: str, about: str, measured: Measured) -> list[str]:
    """A table and a figure for each way in which fits differ."""
    sections = [f"## Stability: {name}", f"{about}."]
    for how, title in _HOW.items():
        if how not in measured:
            continue
        tables, said = measured[how]
        image = RESULTS / f"figures/stability-{_slug(name)}-{how}.png"
        write_png(plot_stability(tables["methods"], tables["pairs"]), image)
        sections += [
            f"{title}; {said['n_tokens']:,} tokens of {said['n_documents']} texts that no fit "
            f"has seen. In brackets the 95 % interval over texts.",
            _row_by_row(tables["methods"], _agreement),
            f"![{name}, {how}](figures/{image.name})",
        ]
    return sections


def write(sections: Sequence[str], seeds: Sequence[int]) -> None:
    """The page; what a person wrote above its mark stays."""
    head = (
        f"`python -m benchmarks.paper.structure`; {ablation_tables.versions()}; one thread, seeds "
        f"{', '.join(map(str, seeds))}, of the fit and of every clustering. k-means and the others "
        f"have as many codes as the quantizer and were fitted on the same texts. FVU: each token "
        f"is replaced by the mean of its part, so that no decoder has a say. Clusters for equal "
        f"FVU: how many clusters of each layer's own reach it, summed over layers; saved: that "
        f"number over the parts in use. Codes and labels with fewer than 10 tokens are not judged; "
        f"aligned: the part of a code's tokens with one label reaches the threshold; shuffled: the "
        f"highest of 20 shuffles of the labels; one token: the part of the aligned codes that are "
        f"merely one token; covered by others: the part of all tokens in aligned codes that are "
        f"not; k-means of the target reads the target, which is what codes are to stand for; "
        f"tokens outside of words have the label none."
    )
    path = RESULTS / "structure.md"
    markdown.write_below(MARK, [head, *sections], path, title="The structure of codes")


def _layer(row: pd.Series) -> dict[str, str]:
    return {
        "method": row["method"],
        "layer": row["layer"],
        "AMI": _interval(row, "ami"),
        "FVU": _interval(row, "fvu"),
        "clusters per code": f"{row['clusters_per_code']:.2f}",
        "codes per cluster": f"{row['codes_per_cluster']:.2f}",
        "clusters for equal FVU": "≥ " * row["beyond"] + f"{row['own_needed']:.0f}",
    }


def _agreement(row: pd.Series) -> dict[str, str]:
    return {
        "method": row["method"],
        "AMI": _interval(row, "ami"),
        "pairs": f"{row['ami_lowest']:z.3f} to {row['ami_highest']:z.3f}",
        "AMI, shuffled": f"{row['ami_shuffled']:z.3f}",
        "matched": _interval(row, "matched"),
        "matched, shuffled": f"{row['matched_shuffled']:z.3f}",
        "cosine": f"{row['cosine']:z.3f}",
        "cosine, shuffled": f"{row['cosine_shuffled']:z.3f}",
    }


def _interval(row: pd.Series, metric: str) -> str:
    # z: never -0.000
    return f"{row[metric]:z.3f} [{row[f'{metric}_low']:z.3f}, {row[f'{metric}_high']:z.3f}]"


def _tables(name: str, measured: Measured) -> pd.DataFrame:
    """The tables of one name of all seeds, one below the other."""
    return pd.concat([tables[name] for tables, _ in measured.values()])


def _over_seeds(rows: pd.DataFrame, by: list[str], columns: Mapping[str, tuple[str, int]]) -> str:
    """A table of means over seeds, in brackets the least and the most."""
    titles = list(by)
    for title, _ in columns.values():
        titles.append(title)
    lines = []
    for values, group in rows.groupby(by, sort=False):
        cells = list(map(str, values))
        for name, (_, decimals) in columns.items():
            cells.append(spread(group[name], decimals))
        lines.append(cells)
    return _table(titles, lines)


def _row_by_row(rows: pd.DataFrame, described: Callable[[pd.Series], dict[str, str]]) -> str:
    """A table of what a function makes of each row."""
    titles: list[str] = []
    lines = []
    for _, row in rows.iterrows():
        cells = described(row)
        titles = list(cells)
        lines.append(list(cells.values()))
    return _table(titles, lines)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown.table(titles, "l" + "r" * (len(titles) - 1), rows)


def _seeds(measured: Measured) -> str:
    if len(measured) == 1:
        return f"Seed {min(measured)}"
    return f"Seeds {', '.join(sorted(measured))}; in brackets the least and the most of them"


def _slug(name: str) -> str:
    return name.replace(" ", "-").lower()
