"""Evaluation in one streaming pass: reconstruction, reliance on codes, and effect in the model."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.config import LongTexts
from clvq_lens.errors import EmptyCorpusError
from clvq_lens.evaluation.bootstrap import BootstrapSums, Estimate
from clvq_lens.evaluation.labels import DocumentLabels, TokenLabels
from clvq_lens.evaluation.metrics import ce_loss_recovered
from clvq_lens.evaluation.norms import LogHistogram, Norms, point_norms
from clvq_lens.evaluation.recovery import Recovery, concept_recovery
from clvq_lens.evaluation.report import Report
from clvq_lens.host.host import Host
from clvq_lens.quantizer.codebook import perplexity_of_usage
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.precision import in_double
from clvq_lens.training.activations import check_finite
from clvq_lens.training.documents import Data, open_documents
from clvq_lens.training.objective import kl_divergence
from clvq_lens.training.tokens import TokenBatch, token_batches

Sums = Mapping[str, np.ndarray]
_Statistic = Callable[[Sums], np.ndarray]
_ROUNDING = 1e-9  # of a sum of squares, that a difference of two such sums may be off by
_RECOVERY_TOKENS = 2**15  # k-means on more would take longer than all the rest


def evaluate(
    host: Host,
    quantizer: CrossLayerQuantizer,
    source: str,
    target: str,
    data: Data,
    *,
    labels: TokenLabels | None = None,
    long_texts: LongTexts = "split",
    n_replicates: int = 1_000,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Measures a fitted quantizer on data that it was not fitted on.

    Args:
        host: The model.
        quantizer: Fitted.
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        data: Documents, as for fitting.
        labels: The true concept of every real token of every document, to add concept recovery.
        long_texts: What to do with a text beyond the context.
        n_replicates: Of the bootstrap over documents.
        seed: Of the bootstrap, of random codes and of k-means.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: If ``n_replicates`` or ``seed`` has an impossible value.
        EmptyCorpusError: If the data hold no real token.
        DataError: If labels do not match the tokens.
        NonFiniteError: If activations hold NaN or infinity.
    """
    quantizer.eval()
    run = Evaluation(host, quantizer, source, target, labels, n_replicates, seed)
    batches = token_batches(host, open_documents(data), long_texts=long_texts)
    for batch in tqdm(batches, desc="evaluate", unit="batch", disable=not progress):
        run.add(batch)
    return run.report()


