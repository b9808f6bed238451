import math

import numpy as np
import pytest

from clvq_lens.stats.histogram import LogHistogram


def test_the_median_is_that_of_numpy_to_a_third_of_a_percent():
    values = np.exp(np.random.default_rng(0).normal(3, 4, 10_001))
    histogram = LogHistogram()
    for part in np.array_split(values, 7):
        histogram.add(part)
    assert histogram.median() == pytest.approx(np.median(values), rel=0.004)


def test_bins_hold_every_number_between_their_edges():
    values = np.exp(np.random.default_rng(1).normal(0, 2, 500))
    histogram = LogHistogram()
    histogram.add(values)
    edges, counts = histogram.bins()
    assert len(edges) == len(counts) + 1
    assert counts[0] > 0 < counts[-1]
    assert counts == tuple(np.histogram(values, edges)[0].tolist())


def test_zeros_and_numbers_beyond_the_axis_are_counted_at_its_ends():
    histogram = LogHistogram()
    histogram.add(np.array([0.0, 0.0, 1e30]))
    assert sum(histogram.bins()[1]) == 3
    assert histogram.median() < 1e-19


def test_without_numbers_there_is_no_median():
    histogram = LogHistogram()
    assert math.isnan(histogram.median())
    assert histogram.bins() == ((), ())
