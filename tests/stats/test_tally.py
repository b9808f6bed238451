from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clvq_lens.stats import tally as tally_module
from clvq_lens.stats.tally import Tally

PAIRS = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20), max_size=6)


def counted(batches: list[list[tuple[int, int]]]) -> Tally:
    tally = Tally(4, 6)
    for batch in batches:
        first, second = (np.array([pair[axis] for pair in batch], dtype=int) for axis in (0, 1))
        tally.add(first, second)
    return tally


@given(PAIRS)
def test_counts_are_those_of_a_counter(batches):
    expected = Counter(pair for batch in batches for pair in batch)
    (first, second), counts = counted(batches).entries()
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    assert dict(zip(pairs, counts.tolist(), strict=True)) == expected
    assert pairs == sorted(expected)


@given(PAIRS)
def test_merging_early_changes_nothing(batches):
    late = counted(batches).dense()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally_module, "_PENDING", 3)
        early = counted(batches)
        assert sum(len(part) for part in early._pending) < 3  # what waits stays small
        assert early.dense().tolist() == late.tolist()


def test_reading_in_between_counts_nothing_twice():
    tally = Tally(2, 2)
    tally.add(np.array([0, 1]), np.array([1, 1]))
    assert tally.dense().tolist() == [[0, 1], [0, 1]]
    tally.add(np.array([1]), np.array([1]))
    assert tally.dense().tolist() == [[0, 1], [0, 2]]


def test_three_axes_are_counted_alike():
    tally = Tally(2, 3, 2)
    tally.add(np.array([1, 1, 0]), np.array([2, 2, 0]), np.array([0, 0, 1]))
    assert tally.dense()[1, 2, 0] == 2
    assert tally.dense().sum() == 3


def test_numbers_beyond_an_axis_are_refused():
    with pytest.raises(ValueError, match="invalid entry in coordinates array"):
        Tally(2, 2).add(np.array([0]), np.array([2]))
