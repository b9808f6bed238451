import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score

from clvq_lens.errors import ShapeError
from clvq_lens.stats.metrics import (
    ce_loss_recovered,
    entropy,
    fraction_of_variance_unexplained,
    mutual_information,
    normalized_mutual_information,
    perplexity,
    perplexity_of_usage,
    purity,
)

CODES = st.lists(st.integers(0, 5), min_size=1, max_size=60)
PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- FVU -----------------------------------------------------------------------------------------


def test_the_fvu_of_a_perfect_reconstruction_is_zero():
    y = normal(20, 3)
    assert fraction_of_variance_unexplained(y, y) == 0


def test_the_fvu_of_the_mean_is_one():
    y = normal(20, 3) + 5
    assert fraction_of_variance_unexplained(y, y.mean(0).expand_as(y)) == pytest.approx(1)


def test_the_fvu_of_two_tokens_in_two_dimensions():
    y = torch.tensor([[1.0, 0.0], [3.0, 4.0]])  # mean (2, 2): variance 1 + 4 + 1 + 4 = 10
    recon = torch.tensor([[1.0, 1.0], [1.0, 4.0]])  # errors 0, 1, 4, 0
    assert fraction_of_variance_unexplained(y, recon) == pytest.approx(0.5)


def test_the_fvu_is_a_ratio_of_sums_and_not_a_mean_of_ratios_over_dimensions():
    y = torch.tensor([[0.0, 0.0], [2.0, 20.0]])
    recon = torch.tensor(
        [[1.0, 0.0], [1.0, 20.0]]
    )  # 2 of 2 in one dimension, 0 of 200 in the other
    assert fraction_of_variance_unexplained(y, recon) == pytest.approx(2 / 202)  # not 1 / 2


def test_the_fvu_is_about_the_mean_and_not_about_zero():
    y = normal(50, 4) + 100
    assert fraction_of_variance_unexplained(y, torch.zeros_like(y)) > 100  # about zero it is 1


def test_the_fvu_of_all_tokens_is_not_the_mean_over_batches():
    y = torch.tensor([[0.0], [1.0], [100.0], [101.0]])
    recon = torch.tensor([[0.5], [0.5], [100.5], [100.5]])
    assert fraction_of_variance_unexplained(y, recon) < 1e-3  # in each half it is 1


@given(st.integers(0, 1_000), st.floats(0.01, 100), st.floats(-50, 50))
@settings(max_examples=25, deadline=None)
def test_the_fvu_does_not_change_with_unit_or_origin(seed: int, scale: float, shift: float):
    y, recon = normal(10, 3, seed=seed), normal(10, 3, seed=seed + 1)
    fvu = fraction_of_variance_unexplained(y, recon)
    assert fvu > 0
    moved = fraction_of_variance_unexplained(
        y.double() * scale + shift, recon.double() * scale + shift
    )
    assert moved == pytest.approx(fvu, rel=1e-6)


# ---- perplexity ----------------------------------------------------------------------------------


def test_the_perplexity_of_uniform_use_is_the_number_of_codes():
    assert perplexity(torch.arange(7).repeat(3), n_codes=7) == pytest.approx(7)


def test_the_perplexity_of_one_code_is_one():
    assert perplexity(torch.full((2, 5), 3), n_codes=7) == pytest.approx(1)


