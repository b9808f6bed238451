"""Counterfactual runs: the same texts many times, with other codes, from the target upwards."""

from collections.abc import Iterable, Iterator
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.data.documents import Data
from clvq_lens.data.tokens import TokenBatch, one_batch, require_real
from clvq_lens.errors import NothingChangesError, SpliceConflictError
from clvq_lens.host.attachment import Attachment
from clvq_lens.interventions.edit_sequence import apply_edits
from clvq_lens.interventions.edits import Edit
from clvq_lens.interventions.logit_metrics import LogitsFunction, Metric, Reference, columns_of
from clvq_lens.quantizer.draft import Draft, joined

_DECODED_APART = 4  # parts of a batch, each of which is decoded from its own first change


class Counterfactuals:
    """One run of the model on some texts, and any number of others that differ in codes alone.

    Up to the target all of them agree, so only the layers above it are computed again, only for
    texts where an edit changes something, and many edits go into one batch. Edits and splices
    that are open act on all runs.

    Args:
        attachment: A fitted quantizer on its model.
        batch: The texts.
        until: Hook point where runs end; None: they go on to the logits.
        columns: Positions at which logits are computed, the same for all texts or those of each;
            None: all of them.

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
        columns: Int[Tensor, " n"] | Int[Tensor, "b n"] | None = None,
    ) -> None:
        # Runs that begin at the target have no codes of another quantizer: its edit would be lost.
        if not attachment.others_are_idle():
            raise SpliceConflictError(
                f"Another quantizer edits or replaces {attachment.target!r}, where the runs of "
                f"{attachment.name!r} begin. Close its block first."
            )
        self.attachment, self.host, self.batch = attachment, attachment.host, batch
        self.quantizer, self.until, self.columns = attachment.quantizer, until, columns
        inputs = batch.on(self.host.device)
        with attachment.recording() as record, self.host.unembedding(columns):
            if until is None:
                self.outcome = self.host.run(*inputs)
            else:
                self.outcome = self.host.activations(*inputs, [until])[until]
        self.recorded = record[-1]
        self.reconstruction = attachment.reconstruction
        # Decoded once: every other run moves the target by its difference from this one.
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
            recon: Reconstruction of these texts.
            rows: Which texts these are.
            named: Positions that edits name, as `Draft.named`.
        """
        target = self.reconstruction.target_with(
            self.recorded,
            rows,
            clean=self.clean_recon[rows],
            edited=recon,
            named=named,
            splices=self.attachment.blocks.splices,
        )
        rows, name = rows.cpu(), self.attachment.target
        given = name, target, self.batch.tokens[rows], self.batch.attended[rows]
        # The target was recorded as the model made it, so the user's hooks there have yet to act.
        if self.until is None:
            with self.host.unembedding(self._columns_of(rows)):
                return self.host.logits_with(*given, before_hooks=True)
        return self.host.activations_with(*given, until=self.until, before_hooks=True)

    def _columns_of(self, rows: Int[Tensor, " r"]) -> Tensor | None:
        if self.columns is None or self.columns.ndim == 1:
            return self.columns
        return self.columns[rows]

    @torch.no_grad()
    def measure(
        self, drafts: Iterable[Draft], metric: LogitsFunction, *, n: int, desc: str, progress: bool
    ) -> list[float]:
        """A metric of the outcome for each of some drafts.

        Args:
            drafts: The drafts, taken one by one as they are needed.
            metric: A function of the outcome of all texts to one number.
            n: Number of drafts, for the progress bar.
            desc: What the progress bar says.
            progress: Whether to show a progress bar.
        """
        unchanged = float(metric(self.outcome))
        values = []
        outcomes = self.outcomes(drafts)
        for rows, outcome in tqdm(outcomes, desc=desc, total=n, unit="edit", disable=not progress):
            if len(rows) == 0:
                values.append(unchanged)
                continue
            # A metric is of all texts: those that the edit leaves alone are as they were.
            if len(rows) < len(self.outcome):
                outcome = self.outcome.index_copy(0, rows.to(outcome.device), outcome)
            values.append(float(metric(outcome)))
        return values

    @torch.no_grad()
    def outcomes(
        self, drafts: Iterable[Draft]
    ) -> Iterator[tuple[Int[Tensor, " r"], Float[Tensor, "r n d_outcome"]]]:
        """For each of some drafts, the texts where it changes something and their outcome."""
        with self.host.unembedding_often():
            for group in self._groups(drafts):
                rows_of_drafts = [rows for _, rows in group]
                draft = joined([draft for draft, _ in group])
                outcome = self._outcome_of(draft, torch.cat(rows_of_drafts))
                sizes = [len(rows) for rows in rows_of_drafts]
                yield from zip(rows_of_drafts, outcome.split(sizes), strict=True)

    def _outcome_of(self, draft: Draft, rows: Int[Tensor, " r"]) -> Float[Tensor, "r n d"]:
        """The outcome of any number of texts, in as many passes as it takes."""
        outcomes = []
        for index in torch.arange(len(rows), device=rows.device).split(self._rows_per_pass):
            if len(index):
                outcomes.append(self._outcome_of_pass(draft.take(index), rows[index]))
        if not outcomes:
            return self.outcome[:0]
        # Logits are large, so one pass is not copied.
        return outcomes[0] if len(outcomes) == 1 else torch.cat(outcomes)

    def _outcome_of_pass(self, draft: Draft, rows: Int[Tensor, " r"]) -> Float[Tensor, "r n d"]:
        # A decoder begins at the first position that differs in any of its texts, so parts of a
        # batch begin later than the whole.
        recons = []
        for index in torch.arange(len(rows), device=rows.device).chunk(_DECODED_APART):
            recon = self.reconstruction.from_codes(self.recorded, draft.take(index), rows[index])
            recons.append(recon)
        return self.outcome_from(torch.cat(recons), rows, draft.named)

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


def run_on(attachment: Attachment, data: Data, metric: Metric | LogitsFunction) -> Counterfactuals:
    """The run of a few texts whose codes are edited, with the logits that a metric needs.

    Raises:
        EmptyCorpusError: If the texts hold no real token.
        NothingChangesError: If all real tokens are outliers.
        SpliceConflictError: If another quantizer edits or replaces the same target.
    """
    batch = one_batch(attachment.host, data)
    require_real(batch.mask.sum())
    runs = Counterfactuals(attachment, batch, columns=columns_of(metric, [batch]))
    runs.require_tokens()
    return runs


def random_codes(runs: Counterfactuals, seed: int) -> Int[Tensor, "b pos"]:
    """A code for each position, drawn by the shares of the codes in training."""
    # On the CPU, so that a seed gives the same codes on every device.
    generator = torch.Generator().manual_seed(seed)
    shape = runs.batch.tokens.shape
    shares = runs.quantizer.shares.cpu()
    drawn = torch.multinomial(shares, shape.numel(), replacement=True, generator=generator)
    return drawn.view(shape)
