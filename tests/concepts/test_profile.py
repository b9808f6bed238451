import numpy as np
import pytest

from clvq_lens.concepts.profile import Profile
from clvq_lens.stats.tally import Tally


def profile(pairs: list[tuple[int, int]], n_codes: int = 3) -> Profile:
    tally = Tally(n_codes, 100)
    codes, items = np.array(pairs).T
    tally.add(codes, items)
    return Profile(tally, lambda items: [f"t{item}" for item in items])


# Code 0: item 1 six times, item 2 twice, item 3 once. Code 1: item 1 ten times, item 4 once.
PAIRS = [(0, 1)] * 6 + [(0, 2)] * 2 + [(0, 3)] + [(1, 1)] * 10 + [(1, 4)]


def test_counts_shares_and_lifts_are_those_computed_by_hand():
    commonest = profile(PAIRS).commonest(0)
    assert [(item.text, item.count) for item in commonest] == [("t1", 6), ("t2", 2), ("t3", 1)]
    assert [item.share for item in commonest] == pytest.approx([6 / 9, 2 / 9, 1 / 9])
    elsewhere = 16 / 20, 2 / 20, 1 / 20
    lifts = [item.share / share for item, share in zip(commonest, elsewhere, strict=True)]
    assert [item.lift for item in commonest] == pytest.approx(lifts)


def test_lift_puts_what_is_special_first_but_not_what_occurred_once():
    assert [item.text for item in profile(PAIRS).distinctive(0)] == ["t2", "t1"]
    assert [item.text for item in profile(PAIRS).distinctive(1)] == ["t1"]


def test_of_equal_lifts_the_commonest_comes_first():
    pairs = [(0, 5)] * 2 + [(0, 6)] * 4 + [(0, 7)] * 3 + [(1, 1)] * 3
    assert [item.text for item in profile(pairs).distinctive(0)] == ["t6", "t7", "t5"]


def test_an_item_of_less_than_a_hundredth_of_its_code_does_not_lead():
    pairs = [(0, 1)] * 500 + [(0, 2)] * 4 + [(0, 3)] * 6 + [(1, 1)] * 500
    assert [item.text for item in profile(pairs).distinctive(0)] == ["t3", "t1"]


def test_entropy_is_that_of_the_items_of_a_code():
    p = np.array([6, 2, 1]) / 9
    assert profile(PAIRS).entropy(0) == pytest.approx(-(p * np.log(p)).sum())


def test_a_code_without_items_is_empty():
    assert profile(PAIRS).commonest(2) == profile(PAIRS).distinctive(2) == ()
    assert profile(PAIRS).entropy(2) == 0.0
    assert profile(PAIRS).usage.tolist() == [9, 11, 0]


def test_ten_items_at_most_are_named():
    pairs = [(0, item) for item in range(30) for _ in range(2)]
    assert len(profile(pairs).commonest(0)) == len(profile(pairs).distinctive(0)) == 10
