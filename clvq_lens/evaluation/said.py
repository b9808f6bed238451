"""What a model says of each token: cross-entropy and KL, from logits of a few tokens at a time."""

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import nll_loss

from clvq_lens.stats.divergence import kl_of_log_probabilities
from clvq_lens.stats.precision import in_double

# Logits at once: 32 and 256 MB of float32. Fewer would go through the unembedding too often.
_AT_ONCE_CPU, _AT_ONCE_GPU = 2**23, 2**26
_PIECE_CPU = 2**18  # of these, what fits the cache of a CPU: 1 MB


class Said:
    """What a model says of each token, summed over sequences.

    A vocabulary may be a hundred times as wide as the residual stream, so logits are made of a few
    tokens at a time, and of no token that does not count.

    Args:
        clean: The outcome of the model as it is: residual stream, or logits.
        predicts: Where it counts.
        following: The token that is said at each position; None: no cross-entropy is wanted.
        logits_of: Gives the logits of some rows of an outcome.
        d_vocab: Number of logits of a token.
        with_kl: Whether the KL is wanted.
    """

    def __init__(
        self,
        clean: Float[Tensor, "b pos d"],
        predicts: Bool[Tensor, "b pos"],
        following: Int[Tensor, "b pos"] | None,
        logits_of: Callable[[Tensor], Tensor],
        *,
        d_vocab: int,
        with_kl: bool,
    ) -> None:
        self._clean, self._predicts, self._with_kl = clean, predicts, with_kl
        self._following = None if following is None else following.flatten()
        self._logits_of, self._d_vocab = logits_of, d_vocab
        self._on_cpu = clean.device.type == "cpu"

    def sums(self, outcomes: Mapping[str, Float[Tensor, "b pos d"]]) -> dict[str, Tensor]:
        """Cross-entropy and KL(clean || changed) in nats, by ``ce_`` and ``kl_`` before a name.

        Args:
            outcomes: Outcomes of the changed model by name. Cross-entropy of the model as it is
                comes along, as ``ce_clean``; a zero ablation has no KL.
        """
        values = self._empty(outcomes)
        rows_at_once = self._rows_of(_AT_ONCE_CPU if self._on_cpu else _AT_ONCE_GPU)
        counted = self._predicts.flatten().nonzero().squeeze(-1)
        for rows in counted.split(rows_at_once) if len(counted) else ():
            clean = self._logits(self._clean, rows).float().log_softmax(-1)
            if self._following is not None:
                values["ce_clean"][rows] = self._cross_entropy(clean, rows)
            for name, outcome in outcomes.items():
                self._compare_(values, name, self._logits(outcome, rows), clean, rows)
        sums: dict[str, Tensor] = {}
        for name, of_tokens in values.items():
            sums[name] = in_double(of_tokens.view(self._predicts.shape)).sum(1)
        return sums

    def _empty(self, outcomes: Iterable[str]) -> dict[str, Float[Tensor, " n"]]:
        """Zeros for each position; every name is there, also where no token counts."""
        names: list[str] = []
        if self._following is not None:
            names += ["ce_clean", *(f"ce_{name}" for name in outcomes)]
        if self._with_kl:
            names += [f"kl_{name}" for name in outcomes if name != "zero_ablated"]
        n_positions = self._predicts.numel()
        return {name: torch.zeros(n_positions, device=self._clean.device) for name in names}

    def _compare_(
        self,
        values: dict[str, Tensor],
        name: str,
        logits: Float[Tensor, "n d_vocab"],
        clean: Float[Tensor, "n d_vocab"],
        rows: Int[Tensor, " n"],
    ) -> None:
        """Writes the values of some rows, a few at a time; ``clean`` are log-probabilities."""
        # All log-probabilities at once would be written to memory and read again several times.
        n_rows = self._rows_of(_PIECE_CPU) if self._on_cpu else len(rows)
        pieces = zip(rows.split(n_rows), clean.split(n_rows), logits.split(n_rows), strict=True)
        for piece, clean_piece, logits_piece in pieces:
            changed = logits_piece.float().log_softmax(-1)
            if f"ce_{name}" in values:
                values[f"ce_{name}"][piece] = self._cross_entropy(changed, piece)
            if f"kl_{name}" in values:
                values[f"kl_{name}"][piece] = kl_of_log_probabilities(clean_piece, changed)

    def _cross_entropy(
        self, log_probabilities: Float[Tensor, "n d_vocab"], rows: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        assert self._following is not None
        following = self._following.index_select(0, rows)
        return nll_loss(log_probabilities, following, reduction="none")

    def _rows_of(self, n_logits: int) -> int:
        return max(1, n_logits // self._d_vocab)

    def _logits(self, outcome: Tensor, rows: Int[Tensor, " n"]) -> Float[Tensor, "n d_vocab"]:
        return self._logits_of(outcome.flatten(0, 1).index_select(0, rows))
