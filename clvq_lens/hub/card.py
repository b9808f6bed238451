"""The model card: what the quantizer is, where it was fitted, how good it is, and its limits."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.origin import Origin
from clvq_lens.showing import told_apart

_TAGS = ["clvq-lens", "interpretability", "transformer-lens", "concepts", "vq-vae"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# Between backticks none of these characters means anything.
_PLAIN = re.compile(r"[A-Za-z0-9_ ./:,+=@()-]+")
# Any other character could mean something in Markdown or in HTML.
_MARKUP = re.compile(r"[^A-Za-z0-9 .,;:/%()+=-]")


class _Markdown(str):
    """Text that is Markdown already, and must not be escaped again."""


def card(
    quantizer: CrossLayerQuantizer,
    repo: str,
    *,
    evaluation: Evaluation | None = None,
    license: str | None = None,
    revision: str | None = None,
) -> str:
    """The model card of a quantizer; the same arguments give the same text.

    Args:
        quantizer: A fitted quantizer.
        repo: The repository that the card is for.
        evaluation: What `clvq_lens.Lens.evaluate` returned: numbers with their baselines.
        license: The license as the Hub abbreviates it, such as "mit".
        revision: The branch that the card is on; None: the main branch.
    """
    origin = quantizer.origin
    # Without autoescape, which knows HTML only: everything below is made safe for Markdown too.
    environment = Environment(
        loader=PackageLoader("clvq_lens.hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md").render(
        metadata=_metadata(origin, license),
        arguments=_arguments(repo, revision),
        repo=_as_code(repo),
        source=_as_code(origin.source if origin else "the source"),
        target=_as_code(origin.target if origin else "the target"),
        model=_as_code(origin.model_name if origin else "unknown"),
        origin=origin and _options_table(_without_weights(origin)),
        quantizer=_options_table(_quantizer_options(quantizer)),
        config=quantizer.config,
        evaluation=evaluation,
        metrics=evaluation and _metrics_table(evaluation),
        recovery=evaluation and evaluation.recovery and _frame_table(evaluation.recovery.frame()),
    )


def _metadata(origin: Origin | None, license: str | None) -> _Markdown:
    """What the Hub reads, as YAML."""
    base_model = None
    # A local folder or a short name would be a broken link on the Hub, or lead to another model.
    if origin is not None and _HUB_ID.fullmatch(origin.model_name):
        base_model = origin.model_name
    data = ModelCardData(
        license=license,
        library_name="clvq-lens",
        tags=_TAGS,
        base_model=base_model,
    )
    return _Markdown(data.to_yaml())


def _arguments(repo: str, revision: str | None) -> _Markdown:
    """Arguments of `clvq_lens.load`; strings in JSON are strings in Python too."""
    arguments = json.dumps(repo)
    if revision is not None:
        arguments += f", revision={json.dumps(revision)}"
    return _Markdown(arguments)


def _without_weights(origin: Origin) -> dict[str, object]:
    """The origin without its fingerprint of the weights, which says nothing to a reader."""
    options = dict(vars(origin))
    del options["weights"]
    return options


def _quantizer_options(quantizer: CrossLayerQuantizer) -> dict[str, object]:
    usage = quantizer.usage
    return {
        **dataclasses.asdict(quantizer.config),
        "d_source": quantizer.d_source,
        "d_target": quantizer.d_target,
        "causal": quantizer.causal,
        "training tokens of the last pass": int(usage.sum()),
        "codes that they chose": int((usage > 0).sum()),
    }


def _metrics_table(evaluation: Evaluation) -> _Markdown:
    """The metrics, with both ends of an interval in one column."""
    rows = []
    for name, value, low, high, meaning in evaluation.frame().itertuples(index=False, name=None):
        number, lower, upper = told_apart(value, low, high, digits=4)
        interval = f"{lower} to {upper}" if lower else ""
        rows.append((_as_code(name), number, interval, meaning))
    return _markdown_table(("metric", "value", "95 % interval", "meaning"), rows)


def _options_table(options: Mapping[str, object]) -> _Markdown:
    """Options and their values, without lists of numbers, which are for programs."""
    rows = []
    for name, value in options.items():
        if not isinstance(value, list):
            rows.append((_as_code(name), _as_code(str(value))))
    return _markdown_table(("option", "value"), rows)


def _frame_table(frame: pd.DataFrame) -> _Markdown:
    return _markdown_table(list(frame.columns), frame.itertuples(index=False))


def _markdown_table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> _Markdown:
    rule = [_Markdown("---")] * len(columns)
    lines = []
    for cells in (columns, rule, *rows):
        lines.append(f"| {' | '.join(map(_escaped, cells))} |")
    return _Markdown("\n".join(lines))


def _as_code(text: str) -> _Markdown:
    """Text from data, shown as code and nothing else."""
    # A line break would end the row of a table, or begin a heading.
    text = " ".join(text.split())
    if _PLAIN.fullmatch(text):
        return _Markdown(f"`{text}`")
    # A backtick in the text would end the code, and between backticks nothing can be escaped.
    return _Markdown(f"<code>{_entities(text)}</code>")


def _escaped(value: object) -> str:
    """Any value as Markdown that shows it and does nothing else."""
    if isinstance(value, _Markdown):
        return value
    if isinstance(value, float):
        return _short_number(value)
    return _entities(" ".join(str(value).split()))


def _entities(text: str) -> str:
    """Text with a character reference for each character that could be markup."""
    # Neither Markdown nor HTML reads a reference as structure; a backslash works in Markdown only.
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", text)


def _short_number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4g}"
