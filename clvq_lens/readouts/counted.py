"""Batches of texts with a progress bar that counts the texts."""

from collections.abc import Iterable, Iterator

from tqdm.auto import tqdm

from clvq_lens.data.tokens import TokenBatch


def counted(
    batches: Iterable[TokenBatch], desc: str, *, n_texts: int, progress: bool
) -> Iterator[TokenBatch]:
    """The batches; the bar moves on by the texts of a batch when the next one is asked for.

    Args:
        batches: The batches.
        desc: What the progress bar says.
        n_texts: Number of texts in all batches.
        progress: Whether to show a progress bar.
    """
    with tqdm(total=n_texts, desc=desc, unit="text", disable=not progress) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.documents))