def test_the_perplexity_of_unequal_shares():
    shares = torch.tensor([0.25, 0.75])
    expected = math.exp(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    assert perplexity(torch.tensor([0, 1, 1, 1]), n_codes=2) == pytest.approx(expected)
    assert perplexity_of_usage((shares * 100).long()) == pytest.approx(expected)


def test_the_perplexity_is_the_exponential_of_nats_and_not_of_bits():
    assert perplexity(torch.tensor([0, 1, 2, 3]), n_codes=8) == pytest.approx(4)  # exp(2 bits): 7.4


def test_the_perplexity_does_not_count_unused_codes():
    assert perplexity(torch.tensor([0, 1]), n_codes=1_000) == pytest.approx(2)


def test_perplexity_of_usage_is_the_exponential_of_the_entropy():
    assert perplexity_of_usage(torch.tensor([3, 3, 0, 3])) == pytest.approx(3.0)
    assert perplexity_of_usage(torch.tensor([5, 0])) == pytest.approx(1.0)


@given(CODES, st.permutations(range(6)))
def test_the_perplexity_lies_in_its_range_and_ignores_names(codes: list[int], names: list[int]):
    found = perplexity(torch.tensor(codes), n_codes=6)
    assert 1 - 1e-9 <= found <= len(set(codes)) + 1e-9
    assert perplexity(torch.tensor(names)[codes], n_codes=6) == pytest.approx(found)


@pytest.mark.parametrize("codes", [[], [-1, 0], [0, 4]])
def test_the_perplexity_of_what_are_no_codes_is_refused(codes: list[int]):
    with pytest.raises(ShapeError, match=r"Codes must lie in \[0, 4\).*Drop padding"):
        perplexity(torch.tensor(codes, dtype=torch.long), n_codes=4)


# ---- CE loss recovered ---------------------------------------------------------------------------


def test_a_splice_that_costs_nothing_recovers_all():
    assert ce_loss_recovered(clean=2.0, spliced=2.0, ablated=5.0) == 1


def test_a_splice_as_bad_as_the_ablation_recovers_nothing():
    assert ce_loss_recovered(clean=2.0, spliced=5.0, ablated=5.0) == 0


def test_the_recovered_loss_of_three_numbers():
    assert ce_loss_recovered(clean=2.0, spliced=3.0, ablated=6.0) == 0.75


def test_the_recovered_loss_is_a_share_of_the_damage_and_not_of_the_loss():
    assert ce_loss_recovered(clean=2.0, spliced=3.0, ablated=4.0) == 0.5  # clean / spliced: 0.67
    assert ce_loss_recovered(clean=2.0, spliced=6.0, ablated=4.0) == -1  # not clipped


def test_the_recovered_loss_of_arrays_is_one_by_one():
    found = ce_loss_recovered(np.array([1.0, 2.0]), np.array([1.5, 2.0]), np.array([3.0, 4.0]))
    assert found.tolist() == [0.75, 1.0]


@given(st.floats(0, 5), st.floats(0, 9), st.floats(6, 20), st.floats(0.1, 10))
def test_the_recovered_loss_does_not_change_with_the_unit(clean, spliced, ablated, unit):
    found = ce_loss_recovered(clean, spliced, ablated)
    assert found <= 1 + clean  # above 1 only where splicing helps
    assert ce_loss_recovered(unit * clean, unit * spliced, unit * ablated) == pytest.approx(
        found, abs=1e-9
    )


# ---- purity --------------------------------------------------------------------------------------


def test_the_purity_of_codes_that_determine_the_label_is_one():
    assert purity([0, 0, 1, 2], ["a", "a", "b", "b"]) == 1


def test_the_purity_of_a_single_code_is_the_share_of_the_commonest_label():
    assert purity([0, 0, 0, 0], ["a", "a", "a", "b"]) == 0.75


def test_the_purity_of_a_table_of_two_by_two():
    codes, labels = [0] * 5 + [1] * 5, ["a"] * 3 + ["b"] * 2 + ["a"] * 1 + ["b"] * 4
    assert purity(codes, labels) == 0.7


def test_purity_is_of_codes_and_not_of_labels():
    assert purity([0, 0, 0, 0], ["a", "b", "c", "d"]) == 0.25  # inverse purity: 1
    assert purity([0, 1, 2, 3], ["a", "a", "a", "a"]) == 1  # inverse purity: 0.25


def test_a_code_per_token_is_pure_whatever_the_labels():
    labels = np.random.default_rng(0).integers(0, 5, 100)
    assert purity(range(100), labels) == 1


# ---- NMI -----------------------------------------------------------------------------------------


def test_the_nmi_of_renamed_labels_is_one():
    assert normalized_mutual_information([3, 3, 1, 0], ["a", "a", "b", "c"]) == pytest.approx(1)


def test_the_nmi_of_independent_codes_is_zero():
    assert normalized_mutual_information([0, 0, 1, 1], ["a", "b", "a", "b"]) == pytest.approx(0)


def test_the_nmi_of_a_single_code_is_zero_and_of_a_single_label_in_it_one():
    assert normalized_mutual_information([0, 0, 0], ["a", "b", "a"]) == 0
    assert normalized_mutual_information([0, 0, 0], ["a", "a", "a"]) == 1


def test_the_nmi_of_a_table_of_two_by_two():
    codes, labels = [0, 0, 1, 1], ["a", "a", "a", "b"]
    h_codes, h_labels = math.log(2), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    h_joint = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    expected = 2 * (h_codes + h_labels - h_joint) / (h_codes + h_labels)
    assert normalized_mutual_information(codes, labels) == pytest.approx(expected)


def test_the_nmi_is_normalized_by_the_arithmetic_mean():
    codes, labels = [0, 1, 2, 3], ["a", "a", "b", "b"]  # I = H(labels) = H(codes) / 2
    assert normalized_mutual_information(codes, labels) == pytest.approx(2 / 3)  # by the smaller: 1


@given(PAIRS)
@settings(deadline=None)
def test_the_nmi_is_that_of_scikit_learn(pairs: list[tuple[int, int]]):
    codes, labels = map(list, zip(*pairs, strict=True))
    expected = normalized_mutual_info_score(labels, codes)
    assert normalized_mutual_information(codes, labels) == pytest.approx(expected, abs=1e-9)


@given(PAIRS, st.permutations(range(6)), st.permutations("abcdef"))
def test_nmi_and_purity_ignore_names_and_lie_in_their_ranges(pairs, new_codes, new_labels):
    codes, labels = map(list, zip(*pairs, strict=True))
    renamed = [new_codes[code] for code in codes], [new_labels[label] for label in labels]
    for metric in normalized_mutual_information, purity:
        assert -1e-9 <= metric(codes, labels) <= 1 + 1e-9
        assert metric(*renamed) == pytest.approx(metric(codes, labels), abs=1e-9)
    nmi = normalized_mutual_information
    assert nmi(codes, labels) == pytest.approx(nmi(labels, codes), abs=1e-9)
    commonest = max(labels.count(label) for label in labels) / len(labels)
    assert purity(codes, labels) >= commonest - 1e-9


@pytest.mark.parametrize("metric", [purity, normalized_mutual_information])
@pytest.mark.parametrize(("codes", "labels"), [([0, 1], ["a"]), ([], []), ([0], ["a", "b"])])
def test_labels_that_do_not_match_the_codes_are_refused(metric, codes, labels):
    numbers = f"partitions have {len(codes)} and {len(labels)} tokens"
    with pytest.raises(ShapeError, match=numbers):
        metric(codes, labels)


# ---- entropy and mutual information --------------------------------------------------------------


def test_entropy_is_zero_for_one_value_and_log_n_for_uniform_ones():
    assert entropy(np.array([0, 7, 0])) == 0.0
    assert entropy(np.array([5, 5, 5, 5])) == pytest.approx(math.log(4))


def test_entropy_by_hand():
    assert entropy(np.array([3, 1])) == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


def test_nothing_has_no_entropy():
    assert entropy(np.array([0, 0])) == 0.0


def test_mutual_information_is_the_entropy_where_each_determines_the_other():
    assert mutual_information(np.diag([2, 2])) == pytest.approx(math.log(2))


def test_mutual_information_of_independent_ones_is_zero():
    assert mutual_information(np.outer([1, 2], [3, 4])) == pytest.approx(0.0, abs=1e-12)


def test_mutual_information_of_a_table_by_hand():
    counts = np.array([[2, 0], [1, 1]])
    expected = sum(
        p * math.log(p / (row * column))
        for p, row, column in ((0.5, 0.5, 0.75), (0.25, 0.5, 0.75), (0.25, 0.5, 0.25))
    )
    assert mutual_information(counts) == pytest.approx(expected)


def test_mutual_information_is_in_nats_and_not_in_bits():
    assert mutual_information(np.diag([1, 1, 1, 1])) == pytest.approx(1.3863, abs=1e-4)
