"""Numbers and settings of a page, as plain data: each number beside its baseline."""

import math
from dataclasses import asdict, fields
from importlib.metadata import version

import pandas as pd

from clvq_lens.concepts.table import ConceptTable
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.page.contents import Contents
from clvq_lens.page.plain import plain_table
from clvq_lens.showing import told_apart

_PACKAGES = ("clvq-lens", "torch", "transformer-lens", "transformers", "plotly")


def tiles(evaluation: Evaluation) -> list[dict[str, str]]:
    """The few numbers to see first.

    Args:
        evaluation: How well codes stand for the target.
    """
    n_used = evaluation.n_codes - evaluation.n_dead_codes
    left_out = f", {evaluation.n_outliers:,} outliers left out" if evaluation.n_outliers else ""
    note = f"in {evaluation.n_documents:,} documents{left_out}"
    entries = [
        _tile("tokens", f"{evaluation.n_tokens:,}", note),
        _tile("codes in use", f"{n_used:,}", f"of {evaluation.n_codes:,}"),
        _tile("perplexity", f"{evaluation.perplexity:.1f}", "effective number of codes"),
    ]
    note = f"median token {_short(evaluation.fvu_median)}, "
    if evaluation.fvu_random_codes is not None:
        note += f"random codes {_short(evaluation.fvu_random_codes)}, "
    note += "mean target 1"
    entries.append(_tile("FVU", _short(evaluation.fvu), note))
    if evaluation.ce_loss_recovered is not None:
        note = "clean model 1, mean ablation 0"
        entries.append(_tile("CE loss recovered", _short(evaluation.ce_loss_recovered), note))
    if evaluation.ce_spliced is not None:
        note = f"nats per token; clean {_short(evaluation.ce_clean)}, mean-ablated "
        note += _short(evaluation.ce_mean_ablated)
        entries.append(_tile("cross-entropy, spliced", _short(evaluation.ce_spliced), note))
    if evaluation.kl is not None:
        note = f"nats per token; mean-ablated {_short(evaluation.kl_mean_ablated)}"
        entries.append(_tile("KL(clean \u2016 spliced)", _short(evaluation.kl), note))
    return entries


def _short(number: float | None) -> str:
    """A number in digits that do not make 0 of it."""
    return "none" if number is None or math.isnan(number) else told_apart(number)[0]


def _tile(name: str, value: str, note: str) -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def evaluation_entry(contents: Contents) -> dict[str, object]:
    """The tables of the view of the evaluation; None for what needs labels, where none were given.

    Args:
        contents: The contents of the page.
    """
    recovery = contents.evaluation.recovery
    agreement = _agreement(contents.concepts)
    return {
        "metrics": plain_table(contents.evaluation.frame()),
        "left_out": contents.evaluation.left_out,
        "recovery": None if recovery is None else plain_table(recovery.frame()),
        "agreement": None if agreement is None else plain_table(agreement),
    }


def _agreement(table: ConceptTable) -> pd.DataFrame | None:
    """Agreement of codes with the given labels, beside that of token identity, its baseline."""
    frames = {}
    if table.agreement is not None:
        frames["codes"] = table.agreement.frame()
    if table.token_identity is not None:
        frames["token identity"] = table.token_identity.frame()
    if not frames:
        return None
    frame = pd.concat(frames, names=["method"]).reset_index(level="method")
    return frame.rename(
        columns={"n_codes": "n_clusters"}
    )  # clusters of one method are codes, those of the other are token ids


def settings(contents: Contents, n_texts: int) -> list[dict[str, object]]:
    """How everything was set: titled lists of names and values.

    Args:
        contents: The contents of the page.
        n_texts: Texts that can be read on the page.
    """
    quantizer, evaluation = contents.quantizer, contents.evaluation
    sections: dict[str, dict[str, object]] = {}
    if quantizer.origin is not None:
        sections["Model"] = asdict(quantizer.origin)
    sections["Quantizer"] = asdict(quantizer.config)
    if contents.config is not None:
        sections["Fit"] = asdict(contents.config)
    if contents.history is not None:
        course: dict[str, object] = {}
        for field in fields(contents.history):
            # The figure of the history shows the records; the seconds are those of one machine.
            if field.name not in ("records", "seconds"):
                course[field.name] = getattr(contents.history, field.name)
        sections["Course of the fit"] = course
    sections["Data of this page"] = {
        "n_documents": evaluation.n_documents,
        "n_tokens": evaluation.n_tokens,
        "n_texts": n_texts,
    }
    sections["Versions"] = {package: version(package) for package in _PACKAGES}
    entries = []
    for title, values in sections.items():
        rows = []
        for name, value in values.items():
            rows.append([name, _setting(value)])
        entries.append({"title": title, "rows": rows})
    return entries


def _setting(value: object) -> str:
    """A value in words; None means that it is derived from others."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "derived" if value is None else str(value)
