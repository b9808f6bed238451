import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clvq_lens.stats.holm import holm, holm_level

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_the_textbook_example():
    """Holm (1979): the smallest of four is multiplied by 4, the next one by 3, and so on."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_one_verdict_needs_no_correction():
    assert holm([0.04]).tolist() == [0.04]
    assert holm_level([0.04], level=0.95) == pytest.approx(0.95)


def test_a_verdict_without_a_p_value_was_tried_all_the_same():
    assert holm([0.02, float("nan")]).tolist() == [0.04, 1.0]


@given(P_VALUES)
def test_it_is_never_stricter_than_bonferroni_and_never_laxer_than_nothing(p):
    corrected = holm(p)
    assert (corrected >= np.array(p)).all()
    assert (corrected <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
    assert (np.argsort(p, kind="stable") == np.argsort(corrected, kind="stable")).all() or (
        len(set(corrected)) < len(p)
    )


@given(P_VALUES)
def test_one_level_for_all_intervals_says_what_the_method_says(p):
    level = holm_level(p, level=0.95)
    for own, corrected in zip(p, holm(p), strict=True):
        if abs(corrected - 0.05) > 1e-9:
            assert (own < 1 - level) == (corrected < 0.05)
