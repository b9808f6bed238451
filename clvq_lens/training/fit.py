"""Fitting: initialize, train, keep the best, then a frozen pass that gives codes meaning."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from clvq_lens.arguments import check_positive
from clvq_lens.config import FitConfig, FitOptions, fit_config
from clvq_lens.data.documents import Data
from clvq_lens.data.interrupt import noted_termination
from clvq_lens.data.stream import ShuffledStream, StreamState
from clvq_lens.errors import ConfigError, ModelNeededError
from clvq_lens.host.attachment import Attached, Attachment
from clvq_lens.host.modes import require_gradients
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.encoders import PredictiveEncoder
from clvq_lens.training.checkpoint import EVERY_S, Checkpoints, State, check_resume
from clvq_lens.training.frozen import frozen_pass
from clvq_lens.training.history import History
from clvq_lens.training.kept_data import fit_identity, kept_data
from clvq_lens.training.loop import Training
from clvq_lens.training.objective import Objective
from clvq_lens.training.prediction import EncoderTraining
from clvq_lens.training.training_data import HeldOutBatches, TrainingData, sample_of
from clvq_lens.training.validation import Best, HeldOut, clone_state

_log = logging.getLogger(__name__)


def fit(
    lens: Attached,
    data: Data,
    config: FitConfig | None = None,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = EVERY_S,
    resume: bool = False,
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
            longer than the context are split unless ``long_texts`` says otherwise. Or a store that
            `cache_activations` filled, or what `activations` returned: then no model is run.
        config: Options of the fit; None: the defaults.
        checkpoint: Folder for checkpoints, from which a fit that was killed goes on and ends with
            the same bits. Activations of texts are kept there too, so that none is read twice.
        checkpoint_every: Seconds between two checkpoints.
        resume: Whether to go on with the last checkpoint in that folder.
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
        CheckpointError: If there is no checkpoint to go on with, or it is of another fit.
        PathTakenError: If there are checkpoints, and ``resume`` is off.
    """
    attachment = lens.attachment
    attachment.require_attached()
    attachment.require_closed("fit")
    require_gradients("A fit")
    config = fit_config(config, **options)
    quantizer = attachment.quantizer
    _check_kl(attachment, config)
    check_resume(checkpoint, resume=resume)
    before = clone_state(quantizer)
    checkpoints = None
    if checkpoint is not None:
        check_positive("checkpoint_every", checkpoint_every)
        data = kept_data(attachment, data, config, Path(checkpoint), progress=progress)
        checkpoints = Checkpoints(
            checkpoint,
            fit_identity(attachment, data, config),
            every_s=checkpoint_every,
            resume=resume,
        )
    try:
        run = Fit(attachment, data, config, checkpoints=checkpoints, progress=progress)
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
    if config.kl_weight > 0 and not attachment.host.runs:
        raise ModelNeededError(
            "kl_weight compares what the model predicts, and there are only vectors. Pass "
            "kl_weight=0, or attach the lens to the model."
        )
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
        checkpoints: Where checkpoints are written to; None: nowhere.
    """

    def __init__(
        self,
        attachment: Attachment,
        data: Data,
        config: FitConfig,
        *,
        progress: bool,
        learns_codes: bool = True,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.quantizer, self.config, self.progress = attachment.quantizer, config, progress
        self.data = TrainingData(attachment, data, config, progress=progress)
        self.generator = self.data.generator
        self.learns_codes = learns_codes
        self.objective = Objective(attachment, config, samples=learns_codes)
        self.history = History()
        self.checkpoints = checkpoints
        self._terminated: Callable[[], bool] | None = None  # whether SIGTERM has come

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
        with noted_termination() if self.checkpoints else nullcontext() as self._terminated:
            drawn = self.start(stream)
            self.history.n_held_out_documents = drawn.n_documents
            with (
                _seeded_dropout(self.quantizer.device, self.config.seed),
                _learning(self.quantizer, codes=self.learns_codes),
            ):
                best = self._train(stream, drawn)
        self.history.best_step = best.restore_()
        self.give_meaning(stream)
        self._warn_of_outliers()
        return self.history

    def start(self, stream: ShuffledStream) -> HeldOutBatches:
        """Fresh weights, an encoder that predicts if it is to, and a codebook from a sample.

        Returns:
            The documents that are not trained on.
        """
        if (resumed := self._resumed("training")) is not None:
            # What would be started here comes from the checkpoint, limits of outliers among it.
            self.quantizer.load_state_dict(resumed["work"]["quantizer"])
            return self.data.held_out()
        if not self.learns_codes:
            return self._start_decoder(stream)
        self.quantizer.reset_(self.generator)
        source, target = self._ordinary(*self._sample(stream))
        drawn = self.data.held_out()
        if isinstance(self.quantizer.encoder, PredictiveEncoder):
            self.quantizer.encoder.start_(source, target)
            self._learn_to_predict(self.quantizer.encoder, stream, drawn)
        self.quantizer.initialize_(source, target, generator=self.generator)
        return drawn

    def _learn_to_predict(
        self, encoder: PredictiveEncoder, stream: ShuffledStream, drawn: HeldOutBatches
    ) -> None:
        """Trains the encoder, before there are codes."""
        prediction = EncoderTraining(encoder, drawn.batches, self.config, n_tokens=self.budget)
        self._go_on("prediction", prediction, stream)
        try:
            prediction.run(
                stream.single_tokens(),  # tokens of one sequence are alike
                self._saving("prediction", prediction, stream),
                progress=self.progress,
            )
        except KeyboardInterrupt:
            self.history.stop = "interrupted"

    def _train(self, stream: ShuffledStream, drawn: HeldOutBatches) -> Best:
        """Trains codebook and decoder, and gives the best weights."""
        training = Training(
            self.objective,
            self.config,
            self.history,
            HeldOut(self.objective, drawn.batches),
            budget=self.budget,
            generator=self.generator,
            learns_codes=self.learns_codes,
        )
        if self.history.stop == "interrupted":  # codes and decoder stay as they start
            return training.best
        self._go_on("training", training, stream)
        saving = self._saving("training", training, stream)
        try:
            training.run(stream, saving, progress=self.progress)
        except KeyboardInterrupt:
            self.history.stop = "interrupted"
        return training.best

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

    # ---- checkpoints ---------------------------------------------------------------------------

    def _resumed(self, phase: str) -> State | None:
        """What a checkpoint says, if it was written in that phase."""
        state = self.checkpoints.resumed if self.checkpoints is not None else None
        return state if state is not None and state["phase"] == phase else None

    def _go_on(self, phase: str, work: EncoderTraining | Training, stream: ShuffledStream) -> None:
        """Goes on with a checkpoint that was written in that phase."""
        state = self._resumed(phase)
        if state is None:
            return
        work.restore_(state["work"])
        stream.restore_(StreamState(**state["stream"]))
        self.generator.set_state(state["generator"])
        if phase == "training":
            _restore_dropout_(self.quantizer.device, state["dropout"])

    def _saving(
        self, phase: str, work: EncoderTraining | Training, stream: ShuffledStream
    ) -> Callable[[bool], None]:
        """What writes checkpoints between two steps: when it is time, and on Ctrl-C."""

        def state() -> State:
            return {
                "phase": phase,
                "work": work.state(),
                "stream": asdict(stream.state()),
                "generator": self.generator.get_state(),
                "dropout": _dropout_state(self.quantizer.device),
            }

        def save(interrupted: bool) -> None:
            if self.checkpoints is None:
                return
            terminated = self._terminated is not None and self._terminated()
            now = interrupted or work.is_done
            self.checkpoints.after_step(state, now=now, terminated=terminated)

        return save

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


def _dropout_state(device: torch.device) -> State:
    """The state of the generators that dropout draws from."""
    state: State = {"cpu": torch.default_generator.get_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def _restore_dropout_(device: torch.device, state: State) -> None:
    torch.default_generator.set_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["mps"])