class Evaluation:
    """Sums over batches, from which the report is made.

    Args:
        host: The model.
        quantizer: Fitted.
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        labels: Of every real token of every document, or None.
        n_replicates: Of the bootstrap.
        seed: Of bootstrap, random codes and k-means.
    """

    def __init__(
        self,
        host: Host,
        quantizer: CrossLayerQuantizer,
        source: str,
        target: str,
        labels: TokenLabels | None,
        n_replicates: int,
        seed: int,
    ) -> None:
        self.host, self.quantizer, self.source, self.target = host, quantizer, source, target
        self.sums = BootstrapSums(n_replicates=n_replicates, seed=seed)
        self.usage = torch.zeros_like(quantizer.usage)
        self.n_documents = 0
        self.generator = torch.Generator(quantizer.device).manual_seed(seed)
        self.recovery = None if labels is None else _LabelledTokens(labels, seed)
        self.seed = seed
        self.source_norms, self.target_norms = LogHistogram(), LogHistogram()
        self.errors = LogHistogram()
        self.n_outliers = 0
        self.function = _FUNCTION if host.predicts_tokens else _OF_OTHER_OUTPUTS
        if host.outputs_tokens and not host.causal:
            self.function = {}  # an encoder repeats the tokens that it sees

    @torch.no_grad()
    def add(self, batch: TokenBatch) -> None:
        """Runs the model, clean and changed, on one batch."""
        tokens, attended = batch.tokens.to(self.host.device), batch.attended.to(self.host.device)
        found: dict[str, Tensor] = {}
        with self.host.reading([self.source, self.target], found):
            clean_logits = self.host.run(tokens, attended)
        x = found[self.source].float()
        y = found[self.target].float().to(x.device)
        mask, attended = batch.mask.to(x.device), attended.to(x.device)
        check_finite(x[attended], self.source)
        check_finite(y[attended], self.target)
        mask = self._without_outliers(x, y, mask)
        encoded = self.quantizer.encode(x)
        codes = self.quantizer.codebook.nearest(encoded)
        quantized = self.quantizer.codebook(codes)
        recon = self._decode(quantized, encoded, attended)
        values = self._reconstruction(y, recon, quantized, encoded, mask, attended)
        if self.function:
            values |= self._function(y, recon, clean_logits, tokens, mask, attended)
        numbers = {name: value.cpu().double().numpy() for name, value in values.items()}
        self.sums.add(batch.documents, numbers)
        self.usage += torch.bincount(codes[mask], minlength=len(self.usage))
        self.n_documents += sum(batch.part(row).piece == 0 for row in range(len(batch.documents)))
        if self.recovery is not None:
            self.recovery.add(batch, mask.cpu(), codes.cpu(), x.cpu())

    def _without_outliers(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """The mask without tokens whose activation is too long; counts and measures all."""
        for norms, values in ((self.source_norms, x), (self.target_norms, y)):
            norms.add(torch.linalg.vector_norm(values[mask], dim=-1).cpu().numpy())
        long = self.quantizer.outliers(x, y) & mask
        self.n_outliers += int(long.sum())
        return mask & ~long

    def _decode(self, quantized: Tensor, encoded: Tensor, attended: Tensor) -> Tensor:
        key_mask = None if self.quantizer.causal else attended
        return self.quantizer.decode(quantized, encoded=encoded, key_mask=key_mask)

    def _reconstruction(
        self,
        y: Tensor,
        recon: Tensor,
        quantized: Tensor,
        encoded: Tensor,
        mask: Tensor,
        attended: Tensor,
    ) -> dict[str, Tensor]:
        """Sums per sequence for the FVU and its controls."""
        quantizer = self.quantizer
        shape = mask.shape
        drawn = torch.multinomial(
            quantizer.shares, mask.numel(), replacement=True, generator=self.generator
        )
        random = self._decode(quantizer.codebook(drawn.view(shape)), encoded, attended)
        centered = (y - quantizer.target_mean) * mask.unsqueeze(-1)
        self.errors.add((y - recon)[mask].square().sum(-1).cpu().numpy())
        values = {
            "n": mask.sum(1),
            "error": _squared_error(y, recon, mask),
            "error_random": _squared_error(y, random, mask),
            "sum": centered.sum(1),
            "squares": in_double(centered).square().sum((1, 2)),
        }
        if quantizer.config.decoder_memory == "encoder":
            n = int(attended.sum())
            order = torch.randperm(n, generator=self.generator, device=self.generator.device)
            shuffled = encoded.clone()
            shuffled[attended] = encoded[attended][order]
            kept = self._decode(quantized, shuffled, attended)
            values["error_shuffled"] = _squared_error(y, kept, mask)
        return values

    def _function(
        self,
        y: Tensor,
        recon: Tensor,
        clean_logits: Tensor,
        tokens: Tensor,
        mask: Tensor,
        attended: Tensor,
    ) -> dict[str, Tensor]:
        """Sums per sequence of cross-entropy and KL: predictions of real tokens at real tokens.

        Where outputs are no tokens, there is only the KL of outputs at all real tokens.
        """
        predicts, n_positions = mask, mask.shape[1]
        if self.host.predicts_tokens:
            predicts, n_positions = mask[:, :-1] & mask[:, 1:], n_positions - 1
        predicts = predicts.to(clean_logits.device)
        following = tokens[:, 1:].to(clean_logits.device)
        clean = clean_logits[:, :n_positions].float().log_softmax(-1)
        replacements = {
            "spliced": recon,
            "mean_ablated": self.quantizer.target_mean.expand_as(y),
            "zero_ablated": torch.zeros_like(y),
        }
        values = {"n_predictions": predicts.sum(1)}
        if self.host.predicts_tokens:
            values["ce_clean"] = _ce(clean, following, predicts)
        for name, replacement in replacements.items():
            changed = torch.where(mask.unsqueeze(-1), replacement, y)
            logits = self.host.logits_with(self.target, changed, tokens, attended)
            logits = logits[:, :n_positions]
            if self.host.predicts_tokens:
                values[f"ce_{name}"] = _ce(logits.float().log_softmax(-1), following, predicts)
            if name != "zero_ablated":
                values[f"kl_{name}"] = (kl_divergence(clean, logits) * predicts).sum(1)
        return values

    def report(self) -> Report:
        """The numbers, with intervals."""
        n_tokens = int(self.usage.sum())
        if n_tokens == 0:
            raise EmptyCorpusError(
                "The data hold no real token: only special tokens such as BOS, or padding. "
                "Pass texts with words in them."
            )
        estimate = self.sums.estimate
        has_memory = self.quantizer.config.decoder_memory == "encoder"
        function: dict[str, Estimate | None] = dict.fromkeys(_FUNCTION)
        for name, statistic in self.function.items() if self._has_predictions else ():
            function[name] = estimate(statistic)
        fvu = estimate(lambda s: s["error"] / _total(s))
        variance = float(estimate(lambda s: _total(s) / s["n"]))
        return Report(
            n_codes=self.quantizer.config.n_codes,
            n_tokens=n_tokens,
            n_documents=self.n_documents,
            fvu=fvu,
            fvu_median=self.errors.median() / variance if variance > 0 else math.nan,
            fvu_random_codes=estimate(lambda s: s["error_random"] / _total(s)),
            fvu_shuffled_memory=(
                estimate(lambda s: s["error_shuffled"] / _total(s)) if has_memory else None
            ),
            perplexity=perplexity_of_usage(self.usage),
            n_dead_codes=int((self.usage == 0).sum()),
            n_outliers=self.n_outliers,
            norms=self._norms(),
            recovery=self._recovery(),
            left_out=self._left_out(has_fvu=not np.isnan(fvu)),
            **function,
        )

    def _norms(self) -> Norms:
        limits = self.quantizer.max_source_norm, self.quantizer.max_target_norm
        return Norms(
            point_norms("source", self.source_norms, float(limits[0])),
            point_norms("target", self.target_norms, float(limits[1])),
        )

    @property
    def _has_predictions(self) -> bool:
        return bool(self.sums.estimate(lambda s: s.get("n_predictions", s["n"])))

    def _left_out(self, *, has_fvu: bool) -> str | None:
        """What the model or these data give no meaning to, in words."""
        cfg, reasons = self.host.cfg, []
        if not has_fvu:
            reasons.append("All tokens have the same target, so it has no variance and no FVU.")
        if not self.host.outputs_tokens:
            reasons.append(
                f"The model has {cfg.d_vocab_out} outputs for {cfg.d_vocab} tokens, so it predicts "
                f"no next token: cross-entropy is left out, and KL is that of the outputs."
            )
        elif not self.host.causal:
            reasons.append("An encoder predicts no next token: cross-entropy and KL are left out.")
        elif not self._has_predictions:
            reasons.append(
                "No real token is followed by another one: cross-entropy and KL are left out."
            )
        return " ".join(reasons) or None

    def _recovery(self) -> Recovery | None:
        if self.recovery is None:
            return None
        self.recovery.labels.check_all_used()
        n_codes = self.quantizer.config.n_codes
        return concept_recovery(*self.recovery.arrays(), n_codes=n_codes, seed=self.seed)


class _LabelledTokens:
    """Codes, activations, tokens and labels of a fair draw of tokens, for concept recovery."""

    def __init__(self, labels: TokenLabels, seed: int) -> None:
        self.labels = DocumentLabels(labels)
        self._random = np.random.default_rng(seed)
        self._parts: list[dict[str, np.ndarray]] = []
        self._n_waiting = 0

    def add(self, batch: TokenBatch, mask: Tensor, codes: Tensor, source: Tensor) -> None:
        """Takes the tokens of a batch.

        Args:
            batch: Whose real tokens have a label each.
            mask: True on those that are looked at: the real ones without outliers.
            codes: The code of each position.
            source: Activations at the source.
        """
        names: list[str] = []
        for row in range(len(batch.documents)):
            names += self.labels.of_row(batch, row)
        kept = mask[batch.mask].numpy()
        part = {
            "key": self._random.random(int(kept.sum())),
            "codes": codes[mask].numpy(),
            "source": source[mask].numpy(),
            "tokens": batch.tokens[mask].numpy(),
            "names": np.array(names, dtype=object)[kept],
        }
        self._parts.append(part)
        self._n_waiting += len(part["key"])
        if self._n_waiting > 2 * _RECOVERY_TOKENS:
            self._draw()

    def _draw(self) -> dict[str, np.ndarray]:
        """The tokens with the lowest keys: a fair draw, however many come later."""
        joined = {
            name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]
        }
        order = np.argsort(joined["key"], kind="stable")[:_RECOVERY_TOKENS]
        drawn = {name: values[order] for name, values in joined.items()}
        self._parts, self._n_waiting = [drawn], len(order)
        return drawn

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Codes, activations, token ids and labels."""
        drawn = self._draw()
        return drawn["codes"], drawn["source"], drawn["tokens"], drawn["names"].tolist()


def _squared_error(
    y: Float[Tensor, "b pos d"], recon: Float[Tensor, "b pos d"], mask: Bool[Tensor, "b pos"]
) -> Float[Tensor, " b"]:
    return in_double((y - recon).square().sum(-1) * mask).sum(1)


def _ce(log_probabilities: Tensor, following: Tensor, predicts: Tensor) -> Float[Tensor, " b"]:
    chosen = log_probabilities.gather(-1, following.unsqueeze(-1)).squeeze(-1)
    return -in_double(chosen * predicts).sum(1)


def _total(s: Sums) -> np.ndarray:
    """sum ||y - mean(y)||^2 from sums that were shifted by the training mean.

    NaN where only rounding is left of it, since all activations are the same.
    """
    total = s["squares"] - (s["sum"] ** 2).sum(-1) / s["n"]
    return np.where(total > _ROUNDING * s["squares"], total, np.nan)


def _per_prediction(name: str) -> _Statistic:
    return lambda s: s[name] / s["n_predictions"]


def _recovered(ablated: str) -> _Statistic:
    return lambda s: ce_loss_recovered(s["ce_clean"], s["ce_spliced"], s[ablated])


_FUNCTION = {
    "ce_clean": _per_prediction("ce_clean"),
    "ce_spliced": _per_prediction("ce_spliced"),
    "ce_mean_ablated": _per_prediction("ce_mean_ablated"),
    "ce_zero_ablated": _per_prediction("ce_zero_ablated"),
    "kl": _per_prediction("kl_spliced"),
    "kl_mean_ablated": _per_prediction("kl_mean_ablated"),
    "ce_loss_recovered": _recovered("ce_mean_ablated"),
    "ce_loss_recovered_zero": _recovered("ce_zero_ablated"),
}
_OF_OTHER_OUTPUTS = {name: _FUNCTION[name] for name in ("kl", "kl_mean_ablated")}
