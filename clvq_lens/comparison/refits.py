"""The same quantizer fitted again: with other seeds, or on halves of the data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Unpack, get_args

from clvq_lens.arguments import check_choice, check_count
from clvq_lens.baselines.kinds import Baseline, check_kind
from clvq_lens.baselines.sae_clusters import clusters_again
from clvq_lens.config import CLVQConfig, FitConfig, FitOptions, fit_config
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.split import halves
from clvq_lens.errors import ConfigError
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.lenses import free_name
from clvq_lens.lens import Lens
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.encoders import sae_options
from clvq_lens.quantizer.sae_codebook import SAECodebook
from clvq_lens.training.checkpoint import holds_checkpoints

How = Literal["seeds", "halves"]


@contextmanager
def refits(
    lens: Lens,
    data: Data,
    *,
    seeds: int = 3,
    how: How = "seeds",
    kind: Baseline | None = None,
    quantizer_config: CLVQConfig | None = None,
    config: FitConfig | None = None,
    n_active: int = 32,
    progress: bool = True,
    **options: Unpack[FitOptions],
) -> Iterator[list[Lens]]:
    """While open, further lenses of the same options, fitted; they are gone afterwards.

    Of an SAE whose codes are clusters (`clvq_lens.from_sae` with ``n_active``) the features stay,
    and regression, clusters and decoder are fitted again.

    Args:
        lens: The lens whose model, source, target and options they have. It stays as it is.
        data: Documents, as for `clvq_lens.Lens.fit`.
        seeds: How many seeds: the seed of ``config`` plus 1, 2 and so on.
        how: "seeds": one lens for each seed, all on the same data. "halves": two for each seed, one
            after the other, on halves of the documents that share none; each seed splits anew.
        kind: A baseline, such as "k-means", that takes the place of the quantizer.
        quantizer_config: Options of their quantizers; None: those of ``lens``.
        config: How to fit; None: as ``lens`` was fitted, with as many tokens.
        n_active: Features active in a token, for baselines that have them, as for
            `clvq_lens.Lens.baseline`.
        progress: Whether to show progress bars.
        **options: Options of `FitConfig` by name.

    Returns:
        The lenses, attached to the model under names of their own.

    Raises:
        ConfigError: If there is no such baseline, no seed, ``how`` is neither, the codes of the
            lens are features of an SAE from elsewhere, or an option does not exist or is
            impossible.
        EmptyCorpusError: If a half holds no document.

    Example:
        >>> with refits(lens, texts) as others:  # doctest: +SKIP
        ...     agreement = stability({"codes": [lens, *others]}, held_out)
    """
    check_choice("how", how, get_args(How))
    check_count("seeds", seeds)
    if kind is not None:
        check_kind(kind)
    config = fit_config(config, lens.quantizer.fit_config, **options)
    # Every seed reads the data, and a generator is empty after the first one.
    data = open_documents(data) if isinstance(data, Iterator) else data
    fitted: list[Lens] = []
    try:
        # From the next seed on: the lens itself has that of the config.
        for seed in range(config.seed + 1, config.seed + 1 + seeds):
            for part in [data] if how == "seeds" else halves(data, seed=seed):
                other = refit(
                    lens,
                    part,
                    config.replace(seed=seed),
                    kind=kind,
                    quantizer_config=quantizer_config,
                    n_active=n_active,
                    progress=progress,
                )
                fitted.append(other)
        yield fitted
    finally:
        for other in fitted:
            other.remove()


def refit(
    lens: Lens,
    data: Data,
    config: FitConfig,
    *,
    kind: Baseline | None,
    quantizer_config: CLVQConfig | None = None,
    n_active: int = 32,
    checkpoint: Path | None = None,
    progress: bool,
) -> Lens:
    """One further lens, as `refits` fits several.

    Args:
        lens: The lens whose model, source, target and options it has.
        data: Documents.
        config: How to fit, and the seed.
        kind: A baseline that takes the place of the quantizer.
        quantizer_config: Options of its quantizer; None: those of ``lens``.
        n_active: Features active in a token, for baselines that have them.
        checkpoint: Folder for checkpoints, from which a fit that was killed goes on; baselines
            begin again.
        progress: Whether to show progress bars.

    Raises:
        KeyboardInterrupt: If Ctrl-C ended the fit early.
    """
    if kind is not None:
        return lens.baseline(kind, data, config, n_active=n_active, progress=progress)
    if quantizer_config is None and sae_options(lens.quantizer.encoder) is not None:
        name = free_name(lens.model, f"{lens.name} refit")
        again = clusters_again(lens.attachment, data, config, name=name, progress=progress)
        return Lens(again)
    other = _unfitted_copy(lens, quantizer_config or lens.config)
    resume = checkpoint is not None and holds_checkpoints(checkpoint)
    try:
        history = other.fit(data, config, checkpoint=checkpoint, resume=resume, progress=progress)
        history.require_whole()
    except BaseException:  # it is on the model before it is fitted
        other.remove()
        raise
    return other


def can_be_refitted(lens: Lens) -> bool:
    """Whether other seeds would find other codes: not where they are the features of an SAE."""
    return not isinstance(lens.quantizer.codebook, SAECodebook)


def _unfitted_copy(lens: Lens, config: CLVQConfig) -> Lens:
    """An unfitted lens on the same model, under a name that is free."""
    host, old = lens.host, lens.quantizer
    if not can_be_refitted(lens):
        raise ConfigError(
            f"The codes of {lens.name!r} are features of an SAE that was trained elsewhere, and "
            f"cannot be fitted again. Leave it out."
        )
    name = free_name(lens.model, f"{lens.name} refit")
    quantizer = CrossLayerQuantizer(config, old.d_source, old.d_target, causal=old.causal)
    quantizer.origin = host.origin(lens.source, lens.target, name)
    return Lens(Attachment(host, quantizer, name, lens.source, lens.target))
