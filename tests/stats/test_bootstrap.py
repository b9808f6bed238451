import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from clvq_lens.stats.bootstrap import BootstrapSums, Estimate, estimates_frame


def mean(sums: dict[str, np.ndarray]) -> np.ndarray:
    return sums["x"] / sums["n"]


def bootstrap(x: np.ndarray, n: np.ndarray, *, n_replicates: int = 400, seed: int = 0) -> Estimate:
    sums = BootstrapSums(n_replicates=n_replicates, seed=seed)
    sums.add(range(len(x)), {"x": x, "n": n})
    return sums.estimate(mean)


def test_the_estimate_is_the_statistic_of_the_plain_sums():
    random = np.random.default_rng(0)
    x, n = random.normal(size=50), random.integers(1, 9, 50)
    estimate = bootstrap(x, n)
    assert estimate == pytest.approx(x.sum() / n.sum())
    assert estimate.low < estimate < estimate.high


def test_the_interval_covers_the_truth_at_about_its_rate():
    n_covered, n_worlds = 0, 200
    for world in range(n_worlds):
        x = np.random.default_rng(world).normal(3.0, 1.0, 60)
        estimate = bootstrap(x, np.ones(60), n_replicates=200, seed=world)
        n_covered += estimate.low <= 3.0 <= estimate.high
    assert 0.88 <= n_covered / n_worlds <= 0.99


def test_the_interval_is_as_wide_as_the_standard_error_says():
    x = np.random.default_rng(0).normal(size=400)
    estimate = bootstrap(x, np.ones(400), n_replicates=2_000)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.1)


def test_documents_and_not_tokens_are_resampled():
    """Ten equal tokens in each: taken for independent, they would give a third of the width."""
    x = np.random.default_rng(0).normal(size=100)
    one, ten = bootstrap(x, np.ones(100)), bootstrap(10 * x, np.full(100, 10))
    assert ten.low == pytest.approx(one.low)
    assert ten.high == pytest.approx(one.high)


def test_a_document_in_pieces_counts_as_one_wherever_its_pieces_come():
    random = np.random.default_rng(0)
    x, n = random.normal(size=30), random.integers(1, 9, 30).astype(float)
    pieces = BootstrapSums(n_replicates=100, seed=0)
    half = {"x": x / 2, "n": n / 2}
    pieces.add(range(30), half)
    order = random.permutation(30)
    for part in order[:10], order[10:]:
        pieces.add(part.tolist(), {name: values[part] for name, values in half.items()})
    found, expected = pieces.estimate(mean), bootstrap(x, n, n_replicates=100)
    assert (found, found.low, found.high) == pytest.approx((expected, expected.low, expected.high))


def test_rows_may_be_vectors():
    random = np.random.default_rng(0)
    rows = random.normal(size=(40, 3))
    sums = BootstrapSums(n_replicates=50, seed=0)
    sums.add(range(40), {"v": rows})
    estimate = sums.estimate(lambda s: (s["v"] ** 2).sum(-1))
    assert estimate == pytest.approx((rows.sum(0) ** 2).sum())


def test_the_seed_decides_the_replicates():
    x, n = np.arange(20.0), np.ones(20)
    one, again, other = (bootstrap(x, n, seed=seed) for seed in (1, 1, 2))
    assert (one.low, one.high) == (again.low, again.high)
    assert (one.low, one.high) != (other.low, other.high)


def test_replicates_without_a_document_are_left_out():
    estimate = bootstrap(np.array([2.0, 2.0]), np.array([1.0, 1.0]), n_replicates=50)
    assert (estimate, estimate.low, estimate.high) == (2.0, 2.0, 2.0)


def test_one_document_says_nothing_about_others_so_it_has_no_interval():
    estimate = bootstrap(np.array([2.0]), np.array([1.0]), n_replicates=50)
    assert estimate == 2.0
    assert np.isnan(estimate.low)
    assert np.isnan(estimate.high)


def test_a_statistic_that_is_never_finite_has_no_interval():
    estimate = bootstrap(np.array([2.0]), np.array([0.0]))
    assert estimate == np.inf
    assert np.isnan(estimate.low)
    assert np.isnan(estimate.high)


def test_memory_does_not_grow_with_the_documents():
    sums = BootstrapSums(n_replicates=10, seed=0)
    for start in range(0, 500, 100):
        sums.add(range(start, start + 100), {"x": np.ones(100), "v": np.ones((100, 4))})
    assert {name: values.shape for name, values in sums._sums.items()} == {"x": (11,), "v": (11, 4)}


def test_an_estimate_is_a_number_with_an_interval():
    estimate = Estimate(0.25, 0.2, 0.3125)
    assert isinstance(estimate, float)
    assert estimate + 1 == 1.25
    assert repr(estimate) == "0.25 [0.2, 0.3125]"


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
