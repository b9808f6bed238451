"""The survey behind a concept table: one pass over any amount of text, in bounded memory."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clvq_lens.arguments import check_count, check_seed
from clvq_lens.concepts.concept import Concept, Neighbour, TokenLogit, Unembedded
from clvq_lens.concepts.contexts import ContextBatch, Reservoir
from clvq_lens.concepts.numbered_labels import MAX_LABELS, NumberedLabels
from clvq_lens.concepts.profile import Profile
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.concepts.tally import Tally, compact
from clvq_lens.config import LongTexts
from clvq_lens.errors import EmptyCorpusError
from clvq_lens.evaluation.agreement import Agreement, agreement
from clvq_lens.evaluation.labels import TokenLabels
from clvq_lens.evaluation.metrics import entropy
from clvq_lens.host.host import Host
from clvq_lens.quantizer.codebook import squared_distances
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.activations import check_finite
from clvq_lens.training.documents import Data, open_documents
from clvq_lens.training.interrupt import add_each
from clvq_lens.training.tokens import TokenBatch, token_batches

_TOP = 10  # promoted tokens named of each code
_NEAREST = 5  # other codes named of each code
_POSITION_BINS = 1_024  # a longer context is cut into as many equal parts
_CODES_AT_ONCE = 64  # whose logits over the whole vocabulary are held at a time


def concept_table(
    host: Host,
    quantizer: CrossLayerQuantizer,
    source: str,
    data: Data,
    *,
    n_examples: int = 20,
    labels: TokenLabels | None = None,
    long_texts: LongTexts = "split",
    seed: int = 0,
    progress: bool = True,
) -> ConceptTable:
    """What each code means; see `clvq_lens.Lens.concepts`.

    Raises:
        ConfigError: If ``n_examples`` or ``seed`` has an impossible value.
        EmptyCorpusError: If the data hold no real token.
        DataError: If labels do not match the tokens.
        NonFiniteError: If activations hold NaN or infinity.
    """
    check_count("n_examples", n_examples, least=0)
    check_seed(seed)
    quantizer.eval()
    survey = _Survey(host, quantizer, source, n_examples, labels, seed)
    batches = token_batches(host, open_documents(data), long_texts=long_texts)
    complete = add_each(batches, survey.add, desc="concepts", progress=progress)
    return survey.table(complete=complete)


class _Survey:
    """Counts, sums and examples of every code."""

    def __init__(
        self,
        host: Host,
        quantizer: CrossLayerQuantizer,
        source: str,
        n_examples: int,
        labels: TokenLabels | None,
        seed: int,
    ) -> None:
        self.host, self.quantizer, self.source = host, quantizer, source
        self.seed, self.n_codes = seed, quantizer.config.n_codes
        self.unit = float(quantizer.codebook.mean_distance)
        self.random = np.random.default_rng(seed)
        self.tokens = Tally(self.n_codes, host.cfg.d_vocab)
        self.bin_width = -(-host.n_context // _POSITION_BINS)
        self.positions = Tally(self.n_codes, _POSITION_BINS)
        self.recon_sums = quantizer.mean_target.new_zeros(self.n_codes, quantizer.d_target)
        self.labels = None
        if labels is not None:
            self.labels = _LabelCounts(self.n_codes, host.cfg.d_vocab, labels)
        self.typical = Reservoir(self.n_codes, n_examples, distinct=True)
        self.borderline = Reservoir(self.n_codes, n_examples, distinct=True)
        self.drawn = Reservoir(self.n_codes, n_examples, distinct=False)

    @torch.no_grad()
    def add(self, batch: TokenBatch) -> None:
        """Counts one batch."""
        attended = batch.attended.to(self.host.device)
        found = self.host.activations(batch.tokens.to(self.host.device), attended, [self.source])
        x = found[self.source]
        attended, real = attended.to(x.device), batch.mask.to(x.device)
        check_finite(x[attended], self.source)
        mask = real & ~self.quantizer.outliers(x)
        numbers = None
        if self.labels is not None:  # there is one for every real token, outliers among them
            numbers = self.labels.of(batch, mask.cpu())
        batch = replace(batch, mask=mask.cpu())
        encoded = self.quantizer.encode(x)
        flat = encoded.flatten(0, 1)
        nearest = self.quantizer.codebook.nearest_and_margin(flat)
        self._add_recon(nearest.codes.view(mask.shape), encoded, attended, mask)
        counted = mask.flatten()
        codes, distance, margin = (
            part[counted].cpu().numpy()
            for part in (nearest.codes, nearest.distance, nearest.margin)
        )
        self._count(batch, codes)
        if self.labels is not None and numbers is not None:
            self.labels.add(batch, codes, numbers)
        contexts = ContextBatch(batch, codes, distance / self.unit, margin / self.unit)
        self.typical.offer(contexts, -distance)
        self.borderline.offer(contexts, -margin)
        self.drawn.offer(contexts, self.random.random(len(codes)))

    def _add_recon(self, codes: Tensor, encoded: Tensor, attended: Tensor, mask: Tensor) -> None:
        key_mask = None if self.quantizer.causal else attended
        vectors = self.quantizer.codebook(codes)
        recon = self.quantizer.decode(vectors, encoded=encoded, key_mask=key_mask)
        self.recon_sums.index_add_(0, codes[mask], recon[mask])

    def _count(self, batch: TokenBatch, codes: Int[np.ndarray, " n"]) -> None:
        self.tokens.add(codes, batch.tokens[batch.mask].numpy())
        positions = batch.mask.nonzero()[:, 1].numpy()
        self.positions.add(codes, positions // self.bin_width)

    def table(self, *, complete: bool) -> ConceptTable:
        """What was found."""
        vocabulary = self.host.vocabulary
        tokens = Profile(self.tokens, lambda ids: vocabulary.names(torch.from_numpy(ids)))
        n_tokens = int(tokens.usage.sum())
        if n_tokens == 0:
            raise EmptyCorpusError("The data hold no real token. Pass texts with words in them.")
        positions = self.positions.dense()
        used = np.flatnonzero(tokens.usage)
        counts = torch.from_numpy(tokens.usage[used]).to(self.recon_sums)
        recon = self.recon_sums[used] / counts.unsqueeze(1)
        at_target = self._read_out(used, recon, counts / n_tokens)
        direct = self._read_out(used, self.quantizer.codebook.vectors[used], counts / n_tokens)
        reservoirs = (self.typical, self.borderline, self.drawn)
        typical, borderline, drawn = (kept.examples(vocabulary) for kept in reservoirs)
        nearest = self._nearest()
        labels = None if self.labels is None else self.labels.profile(complete=complete)
        concepts = tuple(
            Concept(
                code=code,
                name="",
                usage=int(tokens.usage[code]),
                share=float(tokens.usage[code] / n_tokens),
                tokens=tokens.commonest(code),
                distinctive=tokens.distinctive(code),
                typical=typical.get(code, ()),
                borderline=borderline.get(code, ()),
                random=drawn.get(code, ()),
                at_target=at_target.get(code),
                direct=direct.get(code),
                token_entropy=tokens.entropy(code),
                position_entropy=entropy(positions[code]),
                nearest=nearest[code],
                labels=() if labels is None else labels.commonest(code),
            )
            for code in range(self.n_codes)
        )
        return ConceptTable(
            concepts=concepts,
            n_tokens=n_tokens,
            token_entropy=entropy(tokens.totals),
            position_entropy=entropy(positions.sum(0)),
            complete=complete,
            **({} if self.labels is None else self.labels.agreements(self.seed)),
        )

    def _read_out(
        self, used: Int[np.ndarray, " n"], vectors: Float[Tensor, "n d"], shares: Tensor
    ) -> dict[int, Unembedded]:
        """What a vector of each code in use says about the next token, if it can say anything."""
        if vectors.shape[1] != self.host.cfg.d_model:
            return {}
        said = through_unembedding(self.host, vectors, shares)
        return dict(zip(used.tolist(), said, strict=True))

    def _nearest(self) -> list[tuple[Neighbour, ...]]:
        vectors = self.quantizer.codebook.vectors
        distances = squared_distances(vectors, vectors) / self.unit
        distances.fill_diagonal_(torch.inf)
        found = distances.topk(min(_NEAREST, self.n_codes - 1), dim=1, largest=False)
        rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [tuple(map(Neighbour, *row)) for row in rows]


class _LabelCounts:
    """Known labels in each code, and of each token for comparison."""

    def __init__(self, n_codes: int, d_vocab: int, labels: TokenLabels) -> None:
        self._labels = NumberedLabels(labels)
        self._by_code = Tally(n_codes, MAX_LABELS)
        self._by_token = Tally(d_vocab, MAX_LABELS)

    def of(self, batch: TokenBatch, mask: Tensor) -> Int[np.ndarray, " n"]:
        """The labels of the real tokens of a batch that count, as numbers."""
        return self._labels.of(batch, mask)

    def add(
        self, batch: TokenBatch, codes: Int[np.ndarray, " n"], numbers: Int[np.ndarray, " n"]
    ) -> None:
        """Counts the labels of the tokens in the mask of a batch, row by row."""
        self._by_code.add(codes, numbers)
        self._by_token.add(batch.tokens[batch.mask].numpy(), numbers)

    def profile(self, *, complete: bool) -> Profile:
        """Their distribution in each code."""
        if complete:
            self._labels.check_all_used()
        names = self._labels.names
        return Profile(self._by_code, lambda numbers: [names[number] for number in numbers])

    def agreements(self, seed: int) -> dict[str, Agreement | None]:
        """Of codes with labels, and of token identity with labels."""
        found = {}
        for name, tally in (("agreement", self._by_code), ("token_identity", self._by_token)):
            (rows, numbers), counts = tally.entries()
            found[name] = agreement(compact(rows, numbers, counts), seed=seed)
        return found


def through_unembedding(
    host: Host, vectors: Float[Tensor, "n d_model"], shares: Float[Tensor, " n"]
) -> Iterator[Unembedded]:
    """What each vector says about the next token, beyond what they say on average.

    Logits have an arbitrary level, so each row is taken relative to its mean over the vocabulary.
    Special tokens are left out: a model is seldom trained to predict them. Where logits are of
    something else than tokens, all of them count.
    """
    ids = torch.arange(host.cfg.d_vocab_out)
    if host.outputs_tokens:
        ids = ids[~torch.isin(ids, host.vocabulary.unwritten)]

    def logits_of(part: Tensor) -> Tensor:
        logits = host.unembed(part)[:, ids]
        return logits - logits.mean(1, keepdim=True)

    parts = vectors.split(_CODES_AT_ONCE)
    weights = shares.split(_CODES_AT_ONCE)
    average = sum(w @ logits_of(part) for w, part in zip(weights, parts, strict=True))
    for part in parts:
        above = logits_of(part) - average
        n = min(_TOP, above.shape[1])
        high, low = above.topk(n, dim=1), above.topk(n, dim=1, largest=False)
        for row in range(len(part)):
            yield Unembedded(
                promoted=_token_logits(host, ids[high.indices[row].cpu()], high.values[row]),
                suppressed=_token_logits(host, ids[low.indices[row].cpu()], low.values[row]),
            )


def _token_logits(host: Host, ids: Tensor, logits: Tensor) -> tuple[TokenLogit, ...]:
    return tuple(map(TokenLogit, host.vocabulary.output_names(ids), logits.tolist()))
