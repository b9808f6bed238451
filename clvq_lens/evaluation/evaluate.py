"""Evaluation in one streaming pass: reconstruction, reliance on codes, and effect in the model."""

from collections.abc import Collection
from itertools import chain

from tqdm.auto import tqdm

from clvq_lens.arguments import check_choice, check_flags, check_is, check_seed
from clvq_lens.config import METRICS, LongTexts, Metric
from clvq_lens.data.documents import Data, Documents, TokenRows, open_documents
from clvq_lens.data.items import Items
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.data.tokens import token_batches
from clvq_lens.errors import ConfigError
from clvq_lens.evaluation.ablation_costs import AblationCosts
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.evaluation.running_evaluation import RunningEvaluation
from clvq_lens.host.attachment import Attached, ready
from clvq_lens.host.host import Host
from clvq_lens.processes import ALONE, Processes
from clvq_lens.readouts.readout import Readout


def evaluate(
    lens: Attached,
    data: Data,
    *,
    metrics: Collection[Metric] = METRICS,
    token_labels: TokenLabels | None = None,
    readout: Readout | None = None,
    long_texts: LongTexts = "split",
    seed: int = 0,
    shared: bool = False,
    progress: bool = True,
) -> Evaluation:
    """How well the codes stand for the target, on data that the quantizer was not fitted on.

    Args:
        lens: A fitted lens.
        data: Documents, as for `clvq_lens.Lens.fit`, but not the same ones.
        metrics: What to compute. "fvu": the FVU and how codes are used, which always come along;
            "controls": the FVU with random codes and with shuffled memory; "ce": cross-entropy with
            the target replaced; "kl": KL of predictions. Without "ce" and "kl" nothing above the
            target is computed.
        token_labels: The true concept of every real token of every document, to add concept
            recovery.
        readout: What the model says about whole texts, such as `clvq_lens.head`, to add the KL of
            what it says with the target replaced. Of a long text every piece is read by itself.
        long_texts: What to do with a text beyond the context.
        seed: Random seed for random codes and for k-means.
        shared: Whether processes of torch.distributed share the batches; then all of them have to
            call it. With labels of tokens, each evaluates everything by itself.
        progress: Whether to show a progress bar.

    Returns:
        Reconstruction, reliance on codes and effect in the model, each beside its baseline and
        with a 95 % interval over documents. One document has no intervals.

    Raises:
        NotFittedError: If the quantizer has not been fitted.
        OpenBlockError: Inside a block of this lens, such as an edit.
        ConfigError: If ``metrics``, ``seed`` or ``shared`` has an impossible value.
        EmptyCorpusError: If the data hold no real token.
        DataError: If labels do not match the tokens.
        NonFiniteError: If activations hold NaN or infinity.
    """
    check_flags(shared=shared)
    return evaluate_beside(
        AblationCosts(),
        lens,
        data,
        metrics=metrics,
        token_labels=token_labels,
        readout=readout,
        long_texts=long_texts,
        seed=seed,
        processes=Processes.current() if shared else ALONE,
        progress=progress,
    )


def evaluate_beside(
    ablation_costs: AblationCosts,
    lens: Attached,
    data: Data,
    *,
    metrics: Collection[Metric] = METRICS,
    token_labels: TokenLabels | None,
    readout: Readout | None,
    long_texts: LongTexts,
    seed: int,
    processes: Processes = ALONE,
    progress: bool,
) -> Evaluation:
    """`evaluate`, beside evaluations of other quantizers on the same data.

    Args:
        ablation_costs: What these have measured, and this one will.
        lens: A fitted lens.
        data: As for `evaluate`, as are all others.
        metrics: What to compute.
        token_labels: The true concepts.
        readout: What the model says about whole texts.
        long_texts: What to do with a text beyond the context.
        seed: Random seed.
        processes: Who shares the batches.
        progress: Whether to show a progress bar.
    """
    attachment = ready(lens, "evaluate")
    _check_metrics(metrics)
    check_seed(seed)
    check_is("readout", readout, Readout | None, "Pass clvq_lens.head(...) or answers(...).")
    host, documents = attachment.host, open_documents(data)
    running = RunningEvaluation(attachment, metrics, token_labels, readout, seed, ablation_costs)
    if token_labels is not None:  # the draw of tokens with labels depends on all of them
        processes = ALONE
    show = progress and processes.is_first
    n_tokens = _n_tokens(host, documents, long_texts) if show else None
    batches = token_batches(host, documents, long_texts=long_texts)
    parts = chain.from_iterable(map(running.splicing.in_parts, batches))
    bar = tqdm(desc="evaluate", total=n_tokens, unit="tok", disable=not show)
    with bar, running.splicing.unembedding():
        for number, batch in enumerate(parts):
            if number % processes.size == processes.rank:
                running.add(batch)
            else:
                running.pass_over(batch)
            bar.update(int(batch.mask.sum()))
    running.sum_(processes)
    return running.evaluation()


def _check_metrics(metrics: Collection[Metric]) -> None:
    """Raises `ConfigError` unless these are names of what can be computed."""
    if not isinstance(metrics, list | tuple | set | frozenset) or not metrics:
        allowed = ", ".join(map(repr, METRICS))
        raise ConfigError(f"metrics is {metrics!r}. Pass a list of some of {allowed}.")
    for metric in metrics:
        check_choice("metrics", metric, METRICS)


def _n_tokens(host: Host, documents: Documents, long_texts: LongTexts) -> int | None:
    """The real tokens of documents in memory, for the progress bar; None: not known."""
    # Tokenizing takes a hundredth of the time, but files and streams would be read twice for it.
    if not isinstance(documents, TokenRows | Items):
        return None
    n_tokens = 0
    for batch in token_batches(host, documents, long_texts=long_texts):
        n_tokens += int(batch.mask.sum())
    return n_tokens
