"""Fitting: initialise, train, keep the best, then a frozen pass that gives codes meaning."""

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.config import FitConfig
from clvq_lens.errors import ConfigError, EmptyCorpusError, NonFiniteError
from clvq_lens.host.host import Host
from clvq_lens.quantizer.codebook import perplexity_of_usage
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.decoders import TableDecoder
from clvq_lens.quantizer.initialization import Reservoir
from clvq_lens.training.activations import Activations, ActivationSource, ShuffledStream
from clvq_lens.training.documents import Data, Split, open_documents
from clvq_lens.training.history import History, Record
from clvq_lens.training.objective import Objective, Step

_HELD_OUT_TOKENS = 2**15  # enough for an FVU to the third digit, and little to keep in memory
_INIT_TOKENS_PER_CODE = 128
_LEARNING_RATE = 0.05  # times the inverse square root of the width
_MIN_LEARNING_RATE = 0.05  # of the peak, at the end of the cosine


def fit(
    host: Host,
    quantizer: CrossLayerQuantizer,
    source: str,
    target: str,
    data: Data,
    config: FitConfig,
    progress: bool,
) -> History:
    """Fits a quantizer; see `clvq_lens.Lens.fit`."""
    if config.kl_weight > 0 and not host.causal:
        raise ConfigError("kl_weight needs a causal model: an encoder predicts no next token.")
    if config.kl_weight > 0 and quantizer.config.decoder == "table":
        raise ConfigError(
            "kl_weight needs a decoder that learns by gradients, and a table does not. "
            "Pass decoder='transformer' or 'mlp', or kl_weight=0."
        )
    before = _clone_state(quantizer)
    try:
        with _seeded_dropout(quantizer.device, config.seed):
            return Fit(host, quantizer, source, target, data, config, progress).run()
    except BaseException:
        quantizer.load_state_dict(before)
        raise
    finally:
        quantizer.eval()


