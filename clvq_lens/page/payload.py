"""The contents of a page as plain data: what JSON can hold, and nothing else."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from clvq_lens.concepts.concept import READ_OUT_FROM, Concept, Counted, Example, Unembedded
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.evaluation.report import Report
from clvq_lens.page.contents import Contents, Layer, ModelFacts
from clvq_lens.page.figures import figures, flow_choices
from clvq_lens.plots.text import spelled

_DIGITS = 5  # of a number on the page
_PACKAGES = ("clvq-lens", "torch", "transformer-lens", "transformers", "plotly")
_N_LABEL = 3  # commonest tokens that stand for a code of another quantizer
_N_FLOW_ROWS = 20
_N_NEIGHBOURS = 12  # nodes of the stage before or after that are named of each code

Names = dict[str, dict[int, str]]
"""What the codes of each quantizer mean, by its name."""


def payload(contents: Contents) -> dict[str, Any]:
    """Everything that the scripts of the page draw from; the same contents give the same data."""
    quantizer = contents.quantizer
    origin = quantizer.origin
    model = f"{_kind(contents.model)} \u00b7 {_size(contents.model.n_parameters)}"
    source, target = (origin.source, origin.target) if origin else ("", "")
    table = contents.concepts
    names = {
        layer.name: table.labels() if layer.name == contents.name else commonest_tokens(layer)
        for layer in contents.layers
    }
    return {
        "title": f"{contents.model.name}: concepts from {source} to {target}",
        "model": model,
        "about_model": _about(contents.model),
        "name": contents.name,
        "source": source,
        "target": target,
        "memory": quantizer.config.decoder_memory,
        "n_tokens": table.n_tokens,
        "token_entropy": _number(table.token_entropy),
        "position_entropy": _number(table.position_entropy),
        "colours": list(contents.flow.colours[contents.name]),
        "read_out_from": READ_OUT_FROM,
        "tiles": _tiles(contents.report),
        "codes": [_code(concept) for concept in table],
        "layers": [_layer(layer, contents, names) for layer in contents.layers],
        "texts": _texts(contents.layers),
        "figures": figures(contents, names),
        "flow": _flow(contents, names),
        "evaluation": _evaluation(contents),
        "settings": _settings(contents),
    }


def _kind(model: ModelFacts) -> str:
    """The architecture without what all language models are."""
    return re.sub(r"(ForCausalLM|ForMaskedLM|LMHeadModel)$", "", model.kind) or model.kind


def _size(n_parameters: int) -> str:
    """A number of parameters as people say it: 260K, 135M, 6.9B."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n_parameters >= unit:
            n = n_parameters / unit
            return f"{n:.1f}{name}" if n < 10 else f"{n:.0f}{name}"
    return str(n_parameters)


def _about(model: ModelFacts) -> str:
    return (
        f"{model.kind} from {model.name}: {model.n_parameters:,} parameters, {model.n_layers} "
        f"blocks of width {model.d_model:,}, {model.d_vocab:,} tokens in the vocabulary"
    )


def _number(value: Any) -> Any:
    """A number with as many digits as are shown; None where there is none."""
    if isinstance(value, bool | int | str | list) or value is None:
        return value
    value = float(value)
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


# ---- codes ---------------------------------------------------------------------------------------


def _code(concept: Concept) -> dict[str, Any]:
    return {
        "code": concept.code,
        "name": concept.name,
        "label": concept.label,
        "usage": concept.usage,
        "share": _number(concept.share),
        "token_entropy": _number(concept.token_entropy),
        "position_entropy": _number(concept.position_entropy),
        "tokens": _counted(concept.tokens),
        "distinctive": _counted(concept.distinctive),
        "labels": _counted(concept.labels),
        "typical": _examples(concept.typical),
        "borderline": _examples(concept.borderline),
        "random": _examples(concept.random),
        "at_target": _unembedded(concept.read_out),
        "direct": _unembedded(concept.direct),
        "nearest": [[near.code, _number(near.distance)] for near in concept.nearest],
    }


def _counted(tokens: Iterable[Counted]) -> list[list[Any]]:
    return [[t.text, t.count, _number(t.share), _number(t.lift)] for t in tokens]


