import copy

import numpy as np
import pytest
from scipy.stats import binom

from clvq_lens.stats.jackknife import DocumentEstimate, JackknifeSums, effective_number

N_WORLDS = 600
LEAST_COVERED = int(binom.ppf(0.001, N_WORLDS, 0.935))  # 0.90: what a true 0.935 hardly ever misses


def lengths(random: np.random.Generator, n: int, spread: float) -> np.ndarray:
    """Tokens of documents: log-normal, as those of texts are. With spread 1, one of 20 is 5 times
    as long as the median, and with 1.5 it is 12 times."""
    return np.ceil(np.exp(random.normal(3.5, spread, n)))


def mean(sums: dict[str, np.ndarray]) -> np.ndarray:
    return sums["x"] / sums["n"]


def jackknife(x: np.ndarray, n: np.ndarray) -> DocumentEstimate:
    sums = JackknifeSums()
    sums.add(range(len(x)), {"x": x, "n": n})
    return sums.estimate(mean, size="n")


def test_the_estimate_is_the_statistic_of_the_plain_sums():
    random = np.random.default_rng(0)
    x, n = random.normal(size=50), random.integers(1, 9, 50)
    estimate = jackknife(x, n)
    assert estimate == pytest.approx(x.sum() / n.sum())
    assert estimate.low < estimate < estimate.high


def test_the_interval_is_as_wide_as_the_standard_error_says():
    x = np.random.default_rng(0).normal(size=400)
    estimate = jackknife(x, np.ones(400))
    assert estimate.high - estimate.low == pytest.approx(2 * 1.966 * x.std(ddof=1) / 20, rel=1e-3)


def test_documents_and_not_tokens_are_counted():
    """Ten equal tokens in each: taken for independent, they would give a third of the width."""
    x = np.random.default_rng(0).normal(size=100)
    one, ten = jackknife(x, np.ones(100)), jackknife(10 * x, np.full(100, 10))
    assert ten.low == pytest.approx(one.low)
    assert ten.high == pytest.approx(one.high)


def test_a_document_in_pieces_counts_as_one_wherever_its_pieces_come():
    random = np.random.default_rng(0)
    x, n = random.normal(size=30), random.integers(1, 9, 30).astype(float)
    pieces = JackknifeSums()
    half = {"x": x / 2, "n": n / 2}
    pieces.add(range(30), half)
    order = random.permutation(30)
    for part in order[:10], order[10:]:
        pieces.add(part.tolist(), {name: values[part] for name, values in half.items()})
    found, expected = pieces.estimate(mean, size="n"), jackknife(x, n)
    assert (found, found.low, found.high) == pytest.approx((expected, expected.low, expected.high))


def test_pieces_in_one_batch_are_added_up():
    sums = JackknifeSums()
    sums.add([7, 7, 8], {"x": np.array([1.0, 2.0, 5.0]), "n": np.ones(3)})
    assert sums.value(mean) == pytest.approx(8 / 3)
    assert effective_number(sums._sums["n"]) == pytest.approx(9 / 5)


def test_rows_may_be_vectors():
    random = np.random.default_rng(0)
    rows = random.normal(size=(40, 3))
    sums = JackknifeSums()
    sums.add(range(40), {"v": rows, "n": np.ones(40)})
    estimate = sums.estimate(lambda s: (s["v"] ** 2).sum(-1), size="n")
    assert estimate == pytest.approx((rows.sum(0) ** 2).sum())
    assert estimate.low < estimate < estimate.high


def test_documents_without_weight_take_no_part():
    x, n = np.array([1.0, 4.0, 0.0]), np.array([1.0, 2.0, 0.0])
    found, expected = jackknife(x, n), jackknife(x[:2], n[:2])
    assert (found.low, found.high) == (expected.low, expected.high)
    assert np.isnan(jackknife(x[1:], n[1:]).low)


def test_documents_that_all_say_the_same_leave_no_doubt():
    estimate = jackknife(np.array([2.0, 4.0]), np.array([1.0, 2.0]))
    assert (estimate, estimate.low, estimate.high) == pytest.approx((2.0, 2.0, 2.0))


def test_one_document_says_nothing_about_others_so_it_has_no_interval():
    estimate = jackknife(np.array([2.0]), np.array([1.0]))
    assert estimate == 2.0
    assert np.isnan(estimate.low)
    assert np.isnan(estimate.high)


def test_a_statistic_that_is_never_finite_has_no_interval():
    estimate = jackknife(np.array([2.0]), np.array([0.0]))
    assert estimate == np.inf
    assert np.isnan(estimate.low)
    assert np.isnan(estimate.high)


def test_a_statistic_that_fails_without_one_document_has_no_interval():
    sums = JackknifeSums()
    sums.add(range(3), {"x": np.array([1.0, 0.0, 0.0]), "n": np.ones(3)})
    estimate = sums.estimate(lambda s: s["n"] / s["x"], size="n")
    assert estimate == 3.0
    assert np.isnan(estimate.low)


def test_an_interval_stays_within_what_the_statistic_can_be():
    sums = JackknifeSums()
    sums.add(range(2), {"x": np.array([0.1, 1.9]), "n": np.ones(2)})
    assert sums.estimate(mean, size="n").low < 0
    assert sums.estimate(mean, size="n", limits=(0.0, np.inf)).low == 0