class Fit:
    """One fit, from the data to the frozen pass.

    Args:
        host: The model whose activations are streamed.
        quantizer: Fitted in place.
        source: Hook point that is read.
        target: Hook point that is reconstructed.
        data: Documents.
        config: How to fit.
        progress: Whether to show a progress bar.
    """

    def __init__(
        self,
        host: Host,
        quantizer: CrossLayerQuantizer,
        source: str,
        target: str,
        data: Data,
        config: FitConfig,
        progress: bool,
    ) -> None:
        self.quantizer, self.config, self.progress = quantizer, config, progress
        self.generator = torch.Generator(quantizer.device).manual_seed(config.seed)
        self.split = Split(open_documents(data), config.held_out_fraction)
        self.activations = ActivationSource(host, source, target, long_texts=config.long_texts)
        self.objective = Objective(host, quantizer, target, config)
        self.history = History()
        self.learns = not isinstance(quantizer.decoder, TableDecoder)
        self.n_tokens = 0

    def run(self) -> History:
        """The whole fit."""
        whole = self.quantizer.config.reads_sequences or self.config.kl_weight > 0
        stream = self.open_stream(whole_sequences=whole)
        self.initialize(stream)
        held_out = HeldOut(self.objective, self._held_out_batches())
        best = _Best(self.quantizer)
        try:
            self.train(stream, held_out, best)
        except KeyboardInterrupt:
            self.history.stop = "interrupted"
        self.history.best_step = best.restore_()
        self.frozen_pass(stream)
        return self.history

    def initialize(self, stream: ShuffledStream) -> None:
        """Fresh weights, and a codebook from a sample of training tokens."""
        self.quantizer.reset_(self.generator)
        capacity = _INIT_TOKENS_PER_CODE * self.quantizer.config.n_codes
        sample = Reservoir(capacity, generator=self.generator)
        for batch in until_enough(stream.once(), 2 * capacity):  # twice as many: it is a sample
            real = batch.mask
            sample.add_(torch.cat([batch.source[real], batch.target[real]], dim=1))
        if sample.n_seen == 0:
            raise EmptyCorpusError(
                "The data hold no real token: only special tokens such as BOS, or padding. "
                "Pass texts with words in them."
            )
        widths = [self.quantizer.d_source, self.quantizer.d_target]
        self.quantizer.initialize_(*sample.sample().split(widths, dim=1), generator=self.generator)

    def train(self, stream: ShuffledStream, held_out: "HeldOut", best: "_Best") -> None:
        """Steps over the stream until the tokens are spent or nothing improves any more."""
        window = _Window(self.quantizer)
        optimizer = make_optimizer(self.quantizer, self.config)
        per_evaluation = self.config.n_tokens / self.config.n_evaluations
        start = time.monotonic()
        steps = zip(itertools.count(1), stream, strict=False)
        with tqdm(total=self.config.n_tokens, unit="tok", disable=not self.progress) as bar:
            for step, batch in steps:
                rate = self._set_learning_rate(optimizer)
                window.add(self.train_step(batch, optimizer), batch)
                self.n_tokens += batch.n_tokens
                bar.update(batch.n_tokens)
                bar.set_postfix(fvu=f"{window.fvu:.3f}", refresh=False)
                done = self.n_tokens >= self.config.n_tokens
                if done or self.n_tokens >= per_evaluation * (len(self.history.records) + 1):
                    record = Record(
                        step=step,
                        n_tokens=self.n_tokens,
                        epoch=stream.position.epoch,
                        wall_s=time.monotonic() - start,
                        learning_rate=rate,
                        **window.take(),
                        **held_out.measure(self.quantizer),
                        n_revived=int(self.quantizer.codebook.n_revived),
                    )
                    self.history.records.append(record)
                    best.offer(record, self.config)
                if done:
                    return
                if best.n_since >= self.config.patience:
                    self.history.stop = "early"
                    return

    def train_step(self, batch: Activations, optimizer: torch.optim.Optimizer) -> Step:
        """One gradient step of encoder and decoder, and one EMA step of the codebook."""
        self.quantizer.train()
        with torch.set_grad_enabled(self.learns):
            step = self.objective.training_step(batch, self.generator)
        if not torch.isfinite(step.loss.total):
            raise NonFiniteError(
                f"The loss became {step.loss.total.detach():g} after {self.n_tokens} tokens. "
                f"Pass a smaller learning_rate, or check the activations' scale."
            )
        if self.learns:
            parameters = list(self.quantizer.parameters())
            optimizer.zero_grad(set_to_none=True)
            step.loss.total.backward(inputs=parameters)  # and none of the model's own
            torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
            optimizer.step()
        elif isinstance(self.quantizer.decoder, TableDecoder):
            decay = self.quantizer.config.ema_decay
            target = batch.target[batch.mask]
            self.quantizer.decoder.update_(step.assignment.codes, target, decay=decay)
        self.quantizer.codebook.update_(step.encoded, step.assignment, generator=self.generator)
        self.quantizer.eval()
        return step

    @torch.no_grad()
    def frozen_pass(self, stream: ShuffledStream) -> None:
        """Records usage and the means of source, encoder output and target on training tokens.

        Interrupted, it records what it has counted by then.
        """
        quantizer = self.quantizer
        k = quantizer.config.n_codes
        usage = torch.zeros(k, dtype=torch.long)  # sums of all batches are on the CPU
        encoded_sums = torch.zeros(k, quantizer.d_source, dtype=torch.double)
        target_sums = torch.zeros(k, quantizer.d_target, dtype=torch.double)
        source_sum = torch.zeros(quantizer.d_source, dtype=torch.double)
        batches = until_enough(stream.once(), self.config.n_tokens)
        try:
            for batch in tqdm(batches, desc="frozen pass", disable=not self.progress):
                source = batch.source[batch.mask]
                source_sum += source.double().sum(0).cpu()
                z = quantizer.encode(source)
                codes = quantizer.codebook.nearest(z)
                _add_by_code(encoded_sums, codes, z)
                _add_by_code(target_sums, codes, batch.target[batch.mask])
                usage += torch.bincount(codes, minlength=k).cpu()
        except KeyboardInterrupt:
            if usage.sum() == 0:
                raise
            self.history.stop = "interrupted"
        self.history.n_training_documents = stream.n_documents
        quantizer.record_(usage, encoded_sums, target_sums, source_sum)

    def open_stream(self, *, whole_sequences: bool) -> ShuffledStream:
        """The training documents, as shuffled activations.

        Args:
            whole_sequences: Whether a batch consists of sequences or of single tokens.
        """
        return ShuffledStream(
            self.activations,
            self.split.training,
            buffer_bytes=self.config.buffer_bytes,
            batch_tokens=self.config.batch_tokens,
            whole_sequences=whole_sequences,
            generator=self.generator,
        )

    def _held_out_batches(self) -> list[Activations]:
        counter = itertools.count()
        documents = (doc for doc, _ in zip(self.split.held_out(), counter, strict=False))
        batches = list(until_enough(self.activations.batches(documents), _HELD_OUT_TOKENS))
        self.history.n_held_out_documents = next(counter)
        return [batch for batch in batches if batch.n_tokens]

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer) -> float:
        done = self.n_tokens / self.config.n_tokens
        rate = peak_learning_rate(self.quantizer, self.config)
        rate *= schedule(done, self.config.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate


class HeldOut:
    """Measures FVU and KL on held-out activations, which are kept in memory.

    Args:
        objective: Gives errors and KL.
        batches: May be empty; then nothing is measured.
    """

    def __init__(self, objective: Objective, batches: list[Activations]) -> None:
        self._objective, self._batches = objective, batches
        if batches:
            target = torch.cat([batch.target[batch.mask] for batch in batches])
            self._n_tokens = len(target)
            self._total = float((target - target.mean(0)).square().sum())

    def measure(self, quantizer: CrossLayerQuantizer) -> dict[str, Any]:
        """Held-out FVU and KL with nearest codes, as fields of a `Record`."""
        if not self._batches:
            return {"held_out_fvu": None, "held_out_kl": None}
        quantizer.eval()
        error, kl, with_kl = 0.0, 0.0, False
        for batch in self._batches:
            loss = self._objective.evaluate(batch)
            error += float(loss.squared_error)
            if loss.kl is not None:
                kl, with_kl = kl + float(loss.kl) * batch.n_tokens, True
        return {
            "held_out_fvu": error / max(self._total, 1e-30),
            "held_out_kl": kl / self._n_tokens if with_kl else None,
        }


class _Window:
    """Sums over the training batches since the last record."""

    def __init__(self, quantizer: CrossLayerQuantizer) -> None:
        self._quantizer = quantizer
        self._clear()

    def _clear(self) -> None:
        self._usage = torch.zeros_like(self._quantizer.usage)
        self._error, self._kl, self._commitment = 0.0, 0.0, 0.0
        self._n_tokens, self._with_kl = 0, False

    def add(self, step: Step, batch: Activations) -> None:
        n_tokens, loss = batch.n_tokens, step.loss
        self._n_tokens += n_tokens
        self._error += float(loss.squared_error)
        self._commitment += float(loss.commitment) * n_tokens
        if loss.kl is not None:
            self._kl, self._with_kl = self._kl + float(loss.kl) * n_tokens, True
        self._usage += torch.bincount(step.assignment.codes, minlength=len(self._usage))

    @property
    def fvu(self) -> float:
        return self._error / (self._n_tokens * float(self._quantizer.target_variance))

    def take(self) -> dict[str, Any]:
        fields = {
            "fvu": self.fvu,
            "kl": self._kl / self._n_tokens if self._with_kl else None,
            "commitment": self._commitment / self._n_tokens,
            "perplexity": perplexity_of_usage(self._usage),
            "n_dead_codes": int((self._usage == 0).sum()),
        }
        self._clear()
        return fields


class _Best:
    """The best weights so far: a copy, because training goes on in the originals."""

    def __init__(self, quantizer: CrossLayerQuantizer) -> None:
        self._quantizer = quantizer
        self._score, self._step = math.inf, 0
        self._state: dict[str, Tensor] | None = None
        self.n_since = 0

    def offer(self, record: Record, config: FitConfig) -> None:
        """Keeps the weights if they are the best on held-out documents, or the latest without."""
        score = -math.inf
        if record.held_out_fvu is not None:
            score = config.recon_weight * record.held_out_fvu
            score += config.kl_weight * (record.held_out_kl or 0.0)
        if score < self._score or score == -math.inf:
            self._score, self._step, self.n_since = score, record.step, 0
            self._state = _clone_state(self._quantizer)
        else:
            self.n_since += 1

    def restore_(self) -> int:
        """Puts the best weights back; tells their step, 0 if there were none yet."""
        if self._state is not None:
            self._quantizer.load_state_dict(self._state)
        return self._step


def until_enough(batches: Iterator[Activations], n_tokens: int) -> Iterator[Activations]:
    """Batches until they hold so many real tokens."""
    for batch in batches:
        yield batch
        n_tokens -= batch.n_tokens
        if n_tokens <= 0:
            return


def make_optimizer(quantizer: CrossLayerQuantizer, config: FitConfig) -> torch.optim.AdamW:
    """AdamW; only matrices of the decoder decay, since the encoder starts at the identity."""
    matrices = [p for p in quantizer.decoder.parameters() if p.ndim > 1]
    others = [p for p in quantizer.decoder.parameters() if p.ndim <= 1]
    others += list(quantizer.encoder.parameters())
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=peak_learning_rate(quantizer, config), betas=(0.9, 0.98))


def peak_learning_rate(quantizer: CrossLayerQuantizer, config: FitConfig) -> float:
    """The one that was asked for, or one that falls with the width, as Adam's steps must."""
    return config.learning_rate or _LEARNING_RATE / math.sqrt(quantizer.d_target)


def schedule(done: float, warmup: float) -> float:
    """Factor of the learning rate: linear warm-up, then a half cosine down to a twentieth."""
    if done < warmup:
        return max(done / warmup, 0.01)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / max(1 - warmup, 1e-9))))
    return _MIN_LEARNING_RATE + (1 - _MIN_LEARNING_RATE) * cosine


def _add_by_code(
    sums: Float[Tensor, "k d"], codes: Int[Tensor, " n"], values: Float[Tensor, "n d"]
) -> None:
    """Adds up the values of each code: a batch in float32 on its device, the total on the CPU."""
    batch = values.new_zeros(sums.shape).index_add_(0, codes, values)
    sums += batch.cpu().double()


@contextmanager
def _seeded_dropout(device: torch.device, seed: int) -> Iterator[None]:
    """Dropout draws from torch's global generator, which is lent to it and given back."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def _clone_state(quantizer: CrossLayerQuantizer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in quantizer.state_dict().items()}
