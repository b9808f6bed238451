"""Metrics as pure functions: formula, range and baseline of each in its docstring."""

from collections.abc import Hashable, Sequence
from typing import overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.errors import ShapeError
from clvq_lens.stats.contingency import contingency

PerToken = Sequence[Hashable] | np.ndarray
"""One value for each token, such as its code or its label."""


def fraction_of_variance_unexplained(
    target: Float[Tensor, "n d"], recon: Float[Tensor, "n d"]
) -> float:
    """FVU = sum ||y - y_hat||^2 / sum ||y - mean(y)||^2 over all tokens.

    Args:
        target: y, one row for each real token.
        recon: y_hat.

    Returns:
        0 for a perfect reconstruction, 1 for the mean of ``target`` (the baseline), and more for a
        reconstruction that is worse than the mean.

    Example:
        >>> y = torch.tensor([[0.0], [2.0]])
        >>> fraction_of_variance_unexplained(y, torch.tensor([[1.0], [1.0]]))
        1.0
    """
    # In double precision: a sum over a million tokens has few digits left in float32.
    target, recon = target.double(), recon.double()
    error = (target - recon).square().sum()
    return float(error / (target - target.mean(0)).square().sum())


def perplexity(codes: Int[Tensor, "*n"], n_codes: int) -> float:
    """Effective number of codes in use: the exponential of the entropy of their shares.

    Args:
        codes: Codes of the tokens that count; drop padding first.
        n_codes: Size of the codebook.

    Returns:
        A value in [1, n_codes]; n_codes (the baseline of uniform use) means that all codes are
        used equally often. Never the perplexity of a language model.

    Raises:
        ShapeError: If a code lies outside [0, n_codes), or there are no codes.

    Example:
        >>> round(perplexity(torch.tensor([0, 1, 2, 3]), n_codes=8), 3)
        4.0
    """
    if codes.numel() == 0 or not 0 <= int(codes.min()) <= int(codes.max()) < n_codes:
        raise ShapeError(
            f"Codes must lie in [0, {n_codes}) and there must be at least one. "
            f"Drop padding first: codes[mask]."
        )
    return perplexity_of_usage(torch.bincount(codes.flatten(), minlength=n_codes))


def perplexity_of_usage(usage: Int[Tensor, " k"]) -> float:
    """Effective number of codes in use: exp(-sum_k p_k log p_k) of their shares, in [1, k]."""
    shares = usage.cpu().double() / usage.sum().cpu()
    return float(torch.special.entr(shares).sum().exp())


@overload
def ce_loss_recovered(clean: float, spliced: float, ablated: float) -> float: ...


@overload
def ce_loss_recovered(
    clean: np.ndarray, spliced: np.ndarray, ablated: np.ndarray
) -> np.ndarray: ...


def ce_loss_recovered(
    clean: float | np.ndarray, spliced: float | np.ndarray, ablated: float | np.ndarray
) -> float | np.ndarray:
    """(CE_ablated - CE_spliced) / (CE_ablated - CE_clean).

    Args:
        clean: Cross-entropy of the model as it is, nats per token.
        spliced: Cross-entropy with the target replaced by the reconstruction.
        ablated: Cross-entropy with the target replaced by its mean (or zero): the baseline.

    Returns:
        1 if splicing costs nothing, 0 if it costs as much as the ablation, negative if it costs
        more; NaN if the ablation costs nothing. Arrays give one value for each entry.

    Example:
        >>> ce_loss_recovered(clean=1.0, spliced=1.5, ablated=3.0)
        0.75
    """
    cost = np.asarray(ablated, dtype=float) - clean
    recovered = (ablated - spliced) / np.where(cost == 0, np.nan, cost)
    return recovered if recovered.ndim else float(recovered)


def purity(codes: PerToken, token_labels: PerToken) -> float:
    """Fraction of tokens whose label is the commonest one of their code.

    Args:
        codes: Code of each token.
        token_labels: Label of each token.

    Returns:
        A value in (0, 1]. Many codes alone raise it, up to 1 with a code per token: compare with
        shuffled labels at the same number of codes (the baseline), never with 0.

    Raises:
        ShapeError: If there are not as many labels as codes, or there are no tokens.

    Example:
        >>> purity([0, 0, 0, 1], ["a", "a", "b", "b"])
        0.75
    """
    return purity_of_counts(contingency(np.asarray(codes), np.asarray(token_labels)))


def purity_of_counts(counts: Int[np.ndarray, "codes labels"]) -> float:
    """`purity` from the number of tokens with each code and label."""
    return float(counts.max(1).sum() / counts.sum())


def normalized_mutual_information(codes: PerToken, token_labels: PerToken) -> float:
    """NMI = 2 I(codes; labels) / (H(codes) + H(labels)), in nats throughout.

    Args:
        codes: Code of each token.
        token_labels: Label of each token.

    Returns:
        A value in [0, 1]: 0 if they are independent (in the limit of many tokens; in a sample,
        shuffled labels are the baseline), 1 if each determines the other. More codes than labels
        keep it below 1.

    Raises:
        ShapeError: If there are not as many labels as codes, or there are no tokens.

    Example:
        >>> normalized_mutual_information([0, 0, 1, 1], ["a", "a", "b", "b"])
        1.0
    """
    return nmi_of_counts(contingency(np.asarray(codes), np.asarray(token_labels)))


def nmi_of_counts(counts: Int[np.ndarray, "codes labels"]) -> float:
    """`normalized_mutual_information` from the number of tokens with each code and label."""
    entropies = entropy(counts.sum(1)) + entropy(counts.sum(0))
    # One code and one label: each determines the other, as scikit-learn has it.
    return 1.0 if entropies == 0 else 2 * mutual_information(counts) / entropies


def mutual_information(counts: Int[np.ndarray, "a b"]) -> float:
    """I(A; B) = H(A) + H(B) - H(A, B) in nats, from counts of pairs.

    Args:
        counts: Tokens with each pair of clusters.

    Returns:
        A value from 0, if they are independent, to the smaller of the two entropies. A finite
        sample of independent ones is above 0: compare with `clvq_lens.stats.agreement.shuffled`
        counts (the baseline).

    Example:
        >>> round(mutual_information(np.array([[5, 0], [0, 5]])), 4)  # log 2
        0.6931
    """
    # Rounding can make a difference of equal entropies negative.
    return max(0.0, entropy(counts.sum(1)) + entropy(counts.sum(0)) - entropy(counts.ravel()))


def entropy(counts: Int[np.ndarray, " n"]) -> float:
    """-sum p log p in nats of the shares of some counts, in [0, log n]; the baseline is log n.

    Example:
        >>> round(entropy(np.array([1, 1, 0])), 4)  # log 2
        0.6931
    """
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum()) + 0.0  # never -0.0
