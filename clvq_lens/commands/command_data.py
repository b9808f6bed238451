"""The data that a command names: read to their end, and what is held out of them."""

from dataclasses import dataclass
from pathlib import Path

from clvq_lens import toy
from clvq_lens.commands.run import Run
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.split import Split
from clvq_lens.data.store.store import ActivationStore
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.errors import DataError


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Data that a quantizer is evaluated on.

    Attributes:
        data: Texts or tokens.
        token_labels: A label of every real token, if known.
        kept_aside: Whether the quantizer was not fitted on them. A single document, or a fit with
            ``held_out_fraction=0``, leaves only the training data to evaluate on.
    """

    data: Data
    token_labels: TokenLabels | None = None
    kept_aside: bool = True


def data_at(path: Path) -> Data:
    """A store of activations if the path is a folder, else a file of texts.

    Raises:
        FileNotFoundError: If the folder is no store.
        FileFormatError: If the store is damaged.
    """
    return ActivationStore(path) if path.is_dir() else path


def read_through(data: Data) -> None:
    """Raises `DataError` if anything is wrong anywhere in some texts."""
    if isinstance(data, ActivationStore):  # which finds damage by itself
        return
    for _ in open_documents(data):
        pass


def held_out_of(run: Run) -> EvaluationData:
    """The data that a run is evaluated on.

    Args:
        run: What a command did.

    Raises:
        DataError: If the data no longer exist.
    """
    if run.toy_texts is not None:
        n_texts, seed = run.toy_texts
        texts = toy.generate(n_texts, seed=seed)
        return EvaluationData(data=texts, token_labels=toy.token_labels(texts))
    path = Path(run.held_out or run.data or "")
    if not path.exists():
        raise DataError(
            f"The data of this run were in {path}, which no longer exists. Pass them with --data."
        )
    data = data_at(path)
    if run.held_out is not None:
        return EvaluationData(data=data)
    # The same split as in the fit: it depends on the documents and the fraction only.
    split = Split(open_documents(data), run.config.held_out_fraction)
    documents = list(split.held_out())
    if not documents:
        return EvaluationData(data=data, kept_aside=False)
    return EvaluationData(data=documents)
