"""Every verb of a lens beside the bare passes that it needs, on three models.

A bare pass is a call of the model's own modules on the same batches. What a verb does beside it
(tokenizing, codes, reconstructions, statistics, writing) is what the ratio is above 1.
"""

import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import clvq_lens as cl
from benchmarks import reading_peer
from benchmarks.bare_passes import BarePasses, Positions, n_positions
from benchmarks.products import BareProduct, StepFlops
from benchmarks.timing import Row, interleaved
from benchmarks.whole_evaluation import evaluate_memory
from benchmarks.whole_models import (
    SUBJECTS,
    Sizes,
    Subject,
    batches_of,
    classified,
    random_head,
    texts_of,
)
from clvq_lens.config import FitConfig
from clvq_lens.data.activations import ActivationSource
from clvq_lens.data.documents import open_documents
from clvq_lens.readouts.salience import salience

_N_CODES, _STEP_TOKENS = 400, 1_024
_N_DRAWS = 3  # of each of the five controls of faithfulness, in the model
_BARE = "bare passes"


def run(names: Iterable[str] = SUBJECTS, sizes: Sizes | None = None) -> list[Row]:
    """All verbs, model by model.

    Args:
        names: Models, by their keys in `SUBJECTS`.
        sizes: How much each verb reads; None: what suits the model.
    """
    table: list[Row] = []
    for name in names:
        subject = SUBJECTS[name]
        try:
            model = subject.model()
        except ModuleNotFoundError as error:
            print(f"{subject.name} is left out: {error}")
            continue
        table += _Verbs(subject, model, sizes or subject.sizes).rows()
    return table


