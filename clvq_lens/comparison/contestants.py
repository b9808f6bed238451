"""Who is compared, and the fits of each: with every seed, and with every decoder."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from clvq_lens.arguments import as_list, check_choice, check_is
from clvq_lens.baselines.kinds import BASELINES, Baseline, check_kind
from clvq_lens.comparison.described import BOUNDS, NO_DECODER, UNQUANTIZED
from clvq_lens.comparison.finished import FinishedWork
from clvq_lens.comparison.refits import can_be_refitted, refit
from clvq_lens.config import CLVQConfig, DecoderName, FitConfig, fit_config
from clvq_lens.data.store.stored_activations import StoredActivations
from clvq_lens.errors import ConfigError
from clvq_lens.host.lenses import free_name
from clvq_lens.lens import Lens
from clvq_lens.training.decoding import with_decoder

Method = Lens | str
Texts = Sequence[str] | Sequence[Tensor] | StoredActivations
"""Texts, rows of tokens, or activations that were read before, such as a store."""


@dataclass(frozen=True)
class Contestant:
    """A method under its name: a lens, or a baseline of the first lens.

    Attributes:
        name: Its name in the comparison.
        lens: The lens, if it is one.
        kind: The kind of baseline, if it is one.
    """

    name: str
    lens: Lens | None = None
    kind: Baseline | None = None


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How methods are fitted, so that all have the same data, budget and decoders.

    Attributes:
        reference: The first lens, to which baselines are matched.
        decoders: The decoders of every method.
        train: Texts to fit on, or a store with their activations.
        n_seeds: Fits of each method.
        config: Options of the fits.
        progress: Whether to show progress bars.
    """

    reference: Lens
    decoders: list[DecoderName]
    train: list[Any] | StoredActivations | None
    n_seeds: int
    config: FitConfig
    progress: bool

    @classmethod
    def of(
        cls,
        methods: Sequence[Method],
        decoders: Sequence[DecoderName] | None,
        train: list[Any] | StoredActivations | None,
        n_seeds: int,
        config: FitConfig | None,
        *,
        progress: bool,
    ) -> "Fitting":
        """Takes from the first lens what was not asked for.

        Raises:
            ConfigError: If there is no lens, no such decoder, or something must be fitted and
                there is nothing to fit on.
        """
        for method in methods:
            remedy = "Pass lenses and names of baselines."
            check_is("One of the methods", method, Lens | str, remedy)
        lenses = [method for method in methods if isinstance(method, Lens)]
        if not lenses:
            raise ConfigError(
                "There is no lens among the methods. Pass [lens, 'k-means', ...]: baselines are "
                "matched to the first lens."
            )
        reference = lenses[0]
        chosen = _checked([reference.config.decoder] if decoders is None else decoders)
        trained = [each for each in chosen if each != "table"]
        needs_decoder = any(lens.config.decoder != each for lens in lenses for each in trained)
        if train is None and (n_seeds > 1 or len(lenses) < len(methods) or needs_decoder):
            raise ConfigError(
                "Baselines, further fits and other decoders need the texts that the lens was "
                "fitted on. Pass train=texts."
            )
        config = fit_config(config, reference.quantizer.fit_config)
        return cls(
            reference=reference,
            decoders=chosen,
            train=train,
            n_seeds=n_seeds,
            config=config,
            progress=progress,
        )

    def contestants(self, methods: Sequence[Method], *, bounds: bool) -> list[Contestant]:
        """Who is compared.

        Args:
            methods: Lenses and names of baselines.
            bounds: Whether to add the baselines that say what codes could reach, and chance gives.

        Raises:
            ConfigError: If two methods have one name, or there is no such baseline.
        """
        contestants: list[Contestant] = []
        for method in methods:
            if isinstance(method, Lens):
                contestants.append(Contestant(method.name, lens=method))
            else:
                contestants.append(Contestant(method, kind=check_kind(method)))
        names = [contestant.name for contestant in contestants]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"Two methods are called {name!r}. Pass each once, or name lenses apart with "
                    f"add_clvq(..., name=...)."
                )
        if bounds and self.train is not None:
            for kind in BOUNDS:
                if kind in BASELINES and kind not in names:
                    contestants.append(Contestant(kind, kind=check_kind(kind)))
        return contestants

    @contextmanager
    def fits(self, contestant: Contestant, finished: FinishedWork) -> Iterator[list[Lens]]:
        """While open, a fit for each seed: a lens and further fits of it, or baselines.

        Where the features of an SAE are the codes, there is one fit, whatever the others have.

        Args:
            contestant: A method.
            finished: The fits that need not be done again.
        """
        own = [] if contestant.lens is None else [contestant.lens]
        n_more = self.n_seeds - len(own)
        if n_more == 0 or self.train is None or not all(map(can_be_refitted, own)):
            yield own
            return
        like = contestant.lens or self.reference
        names = [contestant.name]
        with self._refits(like, names, n_more, finished, kind=contestant.kind) as more:
            yield [*own, *more]

    @contextmanager
    def predictive_fits(self, finished: FinishedWork) -> Iterator[list[Lens]]:
        """While open, a lens with a predictive encoder for each seed."""
        # The table costs least, and it is the encoder that is wanted.
        config = self.reference.config.replace(
            encoder="predictive", decoder="table", decoder_memory="codes"
        )
        names = [UNQUANTIZED, NO_DECODER]
        with self._refits(
            self.reference, names, self.n_seeds, finished, quantizer_config=config
        ) as lenses:
            yield lenses

    @contextmanager
    def _refits(
        self,
        like: Lens,
        names: list[str],
        n_seeds: int,
        finished: FinishedWork,
        *,
        kind: Baseline | None = None,
        quantizer_config: CLVQConfig | None = None,
    ) -> Iterator[list[Lens]]:
        """While open, further lenses as `refits` fits them."""

        def fitted(config: FitConfig, checkpoint: Path | None) -> Lens:
            return refit(
                like,
                self.train or [],
                config,
                kind=kind,
                quantizer_config=quantizer_config,
                checkpoint=self._own_checkpoints(checkpoint),
                progress=self.progress,
            )

        with ExitStack() as stack:
            lenses: list[Lens] = []
            # From the next seed on: the lens itself has that of the config.
            for seed in range(self.config.seed + 1, self.config.seed + 1 + n_seeds):
                fit = partial(fitted, self.config.replace(seed=seed))
                lens = finished.fit(like.host, [*names, f"seed {seed}"], fit)
                stack.callback(lens.remove)
                lenses.append(lens)
            yield lenses

    @contextmanager
    def decoded(
        self,
        contestant: Contestant,
        fits: Sequence[Lens],
        decoder: DecoderName,
        finished: FinishedWork,
    ) -> Iterator[list[Lens]]:
        """While open, the same codes with a decoder of one kind.

        Args:
            contestant: The method.
            fits: Its fits with any decoder; those that have this one are taken as they are.
            decoder: Kind of the decoder.
            finished: The decoders that need not be fitted again.
        """
        with ExitStack() as stack:
            lenses: list[Lens] = []
            for number, fit in enumerate(fits):
                if fit.config.decoder == decoder:
                    lenses.append(fit)
                    continue
                names = [contestant.name, decoder, f"fit {number}"]
                decoded = finished.fit(fit.host, names, partial(self._with_decoder, fit, decoder))
                stack.callback(decoded.remove)
                lenses.append(decoded)
            yield lenses

    def _with_decoder(self, fit: Lens, decoder: DecoderName, checkpoint: Path | None) -> Lens:
        fitted_with = fit.quantizer.fit_config or self.config
        attachment = with_decoder(
            fit.attachment,
            self.train or [],
            self.config.replace(seed=fitted_with.seed),
            decoder,
            memory=self.reference.config.decoder_memory,
            name=free_name(fit.model, f"{fit.name} {decoder}"),
            checkpoint=self._own_checkpoints(checkpoint),
            progress=self.progress,
        )
        return Lens(attachment)

    def _own_checkpoints(self, folder: Path | None) -> Path | None:
        """The folder for checkpoints of a single fit; None where it reads the model."""
        # Every fit would keep a copy of the activations in its own folder.
        return folder if isinstance(self.train, StoredActivations) else None


def _checked(decoders: Sequence[DecoderName]) -> list[DecoderName]:
    chosen: list[DecoderName] = as_list("decoders", decoders, "Pass a list, such as ['table'].")
    for decoder in chosen:
        check_choice("One of the decoders", decoder, get_args(DecoderName))
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError("decoders must name at least one, each once. Pass ['transformer'].")
    return chosen
