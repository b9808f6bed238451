import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, spearmanr

from clvq_lens.stats.concordance import concordance, kendall_w


def test_one_order_is_one_and_opposite_orders_are_zero():
    up = np.arange(6.0)
    assert kendall_w(np.stack([up, up * 3, up**3])) == pytest.approx(1.0)
    assert kendall_w(np.stack([up, -up])) == pytest.approx(0.0)


def test_a_case_by_hand():
    """Rank sums 2, 5, 5 about 4: S = 6, and W = 12 * 6 / (2^2 * 24)."""
    assert kendall_w(np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]])) == pytest.approx(0.75)


def test_a_case_with_a_tie_by_hand():
    """Ranks 1.5 1.5 3 and 1 2 3: sums 2.5 3.5 6, S = 6.5, T = 2^3 - 2, W = 78 / (96 - 12)."""
    assert kendall_w(np.array([[0.0, 0.0, 9.0], [1.0, 2.0, 3.0]])) == pytest.approx(78 / 84)


@given(st.integers(2, 5), st.integers(3, 9), st.integers(2, 6), st.integers(0, 1_000))
def test_with_ties_it_is_the_statistic_of_friedman_over_its_largest_value(m, n, levels, seed):
    scores = np.random.default_rng(seed).integers(0, levels, (m, n)).astype(float)
    w = kendall_w(scores)
    if all(len(set(row)) == 1 for row in scores.tolist()):
        assert math.isnan(w)
    else:
        expected = friedmanchisquare(*scores.T).statistic / (m * (n - 1))
        assert w == pytest.approx(expected, abs=1e-12)
        assert -1e-12 <= w <= 1 + 1e-12


def test_of_two_judges_it_is_spearman():
    first, second = np.random.default_rng(0).random((2, 20))
    rho = spearmanr(first, second).statistic
    assert kendall_w(np.stack([first, second])) == pytest.approx((1 + rho) / 2)


def test_ties_without_their_correction_would_be_another_number():
    """Judges who agree as far as they say anything are at 1, however coarse their scores."""
    coarse = np.array([[0.0, 0.0, 1.0, 1.0]] * 2)
    assert kendall_w(coarse) == pytest.approx(1.0)
    without_correction = 12 * 16 / (4 * (4**3 - 4))
    assert without_correction == pytest.approx(0.8)


def test_the_null_is_one_over_the_number_of_judges():
    scores = np.random.default_rng(1).random((4, 30))
    result = concordance(scores, n_draws=2_000, random=np.random.default_rng(0))
    assert result.null_mean == pytest.approx(0.25, abs=0.01)
    assert result.null_low < 0.25 < result.null_high
    assert result.w == kendall_w(scores)


def test_p_is_uniform_where_judges_have_nothing_in_common():
    random = np.random.default_rng(2)
    p_values = []
    for _ in range(300):
        scores = random.integers(0, 5, (3, 8)).astype(float)
        p_values.append(concordance(scores, n_draws=99, random=random).p)
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


def test_p_of_one_order_is_as_small_as_the_draws_allow():
    scores = np.stack([np.arange(12.0)] * 3)
    result = concordance(scores, n_draws=199, random=np.random.default_rng(0))
    assert result.p == 1 / 200


def test_p_is_the_exact_one_for_three_things():
    """Of the 36 pairs of orders of three things six are equal, so p of W = 1 is 1 / 6."""
    scores = np.array([[1.0, 2.0, 3.0]] * 2)
    result = concordance(scores, n_draws=20_000, random=np.random.default_rng(0))
    assert result.p == pytest.approx(1 / 6, abs=0.01)


def test_judges_who_say_one_thing_of_all_give_no_number():
    result = concordance(np.ones((3, 5)), n_draws=9, random=np.random.default_rng(0))
    assert math.isnan(result.w)
    assert math.isnan(result.p)


def test_same_seed_same_null():
    scores = np.random.default_rng(1).random((3, 10))
    first = concordance(scores, n_draws=50, random=np.random.default_rng(7))
    assert first == concordance(scores, n_draws=50, random=np.random.default_rng(7))
    assert first != concordance(scores, n_draws=50, random=np.random.default_rng(8))