class _Verbs:
    """The verbs of a lens on one model, each timed beside its bare passes.

    Args:
        subject: What is measured.
        model: Its model.
        sizes: How much each verb reads.
    """

    def __init__(self, subject: Subject, model: Any, sizes: Sizes) -> None:
        self.subject, self.model, self.sizes = subject, model, sizes
        self.lens = model.add_clvq(*subject.points, n_codes=_N_CODES)
        self.source, self.target = subject.points
        self.passes = BarePasses(model)
        train, judged = subject.texts()
        self.train = texts_of(self.lens.host, train, self.sizes.fit)
        self.judged = texts_of(self.lens.host, judged, self.sizes.judged)
        self.classified = classified(judged, self.sizes)
        self.batches = batches_of(self.lens.host, self.judged)
        self.class_batches = batches_of(self.lens.host, self.classified)
        # Of an encoder that predicts the target, its prediction is spliced in, too.
        self.n_spliced = 4 if self.lens.config.encoder == "predictive" else 3

    def rows(self) -> list[Row]:
        """All verbs; the fit comes first, and the others use what it has learned."""
        table: list[Row] = []
        for verb in (
            self._fit,
            self._reading,
            self._evaluate,
            self._concepts,
            self._report,
            self._salience,
            self._faithfulness,
        ):
            for row in verb():
                print(f"{row.benchmark}: {row.contestant} {row.median_s:.3f} s, {row.ratio:.2f}")
                table.append(row)
        return table

    # ---- verbs ---------------------------------------------------------------------------------

    def _reading(self) -> list[Row]:
        source = ActivationSource(self.lens.attachment, long_texts="split")

        def read() -> None:
            for _ in source.batches(open_documents(self.judged)):
                pass

        points = self.lens.source, self.lens.target
        peers = reading_peer.readings(self.model, points, self.batches)
        bare = partial(self.passes.until, self.target, self.batches)
        rows = self._beside("reading both hook points", bare, read, self.batches, peers)
        if not peers:
            print(reading_peer.NOT_INSTALLED)
        return rows

    def _fit(self) -> list[Row]:
        """Beside one pass over its texts, and all products of steps at the rate of bare ones."""
        batches = batches_of(self.lens.host, self.train)
        flops = StepFlops()
        fit = partial(self.lens.fit, self.train, FitConfig(long_texts="split"), progress=False)

        def counted_once() -> None:
            if flops.n:
                fit()
                return
            with flops.counting():  # in the round that does not count: counting takes time
                fit()

        product = BareProduct(_STEP_TOKENS, self.model.cfg.d_model)
        positions = Positions(self.model)
        medians = interleaved(
            {
                _BARE: partial(self.passes.until, self.target, batches),
                "product": product,
                "lens.fit": counted_once,
            },
            repetitions=self.sizes.repetitions,
        )
        positions.remove()
        passes = _passes(positions, batches, self.sizes.repetitions) - 1.0
        products_s = flops.n * medians["product"] / product.flops
        rate = product.flops / medians["product"]
        needed_s = medians[_BARE] + products_s
        products = f"{flops.n / 1e12:.2f} TFLOP in steps at {rate / 1e9:.0f} GFLOP/s"
        name = self._name("lens.fit", batches)
        return [
            Row(name, "passes to the target and products of steps", needed_s, 1.0, products),
            Row(name, _BARE, medians[_BARE], medians[_BARE] / needed_s),
            Row(
                name, "lens.fit", medians["lens.fit"], medians["lens.fit"] / needed_s, _said(passes)
            ),
        ]

    def _evaluate(self) -> list[Row]:
        bare = partial(
            self.passes.whole_and_above, self.target, self.batches, n_above=self.n_spliced
        )
        evaluate = partial(self.lens.evaluate, self.judged, progress=False)
        rows = self._beside(
            f"lens.evaluate (1 whole + {self.n_spliced} above)", bare, evaluate, self.batches
        )
        memory = evaluate_memory(self.lens, self.subject, self.judged)
        return rows + memory

    def _concepts(self) -> list[Row]:
        bare = partial(self.passes.until, self.target, self.batches)
        concepts = partial(self.lens.concepts, self.judged, progress=False)
        return self._beside("lens.concepts", bare, concepts, self.batches)

    def _report(self) -> list[Row]:
        def bare() -> None:
            self.passes.whole_and_above(self.target, self.batches, n_above=self.n_spliced)

        def report() -> None:
            with tempfile.TemporaryDirectory() as folder:
                self.lens.report(self.judged, Path(folder) / "page.html", progress=False)

        return self._beside(
            f"lens.report (1 whole + {self.n_spliced} above)", bare, report, self.batches
        )

    def _salience(self) -> list[Row]:
        n_steps, head = self.sizes.n_steps, self._head()

        def bare() -> None:
            self.passes.until(self.source, self.class_batches)
            self._gradients(n_steps)

        def ours() -> None:
            salience(
                self.model, self.classified, self.source, head, n_steps=n_steps, progress=False
            )

        name = f"salience (1 to the layer + {n_steps} gradients above)"
        return self._beside(name, bare, ours, self.class_batches)

    def _faithfulness(self) -> list[Row]:
        n_steps, n_runs = self.sizes.n_steps, 2 * (1 + 5 * _N_DRAWS)
        classes = [number % 2 for number in range(len(self.classified))]

        def bare() -> None:
            self.passes.until(self.model.cfg.n_layers - 1, self.class_batches)
            self._gradients(n_steps)
            self.passes.runs_above(self.source, self.class_batches, n_runs=n_runs)
            self.passes.runs_above(self.target, self.class_batches, n_runs=1 + _N_DRAWS)

        def ours() -> None:
            self.lens.faithfulness(
                self.classified,
                classes,
                readout=self._head(),
                n_model_draws=_N_DRAWS,
                n_steps=n_steps,
                progress=False,
            )

        name = f"lens.faithfulness (1 whole + {n_steps} gradients + {n_runs} + {1 + _N_DRAWS} runs)"
        return self._beside(name, bare, ours, self.class_batches)

    # ---- around them ---------------------------------------------------------------------------

    def _head(self) -> cl.Readout:
        weight = random_head(self.model.cfg.d_model)
        return cl.head(weight, layer=self.model.cfg.n_layers - 1, sentence="last")

    def _gradients(self, n_steps: int) -> None:
        weight = random_head(self.model.cfg.d_model)
        self.passes.gradients_above(
            self.source, self.class_batches, lambda last: last[:, -1] @ weight.T, n_steps
        )

    def _beside(
        self,
        verb: str,
        bare: Callable[[], object],
        ours: Callable[[], object],
        batches: list[torch.Tensor],
        peers: dict[str, reading_peer.Reading] | None = None,
    ) -> list[Row]:
        """A verb, interleaved with its bare passes and with peers."""
        peers = peers or {}
        counts: list[float] = []

        def counted() -> None:
            positions = Positions(self.model)
            ours()
            positions.remove()
            counts.append(positions.n / n_positions(batches))

        medians = interleaved(
            {
                _BARE: bare,
                "clvq_lens": counted,
                **{name: peer.read for name, peer in peers.items()},
            },
            repetitions=self.sizes.repetitions,
        )
        for contestant, peer in peers.items():  # as if they had read as many positions
            medians[contestant] *= n_positions(batches) / peer.n_positions
        name, table = self._name(verb, batches), []
        for contestant, median_s in medians.items():
            note = _said(counts[-1]) if contestant == "clvq_lens" else ""
            table.append(Row(name, contestant, median_s, median_s / medians[_BARE], note))
        return table

    def _name(self, verb: str, batches: list[torch.Tensor]) -> str:
        return f"{self.subject.name}: {verb}, {n_positions(batches):,} positions"


def _passes(positions: Positions, batches: list[torch.Tensor], repetitions: int) -> float:
    return positions.n / n_positions(batches) / (repetitions + 1)


def _said(passes: float) -> str:
    return f"model passes over tokens: {passes:.2f}"
