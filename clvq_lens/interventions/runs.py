"""Counterfactual runs: the same texts many times, with other codes, from the target upwards."""

from collections.abc import Iterable, Iterator
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.arguments import check_is
from clvq_lens.errors import EmptyCorpusError, NothingChangesError, SpliceConflictError
from clvq_lens.host.attach import Attached, Attachment
from clvq_lens.interventions.edits import Edit, apply_edits
from clvq_lens.interventions.metrics import LogitsFunction, Reference
from clvq_lens.quantizer.draft import Draft, joined
from clvq_lens.training.tokens import TokenBatch

_DECODED_APART = 4  # parts of a batch, each of which is decoded from its own first change


class Counterfactuals:
    """One run of the model on some texts, and any number of others that differ in codes alone.

    Up to the target all of them agree, so only the layers above it are computed again, only for
    texts where an edit changes something, and many edits go into one batch. Edits and splices
    that are open act on all runs.

    Args:
        attachment: Of a fitted quantizer.
        batch: The texts.
        until: Hook point where runs end; None: they go on to the logits.
        columns: Positions at which logits are computed; None: all of them.

    Raises:
        SpliceConflictError: If another quantizer edits or replaces the same target.
    """

    @torch.no_grad()
    def __init__(
        self,
        attachment: Attachment,
        batch: TokenBatch,
        *,
        until: str | None = None,
        columns: Int[Tensor, " n"] | None = None,
    ) -> None:
        if not attachment.others_are_idle():
            raise SpliceConflictError(
                f"Another quantizer edits or replaces {attachment.target!r}, where the runs of "
                f"{attachment.name!r} begin. Close its block first."
            )
        self.attachment, self.host, self.batch = attachment, attachment.host, batch
        self.quantizer, self.until, self.columns = attachment.quantizer, until, columns
        tokens, attended = batch.tokens.to(self.host.device), batch.attended.to(self.host.device)
        with attachment.recording() as record, self.host.unembedding(columns):
            if until is None:
                self.outcome = self.host.run(tokens, attended)
            else:
                self.outcome = self.host.activations(tokens, attended, [until])[until]
        self.recorded = record[-1]
        self.reconstruction = attachment.reconstruction
        self.clean_recon = self.reconstruction.clean(self.recorded)

    @property
    def draft(self) -> Draft:
        """The codes of the run itself."""
        return self.recorded.quantized.draft

    @cached_property
    def mask(self) -> Bool[Tensor, "b pos"]:
        """True on tokens whose codes act: the real ones without outliers."""
        return self.batch.mask & self.recorded.text.real.cpu()

    @cached_property
    def codes(self) -> Int[Tensor, "b pos"]:
        """The codes of the run itself at these tokens, -1 elsewhere."""
        return self.draft.codes.cpu().masked_fill(~self.mask, -1)

    def require_tokens(self) -> None:
        """Raises `NothingChangesError` if no code acts at all."""
        if not self.mask.any():
            raise NothingChangesError(
                "All real tokens of these texts are outliers, whose codes do not act. Pass other "
                "texts, or fit with keep_outliers=True."
            )

    @property
    def reference(self) -> Reference:
        """The run itself, for metrics."""
        return Reference(self.host, self.batch, self.columns, self.outcome)

    def edited(self, *edits: Edit) -> Draft:
        """The codes after further edits."""
        return apply_edits(edits, self.quantizer, self.draft, self.recorded.text)

    def outcome_from(
        self,
        recon: Float[Tensor, "r pos d_target"],
        rows: Int[Tensor, " r"],
        named: Bool[Tensor, "r pos"] | None,
    ) -> Float[Tensor, "r n d_outcome"]:
        """Logits, or activations at ``until``, of some texts with another reconstruction.

        Args:
            recon: Of these texts.
            rows: Which texts these are.
            named: Positions that edits name, as `Draft.named`.
        """
        target = self.reconstruction.target_with(
            self.recorded,
            rows,
            clean=self.clean_recon[rows],
            edited=recon,
            named=named,
            splices=self.attachment.splices,
        )
        rows, name = rows.cpu(), self.attachment.target
        given = name, target, self.batch.tokens[rows], self.batch.attended[rows]
        if self.until is None:
            with self.host.unembedding(self.columns):
                return self.host.logits_with(*given, before_hooks=True)
        return self.host.activations_with(*given, until=self.until, before_hooks=True)

    @torch.no_grad()
    def measure(
        self, drafts: Iterable[Draft], metric: LogitsFunction, *, n: int, desc: str, progress: bool
    ) -> list[float]:
        """A metric of the outcome for each of some drafts.

        Args:
            drafts: Made one by one, as they are needed.
            metric: A function of the outcome of all texts to one number.
            n: How many drafts there are.
            desc: What the progress bar says.
            progress: Whether there is one.
        """
        unchanged = float(metric(self.outcome))
        values = []
        outcomes = self.outcomes(drafts)
        for rows, outcome in tqdm(outcomes, desc=desc, total=n, unit="edit", disable=not progress):
            if len(rows) == 0:
                values.append(unchanged)
                continue
            if len(rows) < len(self.outcome):
                outcome = self.outcome.index_copy(0, rows.to(outcome.device), outcome)
            values.append(float(metric(outcome)))
        return values

    @torch.no_grad()
    def outcomes(
        self, drafts: Iterable[Draft]
    ) -> Iterator[tuple[Int[Tensor, " r"], Float[Tensor, "r n d_outcome"]]]:
        """For each of some drafts, the texts where it changes something and their outcome."""
        for group in self._groups(drafts):
            rows = torch.cat([changed for _, changed in group])
            draft = joined([draft for draft, _ in group])
            everything = torch.arange(len(rows), device=rows.device)
            parts = [
                self._outcome_of(draft.take(index), rows[index])
                for index in everything.split(self._rows_per_pass)
                if len(index)
            ] or [self.outcome[:0]]
            outcome = parts[0] if len(parts) == 1 else torch.cat(parts)  # logits are large
            sizes = [len(changed) for _, changed in group]
            yield from zip((changed for _, changed in group), outcome.split(sizes), strict=True)

    def _outcome_of(self, draft: Draft, rows: Int[Tensor, " r"]) -> Float[Tensor, "r n d"]:
        few = torch.arange(len(rows), device=rows.device).chunk(_DECODED_APART)
        recon = [
            self.reconstruction.from_codes(self.recorded, draft.take(index), rows[index])
            for index in few
        ]
        return self.outcome_from(torch.cat(recon), rows, draft.named)

    def _groups(self, drafts: Iterable[Draft]) -> Iterator[list[tuple[Draft, Tensor]]]:
        """Drafts that go into one batch together, each cut down to the texts that it changes."""
        group: list[tuple[Draft, Tensor]] = []
        n_rows = 0
        for draft in drafts:
            rows = draft.differs_from(self.draft).nonzero().flatten()
            if group and n_rows + len(rows) > self._rows_per_pass:
                yield group
                group, n_rows = [], 0
            group.append((draft.take(rows), rows))
            n_rows += len(rows)
        if group:
            yield group

    @property
    def _rows_per_pass(self) -> int:
        return max(1, self.host.positions_per_pass // self.batch.tokens.shape[1])


def require_real(batch: TokenBatch) -> None:
    """Raises `EmptyCorpusError` if no text has a real token, so that there is no code to change."""
    if not batch.mask.any():
        raise EmptyCorpusError(
            "The texts hold no real token: only special tokens such as BOS, or padding. "
            "Pass texts with words in them."
        )


def fitted(lens: Attached) -> Attachment:
    """The attachment of a lens that is fitted and on its model.

    Raises:
        NotFittedError: If it has not been fitted.
        DetachedError: If it was removed.
        HostMismatchError: If the model's weights were processed since.
        ConfigError: If it is no lens.
    """
    check_is("lens", lens, Attached, "Pass what model.add_clvq(...) returned.")
    lens.attachment.require_ready()
    return lens.attachment


def random_codes(runs: Counterfactuals, seed: int) -> Tensor:
    """A code for each position, drawn by the shares of the codes in training."""
    generator = torch.Generator().manual_seed(seed)
    shape = runs.batch.tokens.shape
    shares = runs.quantizer.shares.cpu()
    drawn = torch.multinomial(shares, shape.numel(), replacement=True, generator=generator)
    return drawn.view(shape)
