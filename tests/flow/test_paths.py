"""Counts of paths: exact while they fit, bounded from both sides when they do not."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clvq_lens.flow import paths as module
from clvq_lens.flow.paths import PathTally


def found(tally):
    paths, counts = tally.commonest()
    return dict(zip(map(tuple, paths.tolist()), counts.tolist(), strict=True))


def test_paths_that_fit_are_counted_exactly_and_the_commonest_come_first():
    tally = PathTally(3)
    tally.add(np.array([[1, 2, 3], [3, 2, 1]]))
    tally.add(np.array([[1, 2, 3], [1, 2, 0]]))
    paths, counts = tally.commonest()
    assert paths[0].tolist() == [1, 2, 3]
    assert counts.tolist() == [2, 1, 1]
    assert tally.error == 0


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20), max_size=8),
    st.integers(1, 6),
)
def test_with_fewer_places_than_paths_counts_are_too_low_by_at_most_the_error(batches, n_kept):
    tally, true = PathTally(2, n_kept), Counter()
    for batch in batches:
        tally.add(np.array(batch, dtype=np.int64).reshape(-1, 2))
        tally._merge()
        true.update(batch)
    kept = found(tally)
    assert len(kept) <= n_kept
    for path, count in true.items():
        assert kept.get(path, 0) <= count <= kept.get(path, 0) + tally.error
    assert tally.error <= true.total() / (n_kept + 1)


def test_memory_is_bounded_and_the_common_path_survives(monkeypatch):
    monkeypatch.setattr(module, "_PENDING", 100)
    generator = np.random.default_rng(0)
    tally = PathTally(2, n_kept=50)
    for _ in range(40):
        rare = generator.integers(0, 1_000, (60, 2))
        tally.add(np.concatenate([rare, np.full((40, 2), 7)]))
        assert len(tally._counts) <= 50
    path, count = next(iter(found(tally).items()))
    assert path == (7, 7)
    assert count <= 1_600 <= count + tally.error
    assert 0 < tally.error <= 4_000 / 51


def test_no_paths_are_no_paths():
    paths, counts = PathTally(4).commonest()
    assert paths.shape == (0, 4)
    assert counts.tolist() == []


@pytest.mark.parametrize("n_kept", [1, 2])
def test_equal_counts_at_the_limit_are_dropped_together(n_kept):
    tally = PathTally(1, n_kept)
    tally.add(np.array([[0], [0], [1], [1], [2], [2]]))
    assert found(tally) == {}
    assert tally.error == 2


def test_what_is_dropped_again_and_again_wears_down_what_is_kept():
    """Without that, the error would grow with the corpus beyond its bound."""
    tally = PathTally(1, n_kept=1)
    for path, count in ((0, 3), (1, 2), (2, 2), (3, 2)):
        tally.add(np.full((count, 1), path))
        tally._merge()
    assert tally.error == 4
    assert found(tally) == {(3,): 1}
