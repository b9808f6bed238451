"""Fitting: initialize, train, keep the best, then a frozen pass that gives codes meaning."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Unpack

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from clvq_lens.config import FitConfig, FitOptions, fit_config
from clvq_lens.data.activations import Activations
from clvq_lens.data.documents import Data
from clvq_lens.data.interrupt import deferred_interrupt
from clvq_lens.data.stream import ShuffledStream
from clvq_lens.errors import ConfigError, NonFiniteError
from clvq_lens.host.attachment import Attached, Attachment
from clvq_lens.host.modes import require_gradients
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.decoders import TableDecoder
from clvq_lens.quantizer.encoders import PredictiveEncoder
from clvq_lens.training.frozen import frozen_pass
from clvq_lens.training.history import History, Record
from clvq_lens.training.objective import Objective, Step
from clvq_lens.training.prediction import learn_to_predict_
from clvq_lens.training.schedule import BETAS, peak_learning_rate, schedule
from clvq_lens.training.training_data import HeldOutBatches, TrainingData, sample_of
from clvq_lens.training.validation import Best, HeldOut, Window, clone_state

_log = logging.getLogger(__name__)


def fit(
    lens: Attached,
    data: Data,
    config: FitConfig | None = None,
    *,
    progress: bool = True,
    **options: Unpack[FitOptions],
) -> History:
    """Fits the quantizer on activations streamed from the model.

    A fit starts anew when called again. Interrupted with Ctrl-C, it keeps what was learned; after
    any other error, and before the codebook is started, the quantizer is what it was before.

    Args:
        lens: The lens whose quantizer is fitted.
        data: Texts, a path to a .txt or .jsonl file, or a Hugging Face dataset; a tensor of tokens
            [row, pos], padded left or right; or what a tokenizer returns, with its mask. Texts
            longer than the context are split unless ``long_texts`` says otherwise.
        config: Options of the fit; None: the defaults.
        progress: Whether to show progress bars.
        **options: Options of `FitConfig` by name.

    Returns:
        Losses and validation over time, with ``.frame()`` and ``.plot()``.

    Raises:
        EmptyCorpusError: If the data hold no real token.
        TooFewTokensError: If the data hold fewer distinct tokens than there are codes.
        TextTooLongError: If a text is longer than the context and ``long_texts`` is "error".
        NonFiniteError: If activations, or the loss, become NaN or infinity.
        ConfigError: If an option does not exist or does not suit the model or the decoder.
        OpenBlockError: Inside a block of this lens, such as an edit.
        ModeError: Under ``torch.inference_mode()``.
    """
    attachment = lens.attachment
    attachment.require_attached()
    attachment.require_closed("fit")
    require_gradients("A fit")
    config = fit_config(config, **options)
    quantizer = attachment.quantizer
    _check_kl(attachment, config)
    before = clone_state(quantizer)
    try:
        run = Fit(attachment, data, config, progress=progress)
        history = run.run()
    except BaseException:
        quantizer.load_state_dict(before)
        raise
    finally:
        quantizer.eval()
    # The number of tokens that was found, so that a baseline or a refit reads as many.
    quantizer.fit_config = config.replace(n_tokens=run.data.n_tokens)
    attachment.recognize_model()
    return history


def _check_kl(attachment: Attachment, config: FitConfig) -> None:
    if config.kl_weight > 0 and not attachment.host.causal:
        raise ConfigError("kl_weight needs a causal model: an encoder predicts no next token.")
    if config.kl_weight > 0 and attachment.quantizer.config.decoder == "table":
        raise ConfigError(
            "kl_weight needs a decoder that learns by gradients, and a table does not. "
            "Pass decoder='transformer' or 'mlp', or kl_weight=0."
        )


class Fit:
    """One fit, from the data to the frozen pass.

    Args:
        attachment: The quantizer, which is fitted in place, on its model.
        data: Documents.
        config: Options of the fit.
        progress: Whether to show progress bars.
        learns_codes: Whether encoder and codebook are fitted too; else the decoder alone is.
    """

    def __init__(
        self,
        attachment: Attachment,
        data: Data,
        config: FitConfig,
        *,
        progress: bool,
        learns_codes: bool = True,
    ) -> None:
        self.quantizer, self.config, self.progress = attachment.quantizer, config, progress
        self.data = TrainingData(attachment, data, config, progress=progress)
        self.generator = self.data.generator
        self.learns_codes = learns_codes
        self.objective = Objective(attachment, config, samples=learns_codes)
        self.history = History()
        self.n_tokens = 0

    @property
    def learns(self) -> bool:
        """Whether anything is learned by gradients."""
        return not isinstance(self.quantizer.decoder, TableDecoder)

    @property
    def budget(self) -> int:
        """Tokens to train on, repetitions counted."""
        return self.data.n_tokens

    def run(self) -> History:
        """The whole fit."""
        # The layers above the target read sequences as a transformer decoder does.
        whole = self.quantizer.config.reads_sequences or self.config.kl_weight > 0
        stream = self.data.open(whole_sequences=whole)
        self.history.n_tokens = self.budget
        drawn = self.start(stream)
        self.history.n_held_out_documents = drawn.n_documents
        held_out = HeldOut(self.objective, drawn.batches)
        best = Best(self.quantizer)
        try:
            with (
                _seeded_dropout(self.quantizer.device, self.config.seed),
                _learning(self.quantizer, codes=self.learns_codes),
            ):
                if self.history.stop != "interrupted":  # else codes and decoder stay as they start
                    self.train(stream, held_out, best)
        except KeyboardInterrupt:
            self.history.stop = "interrupted"
        self.history.best_step = best.restore_()
        self.give_meaning(stream)
        self._warn_of_outliers()
        return self.history

    def start(self, stream: ShuffledStream) -> HeldOutBatches:
        """Fresh weights, an encoder that predicts if it is to, and a codebook from a sample.

        Returns:
            The documents that are not trained on.
        """
        if not self.learns_codes:
            return self._start_decoder(stream)
        self.quantizer.reset_(self.generator)
        source, target = self._ordinary(*self._sample(stream))
        encoder = self.quantizer.encoder
        if not isinstance(encoder, PredictiveEncoder):
            self.quantizer.initialize_(source, target, generator=self.generator)
            return self.data.held_out()
        drawn = self.data.held_out()
        encoder.start_(source, target)
        interrupted = learn_to_predict_(
            encoder,
            stream.single_tokens(),  # tokens of one sequence are alike
            drawn.batches,
            self.config,
            n_tokens=self.budget,
            progress=self.progress,
        )
        if interrupted:
            self.history.stop = "interrupted"
        self.quantizer.initialize_(source, target, generator=self.generator)
        return drawn

    def _start_decoder(self, stream: ShuffledStream) -> HeldOutBatches:
        """A fresh decoder of the codes that there are."""
        source, target = self._sample(stream)
        z = self.quantizer.encode(source)
        self.quantizer.start_decoder_(z, self.quantizer.codebook.nearest(z), target)
        return self.data.held_out()

    def _sample(self, stream: ShuffledStream) -> tuple[Tensor, Tensor]:
        """Source and target of some training tokens."""
        # Half of the tokens of twice as many documents: tokens of one document are alike.
        batches, size = stream.once(self.data.n_initial), self.data.n_initial // 2
        source, target = sample_of(batches, size, "source", "target", generator=self.generator)
        return source, target

    def _ordinary(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """A sample without its outliers, from now on those of the quantizer."""
        if self.config.keep_outliers:
            return source, target
        self.quantizer.measure_norms_(source, target)
        # One outlier could take a code, and the variance would be that of the outliers.
        ordinary = ~self.quantizer.outliers(source, target)
        return source[ordinary], target[ordinary]

    def train(self, stream: ShuffledStream, held_out: HeldOut, best: Best) -> None:
        """Steps over the stream until the tokens are spent or nothing improves any more."""
        window, first_epoch = Window(self.quantizer), stream.epoch
        optimizer = make_optimizer(self.quantizer, self.config)
        start = time.monotonic()
        with tqdm(total=self.budget, desc="fit", unit="tok", disable=not self.progress) as bar:
            for step, batch in enumerate(stream, start=1):
                rate = self._set_learning_rate(optimizer)
                with deferred_interrupt() as pressed:  # a step is done as a whole or not at all
                    window.add(self.train_step(batch, optimizer), batch)
                if pressed():
                    raise KeyboardInterrupt
                self.n_tokens += batch.n_tokens
                bar.update(batch.n_tokens)
                bar.set_postfix(fvu=f"{window.fvu:.3f}", refresh=False)
                done = self.n_tokens >= self.budget
                if done or self._validation_is_due():
                    record = Record(
                        step=step,
                        n_tokens=self.n_tokens,
                        epoch=stream.epoch - first_epoch,
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

    def _validation_is_due(self) -> bool:
        # By tokens and not by steps: batches of sequences hold more or fewer of them.
        per_validation = self.budget / self.config.n_evaluations
        return self.n_tokens >= per_validation * (len(self.history.records) + 1)

    def train_step(self, batch: Activations, optimizer: torch.optim.Optimizer) -> Step:
        """One gradient step of encoder and decoder, and one EMA step of the codebook."""
        self.quantizer.train()
        with torch.set_grad_enabled(self.learns):
            step = self.objective.training_step(batch, self.generator)
        # On every step, because a single one with NaN spoils all weights.
        if not torch.isfinite(step.loss.total):
            raise NonFiniteError(
                f"The loss became {step.loss.total.detach():g} after {self.n_tokens} tokens. "
                f"Pass a smaller learning_rate, or check the activations' scale."
            )
        if self.learns:
            parameters = [p for p in self.quantizer.parameters() if p.requires_grad]
            optimizer.zero_grad(set_to_none=True)
            step.loss.total.backward(inputs=parameters)  # the model keeps its own gradients
            torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
            optimizer.step()
        elif isinstance(self.quantizer.decoder, TableDecoder):
            decay = self.quantizer.config.ema_decay
            target = batch.of_real_tokens("target")
            self.quantizer.decoder.update_(step.assignment.codes, target, decay=decay)
        if self.learns_codes:
            codebook = self.quantizer.codebook
            codebook.update_(step.encoded, step.assignment, generator=self.generator)
        self.quantizer.eval()
        return step

    def give_meaning(self, stream: ShuffledStream) -> None:
        """A frozen pass over the training tokens: what each code stands for."""
        frozen = frozen_pass(self.quantizer, self.data, stream, progress=self.progress)
        if not frozen.complete:
            self.history.stop = "interrupted"
        self.history.n_training_documents = stream.n_documents
        self.history.n_outliers = frozen.n_outliers

    def _warn_of_outliers(self) -> None:
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

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer) -> float:
        done = self.n_tokens / self.budget
        rate = peak_learning_rate(self.config, self.quantizer.d_target)
        rate *= schedule(done, self.config.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate


def make_optimizer(quantizer: CrossLayerQuantizer, config: FitConfig) -> torch.optim.AdamW:
    """AdamW; only matrices of the decoder decay, since the encoder starts at the identity."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in quantizer.decoder.parameters():
        if parameter.ndim > 1:
            matrices.append(parameter)
        else:  # biases, and scales of a layer norm: decay would switch the layer off
            others.append(parameter)
    others += quantizer.encoder.parameters()  # without gradients, those of a frozen one stay
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    peak = peak_learning_rate(config, quantizer.d_target)
    return torch.optim.AdamW(groups, lr=peak, betas=BETAS)


@contextmanager
def _learning(quantizer: CrossLayerQuantizer, *, codes: bool) -> Iterator[None]:
    """While open, what learns by gradients has them: the decoder, and an encoder that follows it.

    Outside a fit, no pass through the quantizer builds a graph.
    """
    quantizer.requires_grad_(True)
    if not codes or quantizer.config.encoder == "predictive":
        quantizer.encoder.requires_grad_(False)  # its codes would drift away from the codebook
    try:
        yield
    finally:
        quantizer.requires_grad_(False)
        quantizer.zero_grad(set_to_none=True)


@contextmanager
def _seeded_dropout(device: torch.device, seed: int) -> Iterator[None]:
    """While open, the global generator of a device is seeded; afterwards it is as before.

    Dropout takes no generator and draws from the global one. `torch.manual_seed` would seed all
    devices, and no other one is touched here.
    """
    with torch.random.fork_rng(devices=[]):  # no device listed: the generator of the CPU
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
