"""One fit, phase by phase: start, encoder, codebook and decoder, and the frozen pass."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace

from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.config import FitConfig
from clvq_lens.data.documents import Data
from clvq_lens.data.interrupt import noted_termination
from clvq_lens.data.stream import ShuffledStream, StreamState
from clvq_lens.host.attachment import Attachment
from clvq_lens.processes import ALONE, Processes
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.encoders import PredictiveEncoder
from clvq_lens.quantizer.sae_prediction import SAEPrediction
from clvq_lens.training.callback import Callback, FitStart, reported
from clvq_lens.training.checkpoint import Checkpoints, State
from clvq_lens.training.dropout import borrowed_generators
from clvq_lens.training.frozen import frozen_pass
from clvq_lens.training.history import History, Record
from clvq_lens.training.loop import Training
from clvq_lens.training.objective import Objective
from clvq_lens.training.phase_clock import PhaseClock
from clvq_lens.training.prediction import EncoderTraining
from clvq_lens.training.training_data import HeldOutBatches, TrainingData, sample_of
from clvq_lens.training.validation import Best, HeldOut

_log = logging.getLogger(__name__)


class Fit:
    """One fit, from the data to the frozen pass.

    Args:
        attachment: The quantizer, which is fitted in place, on its model.
        data: Documents.
        config: Options of the fit.
        progress: Whether to show progress bars.
        learns_codes: Whether encoder and codebook are fitted too; else the decoder alone is.
        checkpoints: Where checkpoints are written to; None: nowhere.
        callbacks: What is told how the fit goes on.
        processes: Who shares every step.
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
        callbacks: Sequence[Callback] = (),
        processes: Processes = ALONE,
    ) -> None:
        progress = progress and processes.is_first
        self.attachment = attachment
        self.callbacks = callbacks if processes.is_first else ()  # the first one tells it for all
        self.quantizer, self.config, self.progress = attachment.quantizer, config, progress
        self.processes = processes
        self.data = TrainingData(attachment, data, config, processes=processes, progress=progress)
        self.generator = self.data.generator
        self.learns_codes = learns_codes
        self.objective = Objective(attachment, config, samples=learns_codes)
        self.history = History()
        self._phase = PhaseClock(self.history.seconds).phase
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
        with self._phase("activations"):
            stream = self.data.open(whole_sequences=whole)
        self.history.n_tokens = self.budget
        with reported(self.callbacks, self._known(), self.history) as report:
            with noted_termination() if self.checkpoints else nullcontext() as self._terminated:
                with self._phase("start"):
                    drawn = self.start(stream)
                self.history.n_held_out_documents = drawn.n_documents
                with (
                    borrowed_generators(self.quantizer.device),
                    _learning(self.quantizer, codes=self.learns_codes),
                    self._phase("fit"),
                ):
                    best = self._train(stream, drawn, report)
            self.history.best_step = best.restore_()
            with self._phase("frozen pass"):
                self.give_meaning(stream)
        self._warn_of_outliers()
        if self.progress and (said := self.history.said_if_too_short):
            tqdm.write(f"The fit was {said}. Pass a larger n_tokens than {self.budget:,}.")
        return self.history

    def _known(self) -> FitStart:
        """What callbacks are told at the beginning."""
        resumed_from = None
        if self.checkpoints is not None and self.checkpoints.resumed is not None:
            training = self._resumed("training")
            resumed_from = 0 if training is None else training["work"]["n_steps"]
        return FitStart(
            lens=self.attachment.name,
            source=self.attachment.source,
            target=self.attachment.target,
            config={
                **asdict(self.quantizer.config),
                **asdict(self.config.replace(n_tokens=self.budget)),
            },
            n_tokens=self.budget,
            resumed_from=resumed_from,
        )

    def start(self, stream: ShuffledStream) -> HeldOutBatches:
        """Fresh weights, an encoder that predicts if it is to, and a codebook from a sample.

        Returns:
            The documents that are not trained on.
        """
        if (resumed := self._resumed("training")) is not None:
            # What would be started here comes from the checkpoint, limits of outliers among it.
            self.quantizer.load_state_dict(resumed["work"]["quantizer"])
            stream.judge_outliers_()
            return self._held_out()
        if not self.learns_codes:
            return self._start_decoder(stream)
        self.quantizer.reset_(self.generator)
        source, target = self._ordinary(*self._sample(stream))
        stream.judge_outliers_()
        drawn = self._held_out()
        encoder = self.quantizer.encoder
        if isinstance(encoder, PredictiveEncoder | SAEPrediction):
            encoder.start_(source, target)
            self.processes.spread_(self.quantizer)
        if isinstance(encoder, PredictiveEncoder):
            self._learn_to_predict(encoder, stream, drawn)
        self.quantizer.initialize_(source, target, generator=self.generator, progress=self.progress)
        self.processes.spread_(self.quantizer)
        self.processes.spread_generator_(self.generator)  # how much is drawn depends on the numbers
        return drawn

    def _learn_to_predict(
        self, encoder: PredictiveEncoder, stream: ShuffledStream, drawn: HeldOutBatches
    ) -> None:
        """Trains the encoder, before there are codes."""
        prediction = EncoderTraining(
            encoder,
            drawn.batches,
            self.config,
            self._phase,
            n_tokens=self.budget,
            processes=self.processes,
        )
        self._go_on("prediction", prediction, stream)
        batches = stream.single_tokens()  # tokens of one sequence are alike
        saving = self._saving("prediction", prediction, stream)
        try:
            with self._phase("encoder"):
                prediction.run(batches, saving, progress=self.progress)
        except KeyboardInterrupt:
            self.history.stop = "interrupted"

    def _train(
        self, stream: ShuffledStream, drawn: HeldOutBatches, report: Callable[[Record], None]
    ) -> Best:
        """Trains codebook and decoder, and gives the best weights."""
        training = Training(
            self.objective,
            self.config,
            self.history,
            HeldOut(self.objective, drawn.batches, self.processes),
            report,
            self._phase,
            budget=self.budget,
            generator=self.generator,
            learns_codes=self.learns_codes,
            processes=self.processes,
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
        return self._held_out()

    def _held_out(self) -> HeldOutBatches:
        with self._phase("activations"):
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
        place = StreamState(**state["stream"])
        if work.is_done:  # what comes after it draws batches of its own
            place = replace(place, n_given=0, drawn_from=None)
        stream.restore_(place)
        self.generator.set_state(state["generator"])

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
            }

        def save(interrupted: bool) -> None:
            if self.checkpoints is None:
                return
            terminated = self._terminated is not None and self._terminated()
            self.checkpoints.after_step(
                state,
                now=interrupted or work.is_done,
                terminated=self.processes.any(terminated),
            )

        return save

    def give_meaning(self, stream: ShuffledStream) -> None:
        """A frozen pass over the training tokens: what each code stands for."""
        frozen = frozen_pass(
            self.quantizer,
            self.data,
            stream,
            processes=self.processes,
            progress=self.progress,
        )
        if not frozen.complete:
            self.history.stop = "interrupted"
        self.history.n_training_documents = stream.n_documents
        self.history.n_outliers = frozen.n_outliers

    def _warn_of_outliers(self) -> None:
        n_outliers, n_kept = self.history.n_outliers, int(self.quantizer.usage.sum())
        if n_outliers and self.processes.is_first:
            limits = {
                "source": float(self.quantizer.max_source_norm),
                "target": float(self.quantizer.max_target_norm),
            }
            _log.warning(
                "%d of %d training tokens are left out: their activation is more than ten times as "
                "long as that of the median token (longer than %s). keep_outliers=True keeps them.",
                n_outliers,
                n_outliers + n_kept,
                ", or ".join(
                    f"{limit:.4g} at the {place}"
                    for place, limit in limits.items()
                    if math.isfinite(limit)
                ),
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
