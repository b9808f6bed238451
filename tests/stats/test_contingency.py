import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clvq_lens.errors import ShapeError
from clvq_lens.stats.contingency import contingency

FIRST, SECOND = np.array([3, 3, 7, 3]), np.array(["b", "a", "b", "b"])


def test_without_a_shape_rows_and_columns_are_what_occurs_in_order():
    assert contingency(FIRST, SECOND).tolist() == [[1, 2], [0, 1]]


def test_with_a_shape_numbers_that_do_not_occur_have_rows_too():
    table = contingency(np.array([2, 0]), np.array([1, 1]), shape=(3, 2))
    assert table.tolist() == [[0, 1], [0, 0], [0, 1]]


def test_counts_of_equal_pairs_add_up():
    assert contingency(FIRST, SECOND, counts=np.array([1, 10, 100, 1000])).tolist() == [
        [10, 1001],
        [0, 100],
    ]


@given(arrays(np.int64, (4, 3), elements=st.integers(0, 20)).filter(lambda table: table.any()))
def test_counting_tokens_undoes_listing_them(counts):
    rows, columns = np.nonzero(counts)
    times = counts[rows, columns]
    tokens = np.repeat(rows, times), np.repeat(columns, times)
    np.testing.assert_array_equal(contingency(*tokens, shape=(4, 3)), counts)


def test_small_integers_do_not_overflow():
    first = np.array([100, 100], dtype=np.int8)
    assert contingency(first, np.array([120, 3], dtype=np.int8), shape=(101, 121))[100, 120] == 1


def test_a_compact_table_has_the_rows_and_columns_that_occur():
    nothing = np.empty(0, dtype=np.int64)
    assert contingency(nothing, nothing, counts=nothing).shape == (0, 0)
    first, second, counts = np.array([7, 2, 7]), np.array([50, 3, 50]), np.array([1, 1, 4])
    assert contingency(first, second, counts=counts).tolist() == [[1, 0], [0, 5]]


@pytest.mark.parametrize(("first", "second"), [([1, 2], [1]), ([], [])])
@pytest.mark.parametrize("shape", [None, (3, 3)])
def test_partitions_of_different_tokens_or_of_none_are_refused(first, second, shape):
    numbers = f"partitions have {len(first)} and {len(second)} tokens. Pass one cluster of each"
    with pytest.raises(ShapeError, match=numbers):
        contingency(np.array(first), np.array(second), shape=shape)
