"""The page of `benchmarks.paper.structure`: tables and figures from what has been measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.paper import ablation_tables, data
from benchmarks.paper.pictures import write_png
from clvq_lens.plots.alignment import plot_alignment
from clvq_lens.plots.collapse import plot_collapse
from clvq_lens.plots.stability import plot_stability

RESULTS = data.ROOT / "benchmarks/results"
MARK = "<!-- below: written by benchmarks.paper.structure -->"
_THRESHOLDS = (0.8, 0.9, 0.95)
# Of each part, by seed or by what differs between fits: tables, and what is said of them.
Found = Mapping[str, tuple[Mapping[str, pd.DataFrame], Mapping[str, Any]]]

_COLLAPSE = {  # title and decimals of each column
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
_HOW = {
    "seeds": "Fits of the same texts with different seeds, every pair",
    "halves": "Fits of the two halves of the texts, for three random splits",
}


def collapse(name: str, about: str, found: Found) -> list[str]:
    """Two tables and a figure."""
    image = RESULTS / f"figures/collapse-{_slug(name)}.png"
    first, said = next(iter(found.values()))
    write_png(plot_collapse(first["layers"]), image)
    methods = pd.concat([tables["methods"] for tables, _ in found.values()])
    return [
        f"## Collapse of duplicates: {name}",
        f"{about}; {said['n_tokens']:,} tokens to fit and to cluster, {said['n_held_out']:,} of "
        f"{said['n_documents']} other texts to measure. Means over layers; {_seeds(found)}.",
        _over_seeds(methods, ["method"], _COLLAPSE),
        f"Layer by layer, seed {min(found)}, in brackets the 95 % interval over texts "
        f"(≥: the largest number of clusters that was tried does not reach that FVU):",
        _markdown([_layer(row) for _, row in first["layers"].iterrows()]),
        f"![{name}](figures/{image.name})",
    ]


def alignment(name: str, about: str, found: Found, threshold: float) -> list[str]:
    """A table and a figure for each kind of label."""
    sections = []
    first, said = next(iter(found.values()))
    for kind, counts in said.items():
        image = RESULTS / f"figures/alignment-{_slug(name)}-{_slug(kind)}.png"
        figure = plot_alignment(
            first[f"{kind}/curve"], first[f"{kind}/labels"], threshold=threshold
        )
        write_png(figure, image)
        curves = pd.concat([tables[f"{kind}/curve"] for tables, _ in found.values()])
        curves = curves[curves["threshold"].isin(_THRESHOLDS)]
        sections += [
            f"## Known labels: {name}, {kind}",
            f"{about}; {counts['n_texts']} texts, {counts['n_tokens']:,} tokens, "
            f"{counts['n_labels']} labels. {_seeds(found)}. The figure is of seed {min(found)}.",
            _over_seeds(curves, ["method", "threshold"], _ALIGNMENT),
            *_inside(
                pd.concat([tables[f"{kind}/labels"] for tables, _ in found.values()]), threshold
            ),
            f"![{name}, {kind}](figures/{image.name})",
        ]
    return sections


def _inside(labels: pd.DataFrame, threshold: float) -> list[str]:
    """What is covered of the tokens of words alone; nothing where all tokens are words."""
    if "none" not in set(labels["label"]):
        return []
    words = labels[labels["label"] != "none"]
    held = (words["covered"] * words["n_tokens"]).groupby(words["method"], sort=False)
    n_tokens = words["n_tokens"].groupby(words["method"], sort=False).sum()
    said = [f"{method} {share:.3f}" for method, share in (held.sum() / n_tokens).items()]
    title = f"Of the tokens of words, the part in a code aligned with their label at {threshold}"
    return [f"{title}: {', '.join(said)}."]


def stability(name: str, about: str, found: Found) -> list[str]:
    """A table and a figure for each way in which fits differ."""
    sections = [f"## Stability: {name}", f"{about}."]
    for how, title in _HOW.items():
        if how in found:
            tables, said = found[how]
            image = RESULTS / f"figures/stability-{_slug(name)}-{how}.png"
            write_png(plot_stability(tables["methods"], tables["pairs"]), image)
            sections += [
                f"{title}; {said['n_tokens']:,} tokens of {said['n_documents']} texts that no fit "
                f"has seen. In brackets the 95 % interval over texts.",
                _markdown([_agreement(row) for _, row in tables["methods"].iterrows()]),
                f"![{name}, {how}](figures/{image.name})",
            ]
    return sections


def write(sections: Sequence[str], seeds: Sequence[int]) -> None:
    """The page; what a person wrote above its mark stays."""
    path = RESULTS / "structure.md"
    title = "# The structure of codes\n\n"
    remarks = path.read_text().split(MARK)[0] if path.exists() else title
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
    path.write_text(remarks + MARK + "\n\n" + "\n\n".join([head, *sections]) + "\n")


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
    return f"{row[metric]:z.3f} [{row[f'{metric}_low']:z.3f}, {row[f'{metric}_high']:z.3f}]"


def _over_seeds(rows: pd.DataFrame, by: list[str], columns: Mapping[str, tuple[str, int]]) -> str:
    """Of each row the mean over seeds, in brackets the least and the most."""
    lines = []
    for key, group in rows.groupby(by, sort=False):
        cells = [(name, str(value)) for name, value in zip(by, key, strict=True)]
        cells += [(title, _spread(group[name], n)) for name, (title, n) in columns.items()]
        lines.append(cells)
    return _markdown_of([title for title, _ in lines[0]], [[c for _, c in line] for line in lines])


def _spread(values: pd.Series, decimals: int) -> str:
    mean, *ends = (f"{x:z,.{decimals}f}" for x in (values.mean(), values.min(), values.max()))
    return mean if {mean} == set(ends) else f"{mean} [{ends[0]}, {ends[1]}]"


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    return _markdown_of(list(rows[0]), [list(row.values()) for row in rows])


def _markdown_of(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] + ["--:"] * (len(titles) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _seeds(found: Found) -> str:
    number = f"Seeds {', '.join(sorted(found))}" if len(found) > 1 else f"Seed {min(found)}"
    return f"{number}; in brackets the least and the most of them" if len(found) > 1 else number


def _slug(name: str) -> str:
    return name.replace(" ", "-").lower()
