import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import adjusted_mutual_info_score

from clvq_lens.stats.agreement import shuffled
from clvq_lens.stats.contingency import contingency
from clvq_lens.stats.jackknife import JackknifeSums
from clvq_lens.stats.metrics import entropy, nmi_of_counts, purity_of_counts
from clvq_lens.stats.partitions import (
    AgreementTerms,
    adjusted_mutual_information,
    best_matching,
    conditional_entropy,
    effective_numbers,
    matched_accuracy,
    normalized_conditional_entropy,
)

TABLES = arrays(np.int64, (4, 3), elements=st.integers(0, 20)).filter(lambda table: table.any())
RANDOM = np.random.default_rng(0)
LOG_2 = np.log(2)


def tokens_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.nonzero(counts)
    times = counts[rows, columns]
    return np.repeat(rows, times), np.repeat(columns, times)


# ---- adjusted mutual information -----------------------------------------------------------------


@given(TABLES)
def test_ami_of_counts_is_that_of_scikit_learn_on_the_tokens(counts):
    expected = adjusted_mutual_info_score(*tokens_of(counts))
    assert adjusted_mutual_information(counts) == pytest.approx(expected, abs=1e-6)


def test_the_same_partition_under_other_numbers_has_an_ami_of_one():
    assert adjusted_mutual_information(np.diag([3, 1, 7])[:, ::-1]) == 1.0
    assert adjusted_mutual_information(np.array([[9]])) == 1.0
    assert adjusted_mutual_information(np.eye(4, dtype=np.int64)) == 1.0


def test_chance_is_zero_where_nmi_rewards_many_small_clusters():
    """The common wrong variant: 100 clusters against 100 on 300 tokens, without any relation."""
    counts = contingency(
        RANDOM.integers(0, 100, 300), RANDOM.integers(0, 100, 300), shape=(100, 100)
    )
    assert adjusted_mutual_information(counts) == pytest.approx(0.0, abs=0.05)
    assert nmi_of_counts(counts) > 0.6


def test_ami_by_hand():
    """Margins 2, 2 and 1, 3 allow this table and its mirror image only, of the same I.

    So E[I] = I and nothing beyond chance is left, though I is above 0.
    """
    assert adjusted_mutual_information(np.array([[1, 1], [0, 2]])) == pytest.approx(0.0, abs=1e-9)


def test_ami_by_hand_with_something_beyond_chance():
    """Margins 2, 2 and 2, 2: of six arrangements two are perfect (I = log 2) and four have I = 0.

    So E[I] = log 2 / 3 and the independent table has (0 - 1/3) / (1 - 1/3) = -1/2.
    """
    assert adjusted_mutual_information(np.array([[1, 1], [1, 1]])) == pytest.approx(-0.5)


# ---- conditional entropy -------------------------------------------------------------------------


def test_conditional_entropy_is_zero_where_rows_determine_columns():
    refinement = np.array([[5, 0], [3, 0], [0, 4]])
    assert conditional_entropy(refinement) == pytest.approx(0.0, abs=1e-12)
    assert normalized_conditional_entropy(refinement) == pytest.approx(0.0, abs=1e-12)


def test_it_is_the_whole_entropy_for_independent_ones():
    counts = np.outer([1, 2, 3], [4, 1])
    assert conditional_entropy(counts) == pytest.approx(entropy(np.array([4, 1])))
    assert normalized_conditional_entropy(counts) == pytest.approx(1.0)


def test_conditional_entropy_by_hand():
    """A row of (1, 1) and one of (2, 0), each half of the tokens: half of log 2."""
    assert conditional_entropy(np.array([[1, 1], [2, 0]])) == pytest.approx(LOG_2 / 2)


def test_it_is_given_the_row_and_not_given_the_column():
    """The common wrong variant: a code that gathers three clusters, each of them its own."""
    counts = np.array([[2, 2, 2]])
    assert conditional_entropy(counts) == pytest.approx(np.log(3))
    assert conditional_entropy(counts.T) == 0.0


def test_one_column_leaves_nothing_open():
    assert normalized_conditional_entropy(np.array([[2], [3]])) == 0.0


# ---- effective numbers ---------------------------------------------------------------------------


def test_effective_numbers_of_one_column_of_even_use_and_of_no_token():
    found = effective_numbers(np.array([[7, 0, 0, 0], [5, 5, 5, 5], [0, 0, 0, 0]]))
    np.testing.assert_allclose(found, [1, 4, 0])


