import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from clvq_lens.stats.agreement import agreement, shuffled
from clvq_lens.stats.metrics import mutual_information, nmi_of_counts, purity_of_counts

TABLES = arrays(np.int64, (4, 3), elements=st.integers(1, 30))


def tokens_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.nonzero(counts)
    times = counts[rows, columns]
    return np.repeat(rows, times), np.repeat(columns, times)


@given(TABLES)
def test_metrics_of_counts_are_those_of_scikit_learn_on_the_tokens(counts):
    codes, labels = tokens_of(counts)
    assert nmi_of_counts(counts) == pytest.approx(normalized_mutual_info_score(labels, codes))
    expected = mutual_info_score(labels, codes)
    assert mutual_information(counts) == pytest.approx(expected, abs=1e-9)
    assert purity_of_counts(counts) == pytest.approx(counts.max(1).sum() / counts.sum())


@given(TABLES, st.integers(0, 100))
def test_shuffling_keeps_the_counts_of_codes_and_of_labels(counts, seed):
    control = shuffled(counts, seed=seed)
    assert control.sum(0).tolist() == counts.sum(0).tolist()
    assert control.sum(1).tolist() == counts.sum(1).tolist()


def test_shuffled_counts_are_distributed_as_shuffled_tokens():
    """Mean and spread of a cell over many draws, against labels that were really shuffled."""
    counts = np.array([[30, 0], [5, 15]])
    codes, labels = tokens_of(counts)
    random = np.random.default_rng(0)
    drawn = [shuffled(counts, seed=seed)[0, 0] for seed in range(600)]
    really = [int((random.permutation(labels)[codes == 0] == 0).sum()) for _ in range(600)]
    assert np.mean(drawn) == pytest.approx(np.mean(really), abs=0.3)
    assert np.std(drawn) == pytest.approx(np.std(really), rel=0.15)


def test_perfect_agreement_is_one_and_its_control_is_far_below():
    found = agreement(np.diag([50, 50, 50]))
    assert (found.ami, found.nmi, found.purity) == (1.0, 1.0, 1.0)
    assert found.nmi_shuffled < 0.05
    assert found.purity_shuffled < 0.5
    assert (found.n_tokens, found.n_codes, found.n_labels) == (150, 3, 3)


def test_independent_codes_agree_no_more_than_shuffled_ones():
    counts = np.full((6, 4), 40)
    found = agreement(counts)
    assert found.nmi == pytest.approx(0.0, abs=1e-9)
    assert found.ami == pytest.approx(0.0, abs=0.01)
    assert found.nmi_shuffled > found.nmi  # a sample is never quite independent


def test_a_token_alone_in_its_code_is_pure_and_the_control_shows_it():
    """The common wrong reading: with a code per token purity is 1 whatever the labels say."""
    found = agreement(np.array([[1, 0], [0, 1], [1, 0], [0, 1]]))
    assert found.purity == found.purity_shuffled == 1.0


def test_unused_codes_and_labels_do_not_count():
    found = agreement(np.array([[5, 0, 0], [0, 0, 0], [0, 0, 5]]))
    assert (found.n_codes, found.n_labels, found.nmi) == (2, 2, 1.0)
    assert found.frame()["n_tokens"].tolist() == [10]


def test_nothing_counted_is_no_agreement():
    assert agreement(np.zeros((3, 2), dtype=np.int64)) is None


def test_the_seed_decides_the_control():
    counts = np.array([[9, 3, 4], [2, 8, 1], [5, 5, 5]])
    assert agreement(counts, seed=1) == agreement(counts, seed=1)
    assert agreement(counts, seed=1) != agreement(counts, seed=2)


def test_an_agreement_shows_its_purity_beside_the_baseline():
    found = agreement(np.diag([50, 50, 50]))
    said = "Agreement(3 codes, 3 labels, 150 tokens: AMI 1.000, purity 1.000 (shuffled 0."
    assert repr(found).startswith(said)
    html = found._repr_html_()
    assert "purity_shuffled" in html
    assert html.count("<tr") == 2
