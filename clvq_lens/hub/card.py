"""The model card: what the quantizer is, where it belongs, how good it is, what it cannot say."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from clvq_lens.evaluation.report import Report
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.origin import Origin

_TAGS = ["clvq-lens", "interpretability", "transformer-lens", "concepts", "vq-vae"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_ ./:,+=@()-]+")  # between backticks none of these means anything
_MARKUP = re.compile(r"[^A-Za-z0-9 .,;:/%()+=-]")  # could mean something in Markdown or HTML


class _Markdown(str):
    """Text that is Markdown already."""


def card(
    quantizer: CrossLayerQuantizer,
    repo: str,
    *,
    report: Report | None = None,
    license: str | None = None,
    revision: str | None = None,
) -> str:
    """The model card of a quantizer; the same arguments give the same text.

    Args:
        quantizer: A fitted one.
        repo: The repository that the card is for.
        report: Numbers of ``lens.evaluate``, with their baselines.
        license: As the Hub abbreviates it, such as "mit".
        revision: The branch that the card is on; None: the main one.
    """
    origin = quantizer.origin
    environment = Environment(
        loader=PackageLoader("clvq_lens.hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    arguments = json.dumps(repo)
    if revision is not None:
        arguments += f", revision={json.dumps(revision)}"
    return environment.get_template("card.md").render(
        metadata=_Markdown(_metadata(origin, license)),
        arguments=_Markdown(arguments),
        repo=_code(repo),
        source=_code(origin.source if origin else "the source"),
        target=_code(origin.target if origin else "the target"),
        model=_code(origin.model_name if origin else "unknown"),
        origin=origin and _options(_readable(origin)),
        quantizer=_options(_described(quantizer)),
        config=quantizer.config,
        report=report,
        metrics=report and _metrics(report),
        recovery=report and report.recovery and _frame(report.recovery.frame()),
    )


def _readable(origin: Origin) -> dict[str, Any]:
    """The origin without its values of weights, which say nothing to a reader."""
    return {name: value for name, value in vars(origin).items() if name != "weights"}


def _metadata(origin: Origin | None, license: str | None) -> str:
    """What the Hub reads, as YAML."""
    named = origin is not None and _HUB_ID.fullmatch(origin.model_name)
    data = ModelCardData(
        license=license,
        library_name="clvq-lens",
        tags=_TAGS,
        base_model=origin.model_name if origin and named else None,
    )
    return data.to_yaml()


def _described(quantizer: CrossLayerQuantizer) -> dict[str, Any]:
    usage = quantizer.usage
    return {
        **dataclasses.asdict(quantizer.config),
        "d_source": quantizer.d_source,
        "d_target": quantizer.d_target,
        "causal": quantizer.causal,
        "training tokens of the last pass": int(usage.sum()),
        "codes that they chose": int((usage > 0).sum()),
    }


def _metrics(report: Report) -> _Markdown:
    """The report's table, with both ends of an interval in one column."""
    rows = []
    for name, value, low, high, meaning in report.frame().itertuples(index=False, name=None):
        interval = "" if pd.isna(low) else f"{_number(low)} to {_number(high)}"
        rows.append((_code(name), value, interval, meaning))
    return _table(("metric", "value", "95 % interval", "meaning"), rows)


def _options(values: dict[str, Any]) -> _Markdown:
    """A table of names and values; lists of numbers are for programs."""
    shown = {name: value for name, value in values.items() if not isinstance(value, list)}
    rows = ((_code(name), _code(str(value))) for name, value in shown.items())
    return _table(("option", "value"), rows)


def _frame(frame: pd.DataFrame) -> _Markdown:
    return _table(list(frame.columns), frame.itertuples(index=False))


def _table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> _Markdown:
    lines = [columns, [_Markdown("---")] * len(columns), *rows]
    return _Markdown("\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines))


def _code(text: str) -> _Markdown:
    """Text from data as code: between backticks where that is safe, else character by character."""
    text = " ".join(text.split())
    if _PLAIN.fullmatch(text):
        return _Markdown(f"`{text}`")
    return _Markdown(f"<code>{_entities(text)}</code>")


def _escaped(value: object) -> str:
    """Any value as Markdown that shows it and does nothing else."""
    if isinstance(value, _Markdown):
        return value
    if isinstance(value, float):
        return _number(value)
    return _entities(" ".join(str(value).split()))


def _entities(text: str) -> str:
    """References to characters are never read as structure, neither in Markdown nor in HTML."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", text)


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4g}"
