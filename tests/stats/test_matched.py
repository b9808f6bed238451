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
    assert nearest_in_share(usage, 1, 10).tolist() == [0, 2, 4]


def test_of_equally_near_codes_the_lower_comes_first():
    assert nearest_in_share(np.array([4, 8, 4, 2]), 0, 3).tolist() == [2, 1, 3]


def test_a_single_code_has_no_control():
    assert nearest_in_share(np.array([0, 9]), 1, 5).tolist() == []
