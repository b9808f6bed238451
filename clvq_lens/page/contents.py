"""What stands on a page, gathered from the rooms that know it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from clvq_lens.arguments import check_count, check_is
from clvq_lens.concepts.encoding import Encoding, encode
from clvq_lens.concepts.survey import concept_table
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.config import FitConfig, LongTexts
from clvq_lens.evaluation.evaluate import evaluate
from clvq_lens.evaluation.labels import TokenLabels, listed
from clvq_lens.evaluation.report import Report
from clvq_lens.flow.chain import fitted_chain
from clvq_lens.flow.observed import concept_flow
from clvq_lens.flow.result import ConceptFlow
from clvq_lens.host.attach import lenses_of
from clvq_lens.host.host import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.documents import Data, open_documents
from clvq_lens.training.history import History


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A quantizer on the model, and the codes that it gives to the texts of the page.

    Attributes:
        name: Its name on the model.
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        encoding: Of the first texts.
    """

    name: str
    source: str
    target: str
    encoding: Encoding


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Which model a page is about.

    Attributes:
        name: As it calls itself, such as its name on the Hub, or the folder that it came from.
        kind: Its architecture.
        n_parameters: Of the model without its quantizers.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        d_vocab: Size of the vocabulary.
    """

    name: str
    kind: str
    n_parameters: int
    n_layers: int
    d_model: int
    d_vocab: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything that a page shows.

    Attributes:
        model: The one that the quantizer is on.
        name: Of the quantizer that the page is about.
        quantizer: Itself.
        concepts: What its codes mean.
        report: How well they stand for the target.
        flow: Of concepts through all quantizers of the model.
        layers: These quantizers from first to last, with the codes of the first texts.
        history: Of the fit, if it is known.
        fit: The options of the fit, if they are known.
    """

    model: ModelFacts
    name: str
    quantizer: CrossLayerQuantizer
    concepts: ConceptTable
    report: Report
    flow: ConceptFlow
    layers: tuple[Layer, ...]
    history: History | None = None
    fit: FitConfig | None = None


def gather(
    model: Any,
    name: str,
    data: Data,
    *,
    labels: TokenLabels | None = None,
    n_examples: int = 20,
    n_texts: int = 100,
    history: History | None = None,
    fit: FitConfig | None = None,
    long_texts: LongTexts = "split",
    concepts: ConceptTable | None = None,
    report: Report | None = None,
    progress: bool = True,
) -> Contents:
    """Computes what a page shows, except what is given.

    Args:
        model: With the quantizer on it.
        name: Of the quantizer.
        data: Texts or tokens, read once for each kind of result.
        labels: The true concept of every real token, if known.
        n_examples: Of each kind, for each code.
        n_texts: Texts that can be read on the page, the first ones.
        history: Of the fit.
        fit: The options of the fit.
        long_texts: What to do with a text beyond the context.
        concepts: Of these data, if they were computed before.
        report: On these data, if it was computed before.
        progress: Whether to show progress bars.
    """
    check_count("n_texts", n_texts)
    check_is("history", history, History | None, "Pass what lens.fit returned.")
    check_is("concepts", concepts, ConceptTable | None, "Pass what lens.concepts returned.")
    check_is("report", report, Report | None, "Pass what lens.evaluate returned.")
    # Both are read several times, and may be iterators.
    documents = open_documents(data)
    labels = None if labels is None else listed(labels)
    host, lens = Host(model), lenses_of(model)[name]
    place = (host, lens.quantizer, lens.source)
    options: dict[str, Any] = {"long_texts": long_texts, "progress": progress}
    if concepts is None:
        concepts = concept_table(*place, documents, n_examples=n_examples, labels=labels, **options)
        _go_on(concepts.complete)
    if report is None:
        report = evaluate(*place, lens.target, documents, labels=labels, **options)
    flow = concept_flow(model, documents, labels=labels, **options)
    _go_on(flow.complete)
    first = list(islice(documents, n_texts))
    return Contents(
        model=_facts(host),
        name=name,
        quantizer=lens.quantizer,
        concepts=concepts,
        report=report,
        flow=flow,
        layers=tuple(_layers(host, first, long_texts)),
        history=history,
        fit=fit,
    )


def _facts(host: Host) -> ModelFacts:
    """What the model says of itself; hosts differ in where they keep their architecture."""
    cfg = host.cfg
    kind = getattr(cfg, "original_architecture", None) or getattr(cfg, "architecture", None)
    return ModelFacts(
        name=str(cfg.model_name),
        kind=str(kind or type(host.model).__name__),
        n_parameters=sum(parameter.numel() for parameter in host.model.parameters()),
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        d_vocab=cfg.d_vocab,
    )


def _go_on(complete: bool) -> None:
    """A page is of all the data: who ends a part of it early wants no page."""
    if not complete:
        raise KeyboardInterrupt


def _layers(host: Host, texts: Data, long_texts: LongTexts) -> Iterator[Layer]:
    for part in fitted_chain(host.model):
        encoding = encode(host, part.quantizer, part.source, texts, long_texts=long_texts)
        yield Layer(name=part.name, source=part.source, target=part.target, encoding=encoding)
