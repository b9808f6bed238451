import pytest
import torch

from clvq_lens.data.numbered_labels import NumberedLabels
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.errors import DataError


def batch(documents: tuple[int, ...], mask: list[list[bool]]) -> tuple[TokenBatch, torch.Tensor]:
    """A batch, and its mask: all of its real tokens count."""
    real = torch.tensor(mask)
    return TokenBatch(torch.zeros_like(real, dtype=torch.long), real, real, documents), real


def test_labels_come_row_by_row_whatever_the_order_of_documents():
    labels = NumberedLabels([["a", "b"], ["c"], ["b", "b"]])
    found = labels.of(*batch((2, 0), [[True, True], [True, True]]))
    assert [labels.names[number] for number in found] == ["b", "b", "a", "b"]
    found = labels.of(*batch((1,), [[False, True]]))
    assert [labels.names[number] for number in found] == ["c"]
    assert labels.names == ["b", "a", "c"]  # numbered as they came
    labels.check_all_used()


def test_tokens_that_do_not_count_have_a_label_that_is_left_out():
    labels = NumberedLabels([["a", "b"]])
    tokens, _ = batch((0,), [[True, True]])
    found = labels.of(tokens, torch.tensor([[False, True]]))
    assert [labels.names[number] for number in found] == ["b"]


def test_labels_of_documents_that_did_not_come_are_refused():
    labels = NumberedLabels([["a"], ["b"]])
    labels.of(*batch((0,), [[True]]))
    with pytest.raises(DataError, match="labels for 2 documents, but the data have no document 1"):
        labels.check_all_used()


def test_a_document_needs_one_label_for_each_real_token():
    with pytest.raises(DataError, match="Document 0 has 2 real tokens and 1 labels"):
        NumberedLabels([["a"]]).of(*batch((0,), [[True, True]]))
