"""Fitting: initialise, train, keep the best, then a frozen pass that gives codes meaning."""

import itertools
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tqdm.auto import tqdm

from clvq_lens.config import MOST_TOKENS, FitConfig
from clvq_lens.errors import ConfigError, EmptyCorpusError, NonFiniteError
from clvq_lens.host.host import Host
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.decoders import TableDecoder
from clvq_lens.quantizer.initialization import Reservoir
from clvq_lens.training.activations import Activations, ActivationSource, ShuffledStream
from clvq_lens.training.documents import Data, Split, open_documents
from clvq_lens.training.frozen import FrozenPass
from clvq_lens.training.history import History, Record
from clvq_lens.training.interrupt import add_each, deferred_interrupt
from clvq_lens.training.objective import Objective, Step
from clvq_lens.training.order import DocumentOrder
from clvq_lens.training.tokens import TokenBatch, check_ids, token_batches
from clvq_lens.training.validation import Best, HeldOut, Window, clone_state

_HELD_OUT_TOKENS = 2**15  # enough for an FVU to the third digit, and little to keep in memory
_INIT_TOKENS_PER_CODE = 128
_READ_PER_TOKEN = 200  # characters, about fifty times as many as a token has
_LEARNING_RATE = 0.05  # times the inverse square root of the width
_MIN_LEARNING_RATE = 0.05  # of the peak, at the end of the cosine

