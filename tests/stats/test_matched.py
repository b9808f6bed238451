import numpy as np

from clvq_lens.stats.matched import nearest_in_share


def test_nearness_is_a_ratio_and_not_a_difference():
    usage = np.array([100, 60, 180])
    assert nearest_in_share(usage, 0, 1).tolist() == [1]  # 1.67 times; the other is 1.8 times
    usage = np.array([100, 50, 180])
    assert nearest_in_share(usage, 0, 1).tolist() == [2]  # 80 tokens more, but only 1.8 times


def test_unused_codes_and_the_code_itself_are_never_controls():
    usage = np.array([5, 0, 5, 0, 7])
    assert nearest_in_share(usage, 0, 10).tolist() == [2, 4]
    assert nearest_in_share(usage, 1, 10).tolist() == [2, 0, 4]


def test_of_equally_near_codes_those_that_follow_come_first():
    """Rare codes do not all share the controls of the lowest numbers."""
    usage = np.ones(20, dtype=int)
    assert nearest_in_share(usage, 3, 3).tolist() == [4, 5, 6]
    assert nearest_in_share(usage, 18, 3).tolist() == [19, 0, 1]
    assert nearest_in_share(np.array([4, 8, 4, 2]), 0, 3).tolist() == [2, 1, 3]


def test_ratios_that_differ_by_rounding_alone_are_equal():
    assert np.log(25) - np.log(10) != np.log(10) - np.log(4)  # though both are log 2.5
    usage = np.array([10, 4, 25])
    assert nearest_in_share(usage, 0, 2).tolist() == [1, 2]


def test_a_distance_decides_among_codes_of_equal_usage_only():
    usage, apart = np.array([5, 5, 5, 6]), np.array([0, 9, 2, 1])
    assert nearest_in_share(usage, 0, 3, apart=apart).tolist() == [2, 1, 3]


def test_codes_that_are_not_allowed_are_no_controls():
    allowed = np.array([True, False, True, True])
    assert nearest_in_share(np.array([5, 5, 6, 50]), 0, 3, allowed=allowed).tolist() == [2, 3]


def test_five_controls_are_drawn_unless_told_otherwise():
    assert len(nearest_in_share(np.ones(20, dtype=int), 0)) == 5


def test_a_single_code_has_no_control():
    assert nearest_in_share(np.array([0, 9]), 1, 5).tolist() == []
