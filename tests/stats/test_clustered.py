import math

import numpy as np
import pytest

from clvq_lens.stats.clustered import clustered_mean

RANDOM = np.random.default_rng(0)
ALONE = np.arange(60)


def test_values_of_their_own_have_the_common_standard_error():
    x = RANDOM.normal(size=60)
    found = clustered_mean(x, ALONE)
    assert found.value == pytest.approx(x.mean())
    assert found.error == pytest.approx(x.std(ddof=1) / math.sqrt(60))
    assert found.freedom == pytest.approx(59)


def test_a_cluster_of_equal_values_counts_once():
    x = RANDOM.normal(size=12)
    once, many = clustered_mean(x, np.arange(12)), clustered_mean(x.repeat(5), ALONE // 5)
    assert (many.value, many.error, many.freedom) == pytest.approx(
        (once.value, once.error, once.freedom)
    )


def test_it_does_not_matter_which_way_is_named_first_or_how_clusters_are_numbered():
    x, codes, documents = RANDOM.normal(size=60), RANDOM.integers(0, 4, 60), ALONE // 3
    found = clustered_mean(x, documents, codes)
    again = clustered_mean(x, 100 - 7 * codes, documents + 10**6)
    assert (again.error, again.freedom) == pytest.approx((found.error, found.freedom))


def test_codes_that_values_do_not_depend_on_cost_degrees_of_freedom_alone():
    x = RANDOM.normal(size=3_000)
    documents, codes = np.arange(3_000), RANDOM.integers(0, 300, 3_000)
    both, one = clustered_mean(x, documents, codes), clustered_mean(x, documents)
    assert both.error == pytest.approx(one.error, rel=0.15)
    assert both.freedom < 300


def test_the_variance_is_that_of_both_ways_less_what_they_share():
    """By hand: two documents of two texts each, and codes that cross them."""
    x = np.array([0.0, 6.0, 6.0, 12.0])
    documents, codes = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    # Means of documents are 3 and 9, as are those of codes: a mean of two has (9 - 3)^2 / 4.
    of_documents, of_codes = 9.0, 9.0
    of_pairs = (36 + 0 + 0 + 36) / 3 / 4
    expected = of_documents + of_codes - of_pairs
    assert clustered_mean(x, documents, codes).error ** 2 == pytest.approx(expected)


def test_the_variance_is_never_below_that_of_one_way():
    x = np.array([1.0, -1.0, -1.0, 1.0])  # every document and every code has the mean 0
    documents, codes = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert clustered_mean(x, documents, codes).error == 0.0


def test_clusters_of_very_different_size_are_worth_fewer():
    codes = np.array([0] * 55 + [1, 2, 3, 4, 5])
    assert clustered_mean(RANDOM.normal(size=60), codes).freedom == 1.0
    even = np.arange(60) % 6
    assert clustered_mean(RANDOM.normal(size=60), even).freedom == pytest.approx(5.0)


@pytest.mark.parametrize("which", [0, 1])
def test_one_cluster_of_either_kind_tells_nothing(which):
    ways = [ALONE // 2, ALONE % 5]
    ways[which] = np.zeros(60, dtype=np.int64)
    found = clustered_mean(RANDOM.normal(size=60), *ways)
    assert math.isnan(found.error)
