import copy
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from clvq_lens.stats.estimates import Estimate, Measured, estimates_frame

X = np.array([0.1, 0.4, 0.2, 0.9, -0.3])
MEASURED = Measured(X.mean(), X.std(ddof=1) / math.sqrt(5), 4.0)


def test_interval_and_p_value_are_those_of_the_t_test():
    test = ttest_1samp(X, 0.1)
    interval = test.confidence_interval(0.9)
    found = MEASURED.estimate(level=0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert MEASURED.p_above(0.1) == pytest.approx(test.pvalue)


def test_only_what_is_above_counts():
    """The common wrong variant, the two-sided p-value, would find values far below, too."""
    assert MEASURED.p_above(5.0) == 1.0
    assert ttest_1samp(X, 5.0).pvalue < 0.001


@given(st.floats(-1, 1), st.floats(1e-6, 1), st.floats(1, 50), st.floats(0, 0.1))
def test_p_is_small_exactly_where_the_interval_lies_above_the_threshold(
    value, error, freedom, threshold
):
    measured = Measured(value, error, freedom)
    p = measured.p_above(threshold)
    for level in (0.5, 0.95, 0.99):
        if abs(p - (1 - level)) > 1e-9:  # at the very end of an interval rounding decides
            assert (p < 1 - level) == (measured.estimate(level=level).low > threshold)


def test_an_interval_stays_within_what_the_number_can_be():
    found = Measured(0.9, 1.0, 1.0).estimate(limits=(0.0, 1.0))
    assert (found, found.low, found.high) == (0.9, 0.0, 1.0)


def test_a_value_that_rounding_left_beyond_its_limits_is_in_its_interval():
    found = Measured(1 + 1e-12, 0.0, 5.0).estimate(limits=(0.0, 1.0))
    assert found.low <= found <= found.high


def test_without_an_error_there_is_no_interval_and_no_p_value():
    measured = Measured(0.5, math.nan, math.nan)
    assert math.isnan(measured.estimate().low)
    assert math.isnan(measured.estimate().high)
    assert math.isnan(measured.p_above(0.0))


def test_what_is_the_same_in_all_documents_is_certain():
    assert Measured(0.5, 0.0, 9.0).p_above(0.1) == 0.0
    assert Measured(0.1, 0.0, 9.0).p_above(0.1) == 1.0


def test_an_estimate_is_a_number_with_an_interval():
    estimate = Estimate(0.25, 0.2, 0.3125)
    assert isinstance(estimate, float)
    assert estimate + 1 == 1.25
    assert repr(estimate) == "0.25 [0.2, 0.3125]"


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        (Estimate(0.000012, 0.000005, 0.000018), "1.2e-05 [5e-06, 1.8e-05]"),
        (Estimate(0.700042, 0.700041, 0.700043), "0.700042 [0.700041, 0.700043]"),
        (Estimate(0.5, math.nan, math.nan), "0.5 (no interval)"),
        (Estimate(123456.0, 1234.0, 1234567.0), "123456 [1234, 1234567]"),
    ],
)
def test_an_estimate_shows_neither_a_zero_nor_an_end_that_it_is_not(estimate, shown):
    assert repr(estimate) == shown


def pickled(estimate: Estimate) -> Estimate:
    return pickle.loads(pickle.dumps(estimate))  # noqa: S301


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_copied_estimate_keeps_its_interval(copied):
    estimate = copied(Estimate(0.25, 0.2, 0.3125))
    assert (estimate, estimate.low, estimate.high) == (0.25, 0.2, 0.3125)
    assert type(estimate) is Estimate


def test_a_table_of_results_has_the_ends_of_every_interval_beside_its_value():
    results = [
        SimpleNamespace(method="codes", fvu=Estimate(0.3, 0.2, 0.5), n_used=4),
        SimpleNamespace(method="shuffled", fvu=Estimate(1.0, 0.9, 1.1), n_used=5),
    ]
    assert estimates_frame(results).to_dict("records") == [
        {"method": "codes", "fvu": 0.3, "fvu_low": 0.2, "fvu_high": 0.5, "n_used": 4},
        {"method": "shuffled", "fvu": 1.0, "fvu_low": 0.9, "fvu_high": 1.1, "n_used": 5},
    ]
    assert type(estimates_frame(results)["fvu"].tolist()[0]) is float
