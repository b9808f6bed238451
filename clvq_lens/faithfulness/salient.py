"""The most salient token of each text, and what the model says of the text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from clvq_lens.errors import DataError
from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.readers import Reader
from clvq_lens.faithfulness.tokenized_texts import TokenizedTexts
from clvq_lens.readouts.counted import counted
from clvq_lens.readouts.readout import read_classes
from clvq_lens.readouts.salience import salience


@dataclass(frozen=True)
class Salient:
    """The most salient token of each text, and what the model says of the text.

    Attributes:
        positions: The position of the token.
        tokens: The token as text.
        probabilities: Probabilities of the classes, by the readout.
        completeness_error: Median over texts of how far integrated gradients are from adding up.
    """

    positions: Int[np.ndarray, " n"]
    tokens: tuple[str, ...]
    probabilities: Float[np.ndarray, "n c"]
    completeness_error: float


def find_salient(
    tokens: TokenizedTexts,
    texts: ClassifiedTexts,
    source: str,
    readers: Sequence[Reader],
    *,
    n_steps: int | None,
    progress: bool,
) -> Salient:
    """Where integrated gradients of the predicted class are largest.

    Args:
        tokens: The texts as rows of tokens.
        texts: The texts with their classes.
        source: The hook point whose codes are tested.
        readers: Who reads which texts.
        n_steps: Points of the path of integrated gradients; None: as many as it takes.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If a readout does not know as many classes as the texts have.
    """
    n_texts, n_classes = len(texts), len(texts.class_names)
    probabilities = np.empty((n_texts, n_classes))
    positions = np.empty(n_texts, dtype=np.int64)
    strings = [""] * n_texts
    errors = np.empty(n_texts)
    # A probe for each fold reads its own texts, and its bars do not tell what is left after it.
    is_one = len(readers) == 1
    with tqdm(total=n_texts, desc="folds", unit="text", disable=is_one or not progress) as bar:
        for reader in readers:
            numbers, n_read = reader.texts, len(reader.texts)
            # First what the readout says: a readout of other classes is refused before anything
            # long.
            batches = tokens.batches(numbers)
            for batch in counted(batches, "classify", n_texts=n_read, progress=progress):
                logits = read_classes(tokens.host, reader.readout, batch)
                _check_n_classes(logits.shape[1], texts)
                of_batch = logits.double().softmax(-1).cpu().numpy()
                probabilities[list(batch.documents)] = of_batch
            scores = salience(
                tokens.host.model,
                tokens.documents(numbers),
                source,
                reader.readout,
                n_steps=n_steps,
                long_texts=tokens.long_texts,
                progress=progress,
            )
            top = scores.top()
            positions[numbers] = top["position"]
            errors[numbers] = scores.completeness_errors
            for text, token in zip(numbers.tolist(), top["token"], strict=True):
                strings[text] = token
            bar.update(n_read)
    return Salient(positions, tuple(strings), probabilities, float(np.median(errors)))


def _check_n_classes(n: int, texts: ClassifiedTexts) -> None:
    if n != len(texts.class_names):
        raise DataError(
            f"The readout knows {n} classes, but the texts have {list(texts.class_names)}. Give it "
            f"a logit for each of them, in sorted order."
        )
