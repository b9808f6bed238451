"""Everything that a page shows, gathered from the rooms that compute it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from clvq_lens.arguments import check_count, check_is
from clvq_lens.concepts import survey
from clvq_lens.concepts.encoding import Encoding, encode
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.config import FitConfig, LongTexts
from clvq_lens.data.document import Document
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.token_labels import TokenLabels, listed
from clvq_lens.errors import ConfigError
from clvq_lens.evaluation.evaluate import evaluate
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.flow.chain import fitted_chain
from clvq_lens.flow.concept_flow import ConceptFlow
from clvq_lens.flow.observed import concept_flow
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.host import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.history import History


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A quantizer on the model, and the codes that it gives to the texts of the page.

    Attributes:
        name: Name of the quantizer on the model.
        source: Hook point that it reads.
        target: Hook point that it reconstructs.
        encoding: Codes of the first texts.
    """

    name: str
    source: str
    target: str
    encoding: Encoding


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Which model a page is about.

    Attributes:
        name: Name of the model: on the Hub, or the folder that it came from.
        kind: Architecture, such as "LlamaForCausalLM".
        n_parameters: Parameters of the model without its quantizers.
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
        model: The model that the quantizer is on.
        name: Name of the quantizer that the page is about.
        quantizer: The quantizer of that name.
        concepts: What its codes mean.
        evaluation: How well its codes stand for the target.
        flow: Flow of concepts through all quantizers of the model.
        layers: All quantizers from first to last, with the codes of the first texts.
        history: What happened during the fit, if known.
        config: The options of the fit, if known.
    """

    model: ModelFacts
    name: str
    quantizer: CrossLayerQuantizer
    concepts: ConceptTable
    evaluation: Evaluation
    flow: ConceptFlow
    layers: tuple[Layer, ...]
    history: History | None = None
    config: FitConfig | None = None


def gather(
    attachment: Attachment,
    data: Data,
    *,
    token_labels: TokenLabels | None = None,
    n_examples: int = 20,
    n_texts: int = 100,
    history: History | None = None,
    config: FitConfig | None = None,
    long_texts: LongTexts = "split",
    concepts: ConceptTable | None = None,
    evaluation: Evaluation | None = None,
    flow: ConceptFlow | None = None,
    progress: bool = True,
) -> Contents:
    """Everything that a page shows; what is passed is not computed again.

    Args:
        attachment: The quantizer that the page is about, on its model.
        data: Texts or tokens; read once for each kind of result.
        token_labels: A known label of every real token.
        n_examples: Example contexts of each kind for each code.
        n_texts: Texts that can be read on the page, the first ones.
        history: What happened during the fit.
        config: The options of the fit.
        long_texts: What to do with a text beyond the context.
        concepts: Concepts of these data, if already computed.
        evaluation: Evaluation on these data, if already computed.
        flow: Flow of these data through all quantizers of the model, if already computed.
        progress: Whether to show progress bars.

    Raises:
        ConfigError: If an argument has an impossible value, or is of other quantizers.
        KeyboardInterrupt: If Ctrl-C ended the reading for one of the results early.
    """
    check_count("n_texts", n_texts)
    check_is("history", history, History | None, "Pass what lens.fit returned.")
    check_is("concepts", concepts, ConceptTable | None, "Pass what lens.concepts returned.")
    check_is("evaluation", evaluation, Evaluation | None, "Pass what lens.evaluate returned.")
    check_is("flow", flow, ConceptFlow | None, "Pass what clvq_lens.concept_flow returned.")
    _require_own(attachment, concepts, evaluation, flow)
    # Data and labels are read several times, and may be iterators.
    documents = open_documents(data)
    host = attachment.host
    reading: dict[str, Any] = {"long_texts": long_texts, "progress": progress}
    reading["token_labels"] = None if token_labels is None else listed(token_labels)
    if concepts is None:
        concepts = survey.concepts(attachment, documents, n_examples=n_examples, **reading)
        _require_complete(concepts.complete)
    if evaluation is None:
        evaluation = evaluate(attachment, documents, **reading)
    if flow is None:
        flow = concept_flow(host.model, documents, **reading)
        _require_complete(flow.complete)
    return Contents(
        model=_model_facts(host),
        name=attachment.name,
        quantizer=attachment.quantizer,
        concepts=concepts,
        evaluation=evaluation,
        flow=flow,
        layers=_layers(host, list(islice(documents, n_texts)), long_texts),
        history=history,
        config=config,
    )


def _require_own(
    attachment: Attachment,
    concepts: ConceptTable | None,
    evaluation: Evaluation | None,
    flow: ConceptFlow | None,
) -> None:
    """Raises `ConfigError` if what was computed before is of quantizers of other sizes or names."""
    n_codes = attachment.quantizer.config.n_codes
    sizes = {
        "concepts": n_codes if concepts is None else len(concepts),
        "evaluation": n_codes if evaluation is None else evaluation.n_codes,
    }
    for name, size in sizes.items():
        if size != n_codes:
            raise ConfigError(
                f"{name} has {size} codes, and {attachment.name!r} has {n_codes}. Pass what was "
                f"computed with this lens."
            )
    if flow is not None:
        stages = [stage.name for stage in flow.stages if stage.kind == "codes"]
        chain = [member.name for member in fitted_chain(attachment.host.model)]
        if stages != chain:
            raise ConfigError(
                f"flow goes through {stages}, and the model has {chain}. Pass "
                f"clvq_lens.concept_flow(model, data)."
            )


def _model_facts(host: Host) -> ModelFacts:
    """What the model says about itself."""
    cfg = host.cfg
    # Hosts differ in where they keep the name of their architecture.
    kind = getattr(cfg, "original_architecture", None) or getattr(cfg, "architecture", None)
    n_parameters = 0
    for parameter in host.model.parameters():
        n_parameters += parameter.numel()
    return ModelFacts(
        name=str(cfg.model_name),
        kind=str(kind or type(host.model).__name__),
        n_parameters=n_parameters,
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        d_vocab=cfg.d_vocab,
    )


def _require_complete(complete: bool) -> None:
    """Raises `KeyboardInterrupt` after a result that Ctrl-C ended early.

    The parts of a page must all cover the same data, so an incomplete one cannot be on it.
    """
    if not complete:
        raise KeyboardInterrupt


def _layers(host: Host, texts: Sequence[Document], long_texts: LongTexts) -> tuple[Layer, ...]:
    layers = []
    for attachment in fitted_chain(host.model):
        layer = Layer(
            name=attachment.name,
            source=attachment.source,
            target=attachment.target,
            encoding=encode(attachment, texts, long_texts=long_texts, progress=False),
        )
        layers.append(layer)
    return tuple(layers)