def test_memory_does_not_grow_with_the_documents():
    sums = JackknifeSums()
    for start in range(0, 5_000, 100):
        sums.add(range(start, start + 100), {"x": np.ones(100), "v": np.ones((100, 4))})
    shapes = {name: values.shape for name, values in sums._sums.items()}
    assert shapes == {"x": (1_000,), "v": (1_000, 4)}
    assert len(sums._rows) == 1_000


def test_groups_of_many_documents_give_the_interval_of_single_ones():
    random = np.random.default_rng(0)
    x, n = random.normal(size=8_000), random.integers(1, 9, 8_000).astype(float)
    estimate = jackknife(x * n, n)
    residuals = n * (x - float(estimate)) / n.sum()
    expected = 2 * 1.96 * np.sqrt(np.square(residuals).sum())
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.06)


def test_a_long_document_is_worth_no_more_than_one():
    assert effective_number(np.ones(7)) == pytest.approx(7)
    assert effective_number(np.array([1e9, 1.0, 1.0])) == pytest.approx(1)


# ---- two numbers over the same documents ---------------------------------------------------------


def twins(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors of two methods, and variances: hard documents are hard for both."""
    variance = lengths(random, n, 1.0)
    hardness = random.beta(4, 8, n)
    better, worse = 0.95 * hardness, hardness
    noise = random.normal(0, 0.02, (2, n))
    return variance * (better + noise[0]), variance * (worse + noise[1]), variance


def test_the_interval_of_a_difference_is_that_of_pairs():
    better, worse, n = twins(np.random.default_rng(0), 40)
    difference = jackknife(better, n).less(jackknife(worse, n))
    # Of less than 50 documents each is a group of its own, and this statistic is their difference.
    expected = jackknife(better - worse, n)
    found = (difference, difference.low, difference.high)
    assert found == pytest.approx((expected, expected.low, expected.high))
    assert difference.high < 0
    assert jackknife(better, n).high > jackknife(worse, n).low  # alone they overlap


def test_groups_of_documents_tell_differences_as_single_ones_do():
    better, worse, n = twins(np.random.default_rng(0), 3_000)
    estimate = jackknife(better, n)
    difference, single = estimate.less(jackknife(worse, n)), jackknife(better - worse, n)
    assert len(estimate.influences) == 50
    assert difference == pytest.approx(single)
    assert difference.high - difference.low == pytest.approx(single.high - single.low, rel=0.35)


def test_a_document_without_weight_keeps_its_place_among_pairs():
    n = np.array([1.0, 0.0, 2.0])
    one, other = jackknife(np.array([1.0, 0.0, 4.0]), n), jackknife(np.array([2.0, 0.0, 3.0]), n)
    assert one.influences[1] == 0
    assert one.less(other) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="shorter than"):
        one.less(jackknife(np.ones(2), np.ones(2)))


def test_one_document_says_nothing_about_differences():
    one = jackknife(np.array([2.0]), np.array([1.0]))
    assert np.isnan(one.less(one).low)


def test_what_a_number_owes_to_documents_is_copied_with_it():
    estimate = jackknife(np.arange(5.0), np.ones(5))
    for twin in copy.copy(estimate), copy.deepcopy(estimate):
        assert (twin, twin.low, twin.high) == (estimate, estimate.low, estimate.high)
        assert (twin.influences, twin.freedom) == (estimate.influences, estimate.freedom)


@pytest.mark.slow
@pytest.mark.parametrize("n_documents", [5, 20, 100, 400])
def test_intervals_of_differences_hold_the_truth(n_documents, record_property):
    better, worse, n = twins(np.random.default_rng(1), 1_000_000)
    truth = (better.sum() - worse.sum()) / n.sum()
    random = np.random.default_rng(n_documents)
    n_covered = 0
    for _ in range(N_WORLDS):
        better, worse, n = twins(random, n_documents)
        difference = jackknife(better, n).less(jackknife(worse, n))
        n_covered += difference.low <= truth <= difference.high
    record_property("coverage", float(n_covered / N_WORLDS))
    assert n_covered >= LEAST_COVERED


# ---- how often intervals hold the truth ----------------------------------------------------------


def fvu_terms(random: np.random.Generator, n: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Errors and variances; the FVU of each document differs, and so does its variance."""
    variance = lengths(random, n, spread) * np.exp(random.normal(0, 0.5, n))
    return random.beta(4, 8, n) * variance, variance


def recovered_terms(
    random: np.random.Generator, n: int, spread: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ablated less spliced, and ablated less clean: both noisy, most in short documents."""
    n_tokens = lengths(random, n, spread)
    per_token = 1 / np.sqrt(n_tokens)
    cost = 3 + random.normal(0, 1, n) + random.normal(0, 2, n) * per_token
    lost = cost * random.beta(3, 9, n) + random.normal(0, 1, n) * per_token
    return n_tokens * (cost - lost), n_tokens * cost


@pytest.mark.slow
@pytest.mark.parametrize("n_documents", [2, 5, 20, 100])
@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("terms", [fvu_terms, recovered_terms])
def test_intervals_of_ratios_hold_the_truth(terms, spread, n_documents, record_property):
    """With two documents the percentile bootstrap holds it in half of the worlds."""
    above, below = terms(np.random.default_rng(1), 1_000_000, spread)
    truth = above.sum() / below.sum()
    random = np.random.default_rng(n_documents)
    n_covered = 0
    for _ in range(N_WORLDS):
        x, n = terms(random, n_documents, spread)
        estimate = jackknife(x, n)
        n_covered += estimate.low <= truth <= estimate.high
    record_property("coverage", float(n_covered / N_WORLDS))  # numbers of numpy cannot be sent
    assert n_covered >= LEAST_COVERED
