"""What a model says of each token: cross-entropy and KL, from logits of a few tokens at a time."""

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from clvq_lens.stats.divergence import kl_divergence
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
            clean = self._logits(self._clean, rows)
            if self._following is not None:
                values["ce_clean"][rows] = self._cross_entropy(clean, rows)
            for name, outcome in outcomes.items():
                logits = self._logits(outcome, rows)
                if f"ce_{name}" in values:
                    values[f"ce_{name}"][rows] = self._cross_entropy(logits, rows)
                if f"kl_{name}" in values:
                    values[f"kl_{name}"][rows] = self._kl(clean, logits)
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

    def _rows_of(self, n_logits: int) -> int:
        return max(1, n_logits // self._d_vocab)

    def _logits(self, outcome: Tensor, rows: Int[Tensor, " n"]) -> Float[Tensor, "n d_vocab"]:
        return self._logits_of(outcome.flatten(0, 1).index_select(0, rows))

    def _cross_entropy(self, logits: Tensor, rows: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        assert self._following is not None
        following = self._following.index_select(0, rows)

        def of_piece(piece: Tensor, following: Tensor) -> Tensor:
            return cross_entropy(piece.float(), following, reduction="none")

        return self._by_pieces(of_piece, logits, following)

    def _kl(self, clean: Tensor, logits: Tensor) -> Float[Tensor, " n"]:
        return self._by_pieces(kl_divergence, clean, logits)

    def _by_pieces(
        self, function: Callable[[Tensor, Tensor], Tensor], one: Tensor, other: Tensor
    ) -> Float[Tensor, " n"]:
        """A function of rows, of as many at a time as are fast."""
        # All log-probabilities at once would be written to memory and read again several times.
        n_rows = self._rows_of(_PIECE_CPU) if self._on_cpu else len(one)
        pieces = zip(one.split(n_rows), other.split(n_rows), strict=True)
        return torch.cat([function(*piece) for piece in pieces])