def _examples(examples: Iterable[Example]) -> list[list[Any]]:
    return [
        [e.document, e.position, e.before, e.token, e.after, _number(e.distance), _number(e.margin)]
        for e in examples
    ]


def _unembedded(vector: Unembedded | None) -> dict[str, Any] | None:
    if vector is None:
        return None
    return {
        "promoted": [[t.token, _number(t.logit)] for t in vector.promoted],
        "suppressed": [[t.token, _number(t.logit)] for t in vector.suppressed],
    }


# ---- texts ---------------------------------------------------------------------------------------


def _layer(layer: Layer, contents: Contents, names: Names) -> dict[str, Any]:
    own = layer.name == contents.name  # its codes are named with their concepts
    labels = {} if own else {str(code): label for code, label in names[layer.name].items()}
    colours = [] if own else list(contents.flow.colours[layer.name])
    return {"name": layer.name, "own": own, "labels": labels, "colours": colours}


def commonest_tokens(layer: Layer) -> dict[int, str]:
    """A short name for each code of a quantizer: its commonest tokens in the texts of the page."""
    counts: dict[int, Counter[str]] = {}
    for row, strings in enumerate(layer.encoding.strings):
        for code, string in zip(layer.encoding.codes[row].tolist(), strings, strict=False):
            if code >= 0:
                counts.setdefault(code, Counter())[string] += 1
    return {
        code: " ".join(spelled(token) for token, _ in tokens.most_common(_N_LABEL))
        for code, tokens in sorted(counts.items())
    }