_log = logging.getLogger(__name__)


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
    before = clone_state(quantizer)
    try:
        with _seeded_dropout(quantizer.device, config.seed):
            run = Fit(host, quantizer, source, target, data, config, progress)
            history = run.run()
    except BaseException:
        quantizer.load_state_dict(before)
        raise
    finally:
        quantizer.eval()
    quantizer.fit_config = run.config
    return history


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
        self.host = host
        self.generator = torch.Generator(quantizer.device).manual_seed(config.seed)
        documents = open_documents(data)
        check_ids(host, documents)
        split = Split(documents, config.held_out_fraction)
        # An endless corpus is represented by its beginning, many times as much as is needed.
        self.n_sampled = 2 * _INIT_TOKENS_PER_CODE * quantizer.config.n_codes
        most_read = _READ_PER_TOKEN * max(config.n_tokens or MOST_TOKENS, self.n_sampled)
        seed = self._draw_seed()
        self.order = DocumentOrder(split.training, seed=seed, most_read=most_read)
        most_held_out = round(config.held_out_fraction * most_read)
        self.held_out = DocumentOrder(split.held_out, seed=seed, most_read=most_held_out)
        options = {"long_texts": config.long_texts, "outliers": quantizer.outliers}
        self.activations = ActivationSource(host, source, target, **options)
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
        best = Best(self.quantizer)
        try:
            with _learning(self.quantizer):
                self.train(stream, held_out, best)
        except KeyboardInterrupt:
            self.history.stop = "interrupted"
        self.history.best_step = best.restore_()
        self.frozen_pass(stream)
        self._tell_outliers()
        return self.history

    def initialize(self, stream: ShuffledStream) -> None:
        """Fresh weights, and a codebook from a sample of training tokens."""
        self.quantizer.reset_(self.generator)
        # Of the tokens of some documents, half stay: single tokens from more documents.
        sample = Reservoir(self.n_sampled // 2, generator=self.generator)
        for batch in stream.once(self.n_sampled):
            real = batch.mask
            sample.add_(torch.cat([batch.source[real], batch.target[real]], dim=1))
        if sample.n_seen == 0:
            raise EmptyCorpusError(
                "The data hold no real token: only special tokens such as BOS, or padding. "
                "Pass texts with words in them."
            )
        widths = [self.quantizer.d_source, self.quantizer.d_target]
        source, target = sample.sample().split(widths, dim=1)
        if not self.config.keep_outliers:
            self.quantizer.measure_norms_(source, target)
            kept = ~self.quantizer.outliers(source, target)
            source, target = source[kept], target[kept]
        self.quantizer.initialize_(source, target, generator=self.generator)

    def train(self, stream: ShuffledStream, held_out: HeldOut, best: Best) -> None:
        """Steps over the stream until the tokens are spent or nothing improves any more."""
        window = Window(self.quantizer)
        optimizer = make_optimizer(self.quantizer, self.config)
        per_evaluation = self.budget / self.config.n_evaluations
        start = time.monotonic()
        steps = zip(itertools.count(1), stream, strict=False)
        with tqdm(total=self.budget, desc="fit", unit="tok", disable=not self.progress) as bar:
            for step, batch in steps:
                rate = self._set_learning_rate(optimizer)
                with deferred_interrupt() as pressed:  # a step is done as a whole or not at all
                    window.add(self.train_step(batch, optimizer), batch)
                if pressed():
                    raise KeyboardInterrupt
                self.n_tokens += batch.n_tokens
                bar.update(batch.n_tokens)
                bar.set_postfix(fvu=f"{window.fvu:.3f}", refresh=False)
                done = self.n_tokens >= self.budget
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

    def frozen_pass(self, stream: ShuffledStream) -> None:
        """Records usage and the means of source, encoder output and target on training tokens.

        Interrupted, it records what it has counted by then.
        """
        frozen = FrozenPass(self.quantizer)
        batches = self._shown(self.once(stream), "frozen pass", min(self.budget, stream.n_tokens))
        complete = add_each(batches, frozen.add, desc="frozen pass", progress=False)
        if not complete:
            self.history.stop = "interrupted"
        frozen.record_()
        self.history.n_training_documents = stream.n_documents
        self.history.n_outliers = frozen.n_outliers

    def open_stream(self, *, whole_sequences: bool) -> ShuffledStream:
        """The training documents, as shuffled activations; decides how many tokens to train on.

        Args:
            whole_sequences: Whether a batch consists of sequences or of single tokens.
        """
        stream = ShuffledStream(
            self.activations,
            self.order,
            buffer_tokens=self.config.buffer_tokens,
            batch_tokens=self.config.batch_tokens,
            whole_sequences=whole_sequences,
            generator=self.generator,
            progress=self.progress,
        )
        self.config = self.config.replace(n_tokens=self.config.tokens_for(stream.n_tokens))
        self.history.n_tokens = self.budget
        return stream

    @property
    def budget(self) -> int:
        """Tokens to train on, repetitions counted, once a stream is open."""
        return self.config.n_tokens or MOST_TOKENS

    def once(self, stream: ShuffledStream) -> Iterator[Activations]:
        """All training tokens one time, or as many of them as the fit has: a fair draw."""
        return stream.once(self.budget)

    def tokens(self) -> Iterator[TokenBatch]:
        """The same documents as tokens, without the model; all of them."""
        documents = self.order.epoch(0)
        options = {"long_texts": self.config.long_texts, "generator": self.generator}
        return token_batches(self.host, documents, **options)

    def _held_out_batches(self) -> list[Activations]:
        """A fair draw of held-out documents."""
        counter = itertools.count()
        documents = (doc for doc, _ in zip(self.held_out.epoch(0), counter, strict=False))
        drawn = self.activations.first(documents, _HELD_OUT_TOKENS, generator=self.generator)
        batches = [batch for batch in drawn if batch.n_tokens]
        self.history.n_held_out_documents = next(counter)
        return batches

    def _shown(
        self, batches: Iterator[Activations], desc: str, n_tokens: int
    ) -> Iterator[Activations]:
        """The batches, with a bar that tells how long they will take."""
        with tqdm(desc=desc, total=n_tokens, unit="tok", disable=not self.progress) as bar:
            for batch in batches:
                yield batch
                bar.update(batch.n_tokens)

    def _tell_outliers(self) -> None:
        n_outliers, n_kept = self.history.n_outliers, int(self.quantizer.usage.sum())
        if n_outliers:
            _log.warning(
                "%d of %d training tokens are left out: their activation is more than ten times as "
                "long as that of the median token (longer than %.4g at the source, or %.4g at the "
                "target). keep_outliers=True keeps them.",
                n_outliers,
                n_outliers + n_kept,
                float(self.quantizer.max_source_norm),
                float(self.quantizer.max_target_norm),
            )

    def _draw_seed(self) -> int:
        device = self.generator.device
        return int(torch.randint(2**62, (), generator=self.generator, device=device))

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer) -> float:
        done = self.n_tokens / self.budget
        rate = peak_learning_rate(self.quantizer, self.config)
        rate *= schedule(done, self.config.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate


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


@contextmanager
def _learning(quantizer: CrossLayerQuantizer) -> Iterator[None]:
    """While open, parameters have gradients; afterwards they have none, and no pass keeps any."""
    quantizer.requires_grad_(True)
    try:
        yield
    finally:
        quantizer.requires_grad_(False)
        quantizer.zero_grad(set_to_none=True)


@contextmanager
def _seeded_dropout(device: torch.device, seed: int) -> Iterator[None]:
    """Dropout draws from the global generator of its device, which is lent to it and given back.

    No other device is touched: `torch.manual_seed` would seed all of them.
    """
    with torch.random.fork_rng(devices=[]):  # the CPU's
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.random.fork_rng(devices=[device]), torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
                yield
        elif device.type == "mps":
            before = torch.mps.get_rng_state()
            torch.mps.manual_seed(seed)
            try:
                yield
            finally:
                torch.mps.set_rng_state(before)
        else:
            yield
