"""What a model makes of labelled texts: sentence vectors and the code of every token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from clvq_lens.errors import DataError
from clvq_lens.host.attach import Attachment
from clvq_lens.interventions.readout import Sentence, sentence_vectors
from clvq_lens.training.activations import check_finite
from clvq_lens.training.documents import open_documents
from clvq_lens.training.tokens import TokenBatch, token_batches

Cut = Literal["error", "truncate"]


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
        cls, texts: Sequence[str], labels: Sequence[Any], documents: Sequence[Any] | None
    ) -> "LabelledTexts":
        """Checked, with classes and documents as numbers; equal texts share a document.

        Raises:
            DataError: If the lists differ in length, a text is no string, or there is one class.
        """
        documents = list(texts) if documents is None else list(documents)
        if not len(texts) == len(labels) == len(documents):
            raise DataError(
                f"There are {len(texts)} texts, {len(labels)} labels and {len(documents)} "
                f"documents. Pass one label, and one document if any, for every text."
            )
        if not all(isinstance(text, str) for text in texts):
            raise DataError("Some of the texts are no strings. Pass a list of strings.")
        classes, numbers = np.unique(np.asarray(labels), return_inverse=True)
        if len(classes) < 2:
            raise DataError(
                f"All texts have the same label, {classes.tolist()}. Pass texts of two classes or "
                f"more: what decides between them is what is tested."
            )
        _, groups = np.unique(np.asarray(documents), return_inverse=True)
        return cls(tuple(texts), numbers, tuple(classes.tolist()), groups)

    @property
    def chance(self) -> float:
        """Share of the commonest class: the accuracy of always saying the same."""
        return float(np.bincount(self.labels).max() / len(self.labels))

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Reading:
    """What the model makes of them.

    Attributes:
        batches: Their tokens; `documents` of a batch are rows here.
        source: Sentence vectors at the source.
        last: Sentence vectors after the last block.
        codes: Of every real token of each text.
        positions: Where those tokens stand.
    """

    batches: tuple[TokenBatch, ...]
    source: Float[np.ndarray, "n d_source"]
    last: Float[np.ndarray, "n d_model"]
    codes: tuple[Int[np.ndarray, " _"], ...]
    positions: tuple[Int[np.ndarray, " _"], ...]


@torch.no_grad()
def read_texts(
    attachment: Attachment, texts: Sequence[str], *, sentence: Sentence, long_texts: Cut
) -> Reading:
    """Runs the model once over some texts.

    Raises:
        DataError: If a text holds no real token.
        TextTooLongError: If one is longer than the model's context and ``long_texts`` is "error".
        NonFiniteError: If activations hold NaN or infinity.
    """
    host, source = attachment.host, attachment.source
    last = host.resolve(host.n_layers - 1)
    batches = tuple(token_batches(host, open_documents(list(texts)), long_texts=long_texts))
    found: dict[int, tuple[np.ndarray, ...]] = {}
    for batch in batches:
        attended = batch.attended.to(host.device)
        values = host.activations(batch.tokens.to(host.device), attended, [source, last])
        check_finite(values[source][attended.to(values[source].device)], source)
        codes = attachment.quantizer.assign(values[source]).cpu()
        vectors = (
            sentence_vectors(values[name].float(), batch, sentence) for name in (source, last)
        )
        at_source, at_last = (part.double().cpu().numpy() for part in vectors)
        for row, text in enumerate(batch.documents):
            real = batch.mask[row]
            if not real.any():
                raise DataError(f"Text {text} holds no real token: {texts[text]!r}. Leave it out.")
            where = real.nonzero().flatten().numpy()
            found[text] = (at_source[row], at_last[row], codes[row][real].numpy(), where)
    at_source, at_last, codes, positions = zip(*(found[i] for i in range(len(texts))), strict=True)
    return Reading(batches, np.stack(at_source), np.stack(at_last), codes, positions)
