"""The report: everything about a lens and its model on one page."""

from pathlib import Path

from clvq_lens.concepts.table import ConceptTable
from clvq_lens.config import LongTexts
from clvq_lens.data.documents import Data
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.flow.concept_flow import ConceptFlow
from clvq_lens.host.attachment import Attached, ready
from clvq_lens.page.contents import gather
from clvq_lens.page.write import check_path, write_page
from clvq_lens.training.history import History


def report(
    lens: Attached,
    data: Data,
    path: str | Path,
    *,
    token_labels: TokenLabels | None = None,
    n_examples: int = 20,
    n_texts: int = 100,
    concepts: ConceptTable | None = None,
    evaluation: Evaluation | None = None,
    flow: ConceptFlow | None = None,
    history: History | None = None,
    long_texts: LongTexts = "split",
    progress: bool = True,
) -> Path:
    """Writes one self-contained page, which opens from disk without a network.

    It shows every concept, the flow through all quantizers of the model, texts token by token, the
    evaluation and the settings.

    Args:
        lens: A fitted lens.
        data: Texts or tokens that the lens was not fitted on, as for `clvq_lens.Lens.fit`.
        path: Path of the .html file, in a folder that exists.
        token_labels: A known label of every real token, as for `clvq_lens.Lens.concepts`.
        n_examples: Example contexts of each kind for each code.
        n_texts: Texts that can be read on the page, the first ones.
        concepts: The concept table of these data, if already computed, such as one with names.
        evaluation: What `clvq_lens.Lens.evaluate` gave for these data, if already computed.
        flow: What `clvq_lens.concept_flow` gave for these data, if already computed.
        history: What `fit` returned, to show how the fit went.
        long_texts: What to do with a text beyond the context.
        progress: Whether to show progress bars.

    Returns:
        The path of the page.

    Raises:
        NotFittedError: If a quantizer of the model has not been fitted.
        ConfigError: If an argument has an impossible value, or is of other quantizers.
        PathError: If nothing can be written at the path.
    """
    attachment = ready(lens)
    path = check_path(path)  # before anything that takes long
    contents = gather(
        attachment,
        data,
        token_labels=token_labels,
        n_examples=n_examples,
        n_texts=n_texts,
        concepts=concepts,
        evaluation=evaluation,
        flow=flow,
        history=history,
        long_texts=long_texts,
        progress=progress,
    )
    return write_page(path, contents)