def _texts(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """For each document its pieces: tokens, and their codes in every layer, -1 for special ones."""
    texts: dict[int, dict[str, Any]] = {}
    first = layers[0].encoding
    for row, document in enumerate(first.documents):
        tokens = list(first.strings[row])
        codes = [layer.encoding.codes[row, : len(tokens)].tolist() for layer in layers]
        text = texts.setdefault(document, {"document": document, "pieces": []})
        text["pieces"].append({"tokens": tokens, "codes": codes, "text": first.texts[row].strip()})
    return list(texts.values())


# ---- flow and numbers ----------------------------------------------------------------------------


def _flow(contents: Contents, names: Names) -> dict[str, Any]:
    flow = contents.flow
    events = flow.events(names).head(_N_FLOW_ROWS)
    if not events.empty:
        for codes, label in (("codes", "label"), ("next_codes", "next_label")):
            numbers = (" | ".join(map(str, row)) for row in events[codes])
            events[codes] = [f"{n}: {text}" for n, text in zip(numbers, events[label], strict=True)]
    paths = flow.paths(_N_FLOW_ROWS)
    for stage in flow.stages:
        if stage.kind == "codes":
            own = names.get(stage.name, {})
            paths[stage.name] = [[code, own.get(code, "")] for code in paths[stage.name].tolist()]
    ids = [f"{stage.name}_id" for stage in flow.stages if stage.kind != "codes"]
    exact = ["at_most"] if flow.path_error == 0 else []  # then it repeats the count
    return {
        "choices": [[choice.figure, choice.title] for choice in flow_choices(contents)],
        "neighbours": _neighbours(contents, names),
        "summary": _table(flow.summary().dropna(axis="columns", how="all")),
        "events": _table(events.drop(columns=["label", "next_label"])),
        "paths": _table(paths.drop(columns=[*ids, *exact])),
        "agreement": None if flow.agreements is None else _table(flow.agreement()),
    }


def _neighbours(contents: Contents, names: Names) -> list[dict[str, Any]]:
    """What comes before the page's quantizer and after it: for each code the commonest nodes.

    Tokens at the beginning are left out: the page lists them as tokens of the code.
    """
    found = []
    for step in contents.flow.steps:
        for here, there, own, other in (
            (step.source, step.target, step.codes, step.next_codes),
            (step.target, step.source, step.next_codes, step.codes),
        ):
            if here.name != contents.name or there.kind == "token":
                continue
            rows: dict[str, list[list[Any]]] = {}
            for index in np.argsort(-step.counts, kind="stable").tolist():
                code = str(own[index])
                if len(rows.setdefault(code, [])) < _N_NEIGHBOURS:
                    rows[code].append([int(other[index]), int(step.counts[index])])
            shown = {node for nodes in rows.values() for node, _ in nodes}
            labels = names.get(there.name, {})
            if there.kind != "codes":
                nodes = np.array(sorted(shown), dtype=np.int64)
                labels = dict(zip(nodes.tolist(), there.texts_of(nodes), strict=True))
            found.append(
                {
                    "stage": there.name,
                    "comes": "after" if here is step.source else "before",
                    "are_codes": there.kind == "codes",
                    "labels": {str(node): labels.get(node, "") for node in sorted(shown)},
                    "codes": rows,
                }
            )
    return found


def _evaluation(contents: Contents) -> dict[str, Any]:
    recovery = contents.report.recovery
    agreement = _agreement(contents.concepts)
    return {
        "metrics": _table(contents.report.frame()),
        "recovery": None if recovery is None else _table(recovery.frame()),
        "agreement": None if agreement is None else _table(agreement),
    }


def _agreement(table: ConceptTable) -> pd.DataFrame | None:
    """Of codes with the given labels, beside token identity."""
    methods = {"codes": table.agreement, "token identity": table.token_identity}
    frames = {name: found.frame() for name, found in methods.items() if found is not None}
    if not frames:
        return None
    frame = pd.concat(frames, names=["method"]).reset_index(level="method")
    return frame.rename(columns={"n_codes": "n_clusters"})


def _table(frame: pd.DataFrame) -> dict[str, Any]:
    rows = [[_number(value) for value in row] for row in frame.astype(object).to_numpy().tolist()]
    return {"columns": [str(column) for column in frame.columns], "rows": rows}


def _tiles(report: Report) -> list[dict[str, str]]:
    """The few numbers to see first, each beside its baseline."""
    used = report.n_codes - report.n_dead_codes
    left_out = f", {report.n_outliers:,} outliers left out" if report.n_outliers else ""
    note = f"in {report.n_documents:,} documents{left_out}"
    tiles = [
        ("tokens", f"{report.n_tokens:,}", note),
        ("codes in use", f"{used:,}", f"of {report.n_codes:,}"),
        ("perplexity", f"{report.perplexity:.1f}", "effective number of codes"),
    ]
    note = f"median token {report.fvu_median:.3f}, random codes {report.fvu_random_codes:.3f}, "
    tiles.append(("FVU", f"{report.fvu:.3f}", note + "mean target 1"))
    if report.ce_loss_recovered is not None:
        note = "clean model 1, mean ablation 0"
        tiles.append(("CE loss recovered", f"{report.ce_loss_recovered:.3f}", note))
    if report.ce_spliced is not None:
        note = f"nats per token; clean {report.ce_clean:.3f}, mean-ablated "
        note += f"{report.ce_mean_ablated:.3f}"
        tiles.append(("cross-entropy, spliced", f"{report.ce_spliced:.3f}", note))
    if report.kl is not None:
        note = f"nats per token; mean-ablated {report.kl_mean_ablated:.3f}"
        tiles.append(("KL(clean \u2016 spliced)", f"{report.kl:.3f}", note))
    return [{"name": name, "value": value, "note": note} for name, value, note in tiles]


def _settings(contents: Contents) -> list[dict[str, Any]]:
    quantizer, report, history = contents.quantizer, contents.report, contents.history
    parts: list[tuple[str, dict[str, Any]]] = []
    if quantizer.origin is not None:
        parts.append(("Model", asdict(quantizer.origin)))
    parts.append(("Quantizer", asdict(quantizer.config)))
    if contents.fit is not None:
        parts.append(("Fit", asdict(contents.fit)))
    if history is not None:
        names = [field.name for field in fields(history) if field.name != "records"]
        ended = {name: getattr(history, name) for name in names}
        parts.append(("Course of the fit", ended))
    read = {"n_documents": report.n_documents, "n_tokens": report.n_tokens}
    parts.append(("Data of this page", {**read, "n_texts": len(_texts(contents.layers))}))
    parts.append(("Versions", {package: version(package) for package in _PACKAGES}))
    return [
        {"title": title, "rows": [[name, _setting(value)] for name, value in values.items()]}
        for title, values in parts
    ]


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "derived" if value is None else str(value)
