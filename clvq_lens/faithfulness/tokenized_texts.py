"""Texts as rows of tokens, and what one pass of the model makes of them: vectors and codes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.concepts.encoding import batch_codes
from clvq_lens.data.document import Corpus, Document
from clvq_lens.data.reading import read
from clvq_lens.data.tokens import TokenBatch, token_batches
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.host import Host
from clvq_lens.readouts.counted import counted
from clvq_lens.readouts.readout import Sentence, sentence_vectors
from clvq_lens.readouts.salience import Cut


class TokenizedTexts:
    """Texts as rows of tokens: tokenized once, and put into batches again for every pass.

    Args:
        host: The model.
        texts: The texts.
        long_texts: What is done with a text beyond the context.

    Attributes:
        host: The model.
        long_texts: What is done with a text beyond the context.
    """

    def __init__(self, host: Host, texts: Sequence[str], long_texts: Cut) -> None:
        self.host = host
        self.long_texts: Cut = long_texts
        self._rows = host.vocabulary.tokenize(texts)
        # One for all passes, so that a warning about long texts comes once.
        self._corpus = Corpus()

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, texts: Int[np.ndarray, " g"] | None = None) -> Iterator[TokenBatch]:
        """Batches whose ``documents`` are the numbers of the texts.

        Args:
            texts: Which texts; None: all.
        """
        numbers = np.arange(len(self)) if texts is None else texts
        documents = [self._document(number, number) for number in numbers.tolist()]
        return token_batches(self.host, documents, long_texts=self.long_texts, splittable=False)

    def documents(self, texts: Int[np.ndarray, " g"]) -> list[Document]:
        """Some of the texts as data of their own, numbered from 0.

        Args:
            texts: Which texts.
        """
        return [self._document(text, number) for number, text in enumerate(texts.tolist())]

    def _document(self, text: int, number: int) -> Document:
        # Not padded: a text may begin or end with the very token that the model pads with.
        return Document(self._rows[text], number, is_padded=False, corpus=self._corpus)


@dataclass(frozen=True)
class SentenceVectors:
    """One vector for each text.

    Attributes:
        source: Vectors at the hook point whose codes are tested.
        last: Vectors after the last block.
    """

    source: Float[np.ndarray, "n d_source"]
    last: Float[np.ndarray, "n d_model"]


@torch.no_grad()
def read_vectors(
    texts: TokenizedTexts, source: str, sentence: Sentence, *, progress: bool
) -> SentenceVectors:
    """Sentence vectors of some texts, from one pass over them.

    Args:
        texts: The texts.
        source: The hook point whose codes are tested.
        sentence: How a text becomes one vector.
        progress: Whether to show a progress bar.

    Raises:
        EmptyCorpusError: If a text holds no real token.
        TextTooLongError: If one is longer than the model's context and long texts are an error.
        NonFiniteError: If activations hold NaN or infinity.
    """
    host = texts.host
    last = host.resolve(host.n_layers - 1)
    at_source = np.empty((len(texts), host.width(source)))
    at_last = np.empty((len(texts), host.width(last)))
    for batch in counted(texts.batches(), "read", n_texts=len(texts), progress=progress):
        values = read(host, batch, [source, last])
        rows = list(batch.documents)  # batches hold texts of similar length, not neighbors
        at_source[rows] = text_vectors(values[source], batch, sentence)
        at_last[rows] = text_vectors(values[last], batch, sentence)
    return SentenceVectors(at_source, at_last)


def text_vectors(
    values: Float[Tensor, "b pos d"], batch: TokenBatch, sentence: Sentence
) -> Float[np.ndarray, "b d"]:
    """The sentence vectors of a batch, as probes take them.

    Args:
        values: Activations at every position.
        batch: The texts.
        sentence: How a text becomes one vector.
    """
    # Float32 before a mean over tokens, and double afterwards for probes and projections.
    return sentence_vectors(values.float(), batch, sentence).double().cpu().numpy()


@dataclass(frozen=True)
class TextCodes:
    """The codes of some texts.

    Attributes:
        codes: The code of every real token of each text.
        positions: The positions of those tokens.
    """

    codes: tuple[Int[np.ndarray, " _"], ...]
    positions: tuple[Int[np.ndarray, " _"], ...]

    def at(self, positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The code at one position of each text, which holds a real token."""
        codes = np.empty(len(positions), dtype=np.int64)
        for text, position in enumerate(positions.tolist()):
            # Positions are not indices of codes where a text begins with a special token.
            index = np.searchsorted(self.positions[text], position)
            codes[text] = self.codes[text][index]
        return codes


def read_codes(attachment: Attachment, texts: TokenizedTexts, *, progress: bool) -> TextCodes:
    """The codes of every real token of some texts."""
    codes = [np.empty(0, dtype=np.int64)] * len(texts)
    positions = list(codes)
    for batch in counted(texts.batches(), "codes", n_texts=len(texts), progress=progress):
        of_batch, _ = batch_codes(attachment, batch)
        for row, text in enumerate(batch.documents):
            real = batch.mask[row]  # outliers too: salience may choose any real token
            codes[text] = of_batch[row][real].numpy()
            positions[text] = real.nonzero().flatten().numpy()
    return TextCodes(tuple(codes), tuple(positions))
