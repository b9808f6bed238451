"""The data that a command names: read to their end, and what is held out of them."""

from dataclasses import dataclass
from pathlib import Path

from clvq_lens import toy
from clvq_lens.commands.run import Run
from clvq_lens.config import MOST_TOKENS, FitConfig
from clvq_lens.data.document import Document
from clvq_lens.data.document_order import READ_PER_TOKEN, DocumentOrder
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.named_dataset import DatasetName, names_dataset
from clvq_lens.data.split import Split
from clvq_lens.data.store.store import ActivationStore
from clvq_lens.data.text_files import Spool
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.errors import DataError

_HELD_OUT_CHARACTERS = 2**22  # of a data set on the Hub: about a million tokens


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Data that a quantizer is evaluated on.

    Attributes:
        data: Texts or tokens.
        token_labels: A label of every real token, if known.
        kept_aside: Whether the quantizer was not fitted on them. A single document, or a fit with
            ``held_out_fraction=0``, leaves only the training data to evaluate on.
        place: Path or name of the data, from any folder; None: texts of the toy world.
    """

    data: Data
    token_labels: TokenLabels | None = None
    kept_aside: bool = True
    place: str | None = None


def data_at(place: str | Path) -> Data:
    """What a command is given as data, opened.

    Args:
        place: Path of a file of texts, name of a data set, or folder of a store of activations.

    Raises:
        DataError: If the texts cannot be read.
        HubError: If a data set on the Hub cannot be reached.
        FileNotFoundError: If the folder is no store.
        FileFormatError: If the store is damaged.
    """
    if isinstance(place, str) and names_dataset(place):
        return open_documents(place)
    path = Path(place)
    return ActivationStore(path) if path.is_dir() else open_documents(path)


def lasting(place: str | Path) -> str:
    """The same data, as a command in another folder names them."""
    if isinstance(place, str) and names_dataset(place):
        return str(DatasetName.parsed(place).absolute())
    return str(Path(place).absolute())


def read_through(data: Data) -> None:
    """Raises `DataError` if anything is wrong anywhere in some texts.

    A data set on the Hub is left alone, since it may be larger than any disk.
    """
    # A store finds damage by itself.
    if isinstance(data, ActivationStore | Spool):
        return
    for _ in open_documents(data):
        pass


def held_out_of(run: Run, fitted_on: Data | None = None) -> EvaluationData:
    """The data that a run is evaluated on.

    Args:
        run: What a command did.
        fitted_on: The data of the run, if they are open; what came through the network is then not
            fetched again.

    Raises:
        DataError: If the data no longer exist.
        HubError: If a data set on the Hub cannot be reached.
    """
    if run.toy_texts is not None:
        n_texts, seed = run.toy_texts
        texts = toy.generate(n_texts, seed=seed)
        return EvaluationData(data=texts, token_labels=toy.token_labels(texts))
    place = run.held_out or run.data or ""
    if not names_dataset(place) and not Path(place).exists():
        raise DataError(
            f"The data of this run were in {place}, which no longer exists. Pass them with --data."
        )
    if run.held_out is not None:
        return EvaluationData(data=data_at(place), place=place)
    data = data_at(place) if fitted_on is None else fitted_on
    documents = _kept_aside(data, run.config)
    if not documents:
        return EvaluationData(data=data, kept_aside=False, place=place)
    return EvaluationData(data=documents, place=place)


def other_data(run: Run, place: str | Path) -> EvaluationData:
    """Data that a user names for a run; they may be those that it was fitted on.

    Args:
        run: What a command did.
        place: As for `data_at`.

    Raises:
        DataError: If the texts cannot be read.
        HubError: If a data set on the Hub cannot be reached.
    """
    known = lasting(place)
    return EvaluationData(data=data_at(place), kept_aside=known != run.data, place=known)


def _kept_aside(data: Data, config: FitConfig) -> list[Document]:
    """The documents that a fit has kept aside; of a data set on the Hub, a fair draw of some."""
    # The same split as in the fit: it depends on the documents and the fraction only.
    split = Split(open_documents(data), config.held_out_fraction)
    if not isinstance(data, Spool):
        return list(split.held_out())
    # Of the part of the data set that the fit has read, and not of all of it.
    most_read = READ_PER_TOKEN * (config.n_tokens or MOST_TOKENS)
    order = DocumentOrder(
        split.held_out,
        seed=config.seed,
        most_read=round(config.held_out_fraction * most_read),
    )
    documents: list[Document] = []
    n_characters = 0
    for document in order.epoch(0):
        assert isinstance(document, Document)
        documents.append(document)
        n_characters += len(document)
        if n_characters >= _HELD_OUT_CHARACTERS:
            break
    return documents
