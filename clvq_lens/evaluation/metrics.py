"""Metrics as pure functions: formula, range and baseline of each in its docstring."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.errors import ShapeError
from clvq_lens.quantizer.codebook import perplexity_of_usage

Labels = Sequence[Any] | np.ndarray


def fraction_of_variance_unexplained(
    target: Float[Tensor, "n d"], recon: Float[Tensor, "n d"]
) -> float:
    """FVU = sum ||y - y_hat||^2 / sum ||y - mean(y)||^2 over all tokens.

    Args:
        target: y, one row for each real token.
        recon: y_hat.

    Returns:
        0 for a perfect reconstruction, 1 for the mean of ``target`` (the baseline), more for
        anything worse than that.

    Example:
        >>> y = torch.tensor([[0.0], [2.0]])
        >>> fraction_of_variance_unexplained(y, torch.tensor([[1.0], [1.0]]))
        1.0
    """
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
        ShapeError: If a code lies outside [0, n_codes), or there is none.

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


def ce_loss_recovered(
    clean: float | np.ndarray, spliced: float | np.ndarray, ablated: float | np.ndarray
) -> Any:
    """(CE_ablated - CE_spliced) / (CE_ablated - CE_clean).

    Args:
        clean: Cross-entropy of the model as it is, nats per token.
        spliced: With the target replaced by the reconstruction.
        ablated: With the target replaced by its mean (or zero): the baseline.

    Returns:
        1 if splicing costs nothing, 0 if it is no better than the ablation, negative if worse; NaN
        if the ablation costs nothing.

    Example:
        >>> ce_loss_recovered(clean=1.0, spliced=1.5, ablated=3.0)
        0.75
    """
    cost = np.asarray(ablated, dtype=float) - clean
    recovered = (ablated - spliced) / np.where(cost == 0, np.nan, cost)
    return recovered if recovered.ndim else float(recovered)


def purity(codes: Labels, labels: Labels) -> float:
    """Fraction of tokens whose label is the commonest one of their code.

    Returns:
        A value in (0, 1]. Many codes raise it by themselves, up to 1 with a code per token: compare
        with shuffled labels at the same number of codes (the baseline), never with 0.

    Raises:
        ShapeError: If there are not as many labels as codes, or none.

    Example:
        >>> purity([0, 0, 0, 1], ["a", "a", "b", "b"])
        0.75
    """
    return purity_of_counts(_contingency(codes, labels))


def purity_of_counts(counts: Int[np.ndarray, "codes labels"]) -> float:
    """`purity` from the number of tokens with each code and label."""
    return float(counts.max(1).sum() / counts.sum())


def normalized_mutual_information(codes: Labels, labels: Labels) -> float:
    """NMI = 2 I(codes; labels) / (H(codes) + H(labels)), in nats throughout.

    Returns:
        0 for independent ones (in the limit of many tokens; in a sample, shuffled labels are the
        baseline), 1 if each determines the other. More codes than labels keep it below 1.

    Raises:
        ShapeError: If there are not as many labels as codes, or none.

    Example:
        >>> normalized_mutual_information([0, 0, 1, 1], ["a", "a", "b", "b"])
        1.0
    """
    return nmi_of_counts(_contingency(codes, labels))


def nmi_of_counts(counts: Int[np.ndarray, "codes labels"]) -> float:
    """`normalized_mutual_information` from the number of tokens with each code and label."""
    entropies = entropy(counts.sum(1)) + entropy(counts.sum(0))
    return 1.0 if entropies == 0 else 2 * mutual_information(counts) / entropies


def mutual_information(counts: Int[np.ndarray, "a b"]) -> float:
    """I(A; B) = H(A) + H(B) - H(A, B) in nats, from counts of pairs.

    Returns:
        0 for independent ones, at most the smaller entropy. A finite sample of independent ones
        is above 0: compare with `clvq_lens.evaluation.agreement.shuffled` counts (the baseline).

    Example:
        >>> round(mutual_information(np.array([[5, 0], [0, 5]])), 4)  # log 2
        0.6931
    """
    return max(0.0, entropy(counts.sum(1)) + entropy(counts.sum(0)) - entropy(counts.ravel()))


def entropy(counts: Int[np.ndarray, " n"]) -> float:
    """-sum p log p in nats of the shares of some counts, in [0, log n]; the baseline is log n.

    Example:
        >>> round(entropy(np.array([1, 1, 0])), 4)  # log 2
        0.6931
    """
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum()) + 0.0  # never -0.0


def _contingency(codes: Labels, labels: Labels) -> Int[np.ndarray, "codes labels"]:
    if len(codes) != len(labels) or len(codes) == 0:
        raise ShapeError(
            f"{len(labels)} labels for {len(codes)} codes. Pass one label for every real token."
        )
    _, row = np.unique(np.asarray(codes), return_inverse=True)
    _, column = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.zeros((row.max() + 1, column.max() + 1), dtype=np.int64)
    np.add.at(counts, (row, column), 1)
    return counts