def test_effective_number_by_hand_is_not_the_number_of_columns_in_use():
    """The common wrong variant counts a column that holds one token in four as a whole one."""
    [found] = effective_numbers(np.array([[3, 1]]))
    assert found == pytest.approx(4 / 3**0.75)
    assert found < 2


@given(TABLES)
def test_their_geometric_mean_over_tokens_is_exp_of_the_conditional_entropy(counts):
    numbers, n = effective_numbers(counts), counts.sum(1)
    mean = np.exp((n[n > 0] * np.log(numbers[n > 0])).sum() / n.sum())
    assert mean == pytest.approx(np.exp(conditional_entropy(counts)))


# ---- matching ------------------------------------------------------------------------------------


def test_other_numbers_are_matched_perfectly():
    counts = np.diag([4, 2, 6])[[2, 0, 1]]
    assert matched_accuracy(counts) == 1.0
    assert best_matching(counts).tolist() == [[0, 2], [1, 0], [2, 1]]


def test_shuffled_tokens_match_little():
    counts = np.diag([50] * 20)
    assert matched_accuracy(shuffled(counts, seed=0)) < 0.2


def test_the_best_matching_by_hand_is_not_the_greedy_one():
    """Greedy takes 5 first and then 0; the best is 4 + 4."""
    counts = np.array([[5, 4], [4, 0]])
    assert best_matching(counts).tolist() == [[0, 1], [1, 0]]
    assert matched_accuracy(counts) == pytest.approx(8 / 13)


def test_a_cluster_in_two_pieces_counts_with_the_larger_where_purity_forgives():
    """The common wrong variant matches many to one."""
    counts = np.array([[6, 0], [4, 0], [0, 10]])
    assert matched_accuracy(counts) == pytest.approx(0.8)
    assert purity_of_counts(counts) == 1.0


def test_pairs_without_a_token_are_no_match():
    assert best_matching(np.array([[3, 0], [2, 0]])).tolist() == [[0, 0]]


# ---- terms of tokens -----------------------------------------------------------------------------


@given(TABLES)
def test_the_terms_of_all_tokens_add_up_to_the_metrics(counts):
    first, second = tokens_of(counts)
    terms = AgreementTerms.of(first * 7, second)
    documents = np.arange(len(first)) % 3
    sums = {name: part.sum(keepdims=True) for name, part in terms.sums(documents, 3).items()}
    expected = adjusted_mutual_information(counts)
    assert terms.ami(sums) == pytest.approx(expected, abs=1e-9)
    assert sums["matched"] / sums["n"] == pytest.approx(matched_accuracy(counts))


def test_the_ami_of_shuffled_clusters_needs_no_new_chance_term():
    first = RANDOM.integers(0, 5, 200)
    second = (first + RANDOM.integers(0, 2, 200)) % 5
    control = shuffled(contingency(first, second, shape=(5, 5)), seed=0)
    expected = adjusted_mutual_information(control)
    assert AgreementTerms.of(first, second).ami_of(control) == pytest.approx(expected)
    one = np.zeros(3, dtype=np.int64)
    assert AgreementTerms.of(one, one).ami_of(np.array([[3]])) == 1.0


def test_the_interval_holds_the_ami_and_is_as_wide_as_that_of_fresh_documents():
    """Against documents really drawn anew."""

    def draw(random: np.random.Generator) -> tuple[np.ndarray, ...]:
        topic = np.repeat(random.integers(0, 4, 60), 20)  # documents differ: tokens of one do not
        first = (topic * 3 + random.integers(0, 6, 1200)) % 15
        second = np.where(random.random(1200) < 0.6, first, random.integers(0, 15, 1200))
        return np.repeat(np.arange(60), 20), first, second

    documents, first, second = draw(RANDOM)
    terms = AgreementTerms.of(first, second)
    sums = JackknifeSums()
    sums.add(range(60), terms.sums(documents, 60))
    found = sums.estimate(terms.ami, size="n")
    amis = [adjusted_mutual_info_score(*draw(RANDOM)[1:]) for _ in range(200)]
    low, high = np.quantile(amis, [0.025, 0.975])
    assert found.low < found < found.high
    assert found.high - found.low == pytest.approx(high - low, rel=0.35)


def test_the_same_partition_is_one_without_any_of_the_documents():
    codes = np.array([0, 0, 1, 2])
    terms = AgreementTerms.of(codes, codes + 5)
    sums = JackknifeSums()
    sums.add(range(4), terms.sums(np.arange(4), 4))
    found = sums.estimate(terms.ami, size="n")
    assert (found, found.low, found.high) == (1.0, 1.0, 1.0)
