"""Points of a path gather where it bends, and errors are those of the pieces."""

import numpy as np
import pytest

from clvq_lens.readouts.bending_path import BendingPath


def refined(value, slope, tolerance=0.02, most=129):
    """A path of a quantity with one position, and how many points were asked for in each round."""
    path, rounds = BendingPath(), []
    while len(path.wanted):
        rounds.append(len(path.wanted))
        path.add(value(path.wanted), slope(path.wanted)[:, None])
        path.refine(tolerance, most)
    return path, rounds


def total(path):
    return float(path.rule.weights @ path.slopes.sum(1))


def step(t):
    """From 0 to 1 within a hundredth of the path, at 0.3."""
    return 1 / (1 + np.exp(-(t - 0.3) / 0.002))


def slope_of_step(t):
    return step(t) * (1 - step(t)) / 0.002


def test_a_smooth_path_needs_the_first_points_alone():
    path, rounds = refined(lambda t: t**3, lambda t: 3 * t**2)
    assert rounds == [9]
    assert total(path) == pytest.approx(1)  # Simpson's rule is exact for a parabola
    assert path.difference == 1


def test_points_gather_where_the_path_bends():
    path, _ = refined(step, slope_of_step)
    near = np.abs(path.points - 0.3) < 0.05
    assert near.mean() > 0.5
    assert len(path.points) < 60
    assert total(path) == pytest.approx(1, abs=0.02)
    assert path.rule.weights.sum() == pytest.approx(1)
    assert (np.diff(path.points) > 0).all()


def test_errors_of_two_pieces_do_not_cancel():
    """A bump up and a bump down: they add up to their difference however coarsely they are seen."""

    def value(t):
        return t + step(t) - step(t - 0.4)

    def slope(t):
        return 1 + slope_of_step(t) - slope_of_step(t - 0.4)

    path, rounds = refined(value, slope)
    assert len(rounds) > 3
    pieces = np.abs(path.points - 0.3).min(), np.abs(path.points - 0.7).min()
    assert max(pieces) < 0.01


def test_no_more_points_than_allowed():
    path, _ = refined(step, slope_of_step, tolerance=1e-9, most=20)
    assert len(path.points) in (19, 20)


def test_known_points_are_not_asked_for_again():
    path, rounds = refined(step, slope_of_step)
    assert len(np.unique(path.points)) == sum(rounds) == len(path.points)


def test_a_path_that_comes_back_is_judged_by_the_way_it_went():
    """Its difference is almost 0, of which no share is worth points."""

    def value(t):
        return np.sin(2 * np.pi * t) + 1e-6 * t

    def slope(t):
        return 2 * np.pi * np.cos(2 * np.pi * t) + 1e-6

    path, _ = refined(value, slope)
    assert len(path.points) < 40
    assert abs(total(path) - path.difference) < 0.02 * 4  # up by 1, down by 2, up by 1


def test_pieces_that_are_good_enough_are_not_cut():
    """Without slopes, the error of a piece is what it gains: here 1, 0.007, 0 and 0."""
    path = BendingPath()
    values = np.array([0, 1, 1, 1.007, 1.007, 1.007, 1.007, 1.007, 1.007])
    path.add(values, np.zeros((9, 1)))
    path.refine(0.02, 129)
    assert path.wanted.tolist() == [1 / 16, 3 / 16]
