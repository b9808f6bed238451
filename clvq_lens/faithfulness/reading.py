"""What a model makes of labelled texts: sentence vectors and the code of every token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from clvq_lens.arguments import as_list, checked_text
from clvq_lens.concepts.encoding import encode
from clvq_lens.errors import DataError, EmptyCorpusError
from clvq_lens.host.attach import Attachment
from clvq_lens.host.host import Host
from clvq_lens.interventions.readout import Sentence, sentence_vectors
from clvq_lens.interventions.salience import Cut
from clvq_lens.training.activations import check_finite
from clvq_lens.training.documents import open_documents
from clvq_lens.training.tokens import token_batches


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with a class each, and the document that each is from.

    Attributes:
        texts: The texts.
        labels: Class numbers, from 0.
        classes: Names of the classes, as they were given.
        documents: Numbers of documents, from 0.
    """

    texts: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    classes: tuple[Any, ...]
    documents: Int[np.ndarray, " n"]

    @classmethod
    def of(
        cls, texts: Iterable[Any], labels: Iterable[Any], documents: Iterable[Any] | None
    ) -> "LabelledTexts":
        """Checked, with classes and documents as numbers; equal texts share a document.

        Raises:
            DataError: If the lists differ in length, a text is no string, a label or document is
                missing or of another kind than the others, or there is one class.
            EmptyCorpusError: If a text is empty.
        """
        texts = as_list("The texts", texts, "Pass a list of strings.")
        labels = as_list("The labels", labels, "Pass one for each text.")
        documents = as_list(
            "The documents", texts if documents is None else documents, "Pass one for each text."
        )
        if not len(texts) == len(labels) == len(documents):
            raise DataError(
                f"There are {len(texts)} texts, {len(labels)} labels and {len(documents)} "
                f"documents. Pass one label, and one document if any, for every text."
            )
        if not all(isinstance(text, str) for text in texts):
            raise DataError("Some of the texts are no strings. Pass a list of strings.")
        for number in (n for n, text in enumerate(texts) if not text.strip()):
            raise EmptyCorpusError(f"Text {number} is empty. Leave it out, with its label.")
        classes, numbers = numbered("label", labels)
        if len(classes) < 2:
            raise DataError(
                f"All texts have the same label, {classes.tolist()}. Pass texts of two classes or "
                f"more: what decides between them is what is tested."
            )
        _, groups = numbered("document", documents)
        return cls(tuple(texts), numbers, tuple(classes.tolist()), groups)

    @property
    def shares(self) -> Float[np.ndarray, " c"]:
        """Fraction of the texts in each class."""
        return np.bincount(self.labels) / len(self.labels)

    def __len__(self) -> int:
        return len(self.texts)


def numbered(what: str, values: Sequence[Any]) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """The different values in order, and which of them each one is.

    Args:
        what: They are, for the error.
        values: Strings, or numbers: all of one kind, or they could not be told apart in order.

    Raises:
        DataError: If one is missing (None or NaN), neither string nor number, or of another kind
            than the first.
    """
    kinds = {"string": str | np.str_, "number": bool | int | float | np.number | np.bool_}
    first = None
    for text, value in enumerate(values):
        kind = next((name for name, types in kinds.items() if isinstance(value, types)), None)
        first = kind if first is None else first
        if kind is None or value != value:  # only NaN differs from itself
            raise DataError(
                f"Text {text} has the {what} {value!r}. Pass a string or a number for every text, "
                f"and leave out texts without one."
            )
        if kind != first:
            raise DataError(
                f"The {what}s mix kinds: text 0 has a {first}, and text {text} the {kind} "
                f"{value!r}. Pass all of them as strings, or all as numbers."
            )
        if first == "string":
            checked_text(value, f"The {what} of text {text}")
    different, numbers = np.unique(np.asarray(values), return_inverse=True)
    return different, numbers


@dataclass(frozen=True)
class SentenceVectors:
    """One vector for each text.

    Attributes:
        source: At the hook point whose codes are tested.
        last: After the last block.
    """

    source: Float[np.ndarray, "n d_source"]
    last: Float[np.ndarray, "n d_model"]


@dataclass(frozen=True)
class TextCodes:
    """The codes of some texts.

    Attributes:
        codes: Of every real token of each text.
        positions: Where those tokens stand.
    """

    codes: tuple[Int[np.ndarray, " _"], ...]
    positions: tuple[Int[np.ndarray, " _"], ...]

    def at(self, positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The code at one position of each text, which holds a real token."""
        rows = zip(self.codes, self.positions, positions, strict=True)
        return np.array([codes[np.searchsorted(where, at)] for codes, where, at in rows])


@torch.no_grad()
def read_vectors(
    host: Host, source: str, texts: Sequence[str], *, sentence: Sentence, long_texts: Cut
) -> SentenceVectors:
    """Sentence vectors of some texts, from one pass over them.

    Raises:
        EmptyCorpusError: If a text holds no real token.
        TextTooLongError: If one is longer than the model's context and ``long_texts`` is "error".
        NonFiniteError: If activations hold NaN or infinity.
    """
    points = source, host.resolve(host.n_layers - 1)
    rows: list[tuple[np.ndarray, ...]] = [()] * len(texts)
    documents = open_documents(list(texts))
    for batch in token_batches(host, documents, long_texts=long_texts, splittable=False):
        attended = batch.attended.to(host.device)
        values = host.activations(batch.tokens.to(host.device), attended, points)
        check_finite(values[source][attended.to(values[source].device)], source)
        vectors = [
            sentence_vectors(values[point].float(), batch, sentence).double().cpu().numpy()
            for point in points
        ]
        for text, *pair in zip(batch.documents, *vectors, strict=True):
            rows[text] = tuple(pair)
    at_source, at_last = zip(*rows, strict=True)
    return SentenceVectors(np.stack(at_source), np.stack(at_last))


def read_codes(attachment: Attachment, texts: Sequence[str], *, long_texts: Cut) -> TextCodes:
    """The codes of every real token of some texts."""
    host, quantizer, source = attachment.host, attachment.quantizer, attachment.source
    found = encode(host, quantizer, source, list(texts), long_texts=long_texts)
    rows = list(zip(found.codes, found.real, strict=True))  # salience may choose any of them
    return TextCodes(
        tuple(codes[real].numpy() for codes, real in rows),
        tuple(real.nonzero().flatten().numpy() for _, real in rows),
    )
