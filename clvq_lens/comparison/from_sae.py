"""from_sae: an SAE or transcoder of another library beside a lens."""

from typing import Any, SupportsIndex, Unpack

from clvq_lens.baselines.sae import attach_sae
from clvq_lens.config import DecoderName, FitConfig, FitOptions, fit_config
from clvq_lens.data.documents import Data
from clvq_lens.host.attachment import ready
from clvq_lens.host.modes import require_gradients
from clvq_lens.lens import Lens


def from_sae(
    sae: Any,
    lens: Lens,
    data: Data,
    config: FitConfig | None = None,
    *,
    hook_point: SupportsIndex | str | None = None,
    n_active: int | None = None,
    n_codes: int | None = None,
    decoder: DecoderName = "table",
    name: str | None = None,
    progress: bool = True,
    **options: Unpack[FitOptions],
) -> Lens:
    """An SAE or transcoder that was trained elsewhere, as a baseline of a lens on the same model.

    The code of a token is its strongest feature, as the SAE's own ``encode`` says: of one that
    keeps the top k the first, and where no feature is active the one that is nearest to it. It
    reads its own hook point, reconstructs the target of the lens, and has all verbs of a lens;
    `clvq_lens.compare` takes it, and gives it the decoders of all others. Nothing of it is trained
    but the decoder.

    With ``n_active=8``, eight features stand for a token: the strongest that are active, each as
    much as it is. The SAE's own decoder adds them up, a ridge regression of the lens's target on
    that sum says what they know of it, and codes are clusters of this prediction, by the k-means of
    the baseline "k-means", on the same tokens. So there is one code for each token here too, and
    ``fvu_unquantized`` of `clvq_lens.Lens.evaluate` says what the features keep before they become
    one. The skip connection of a transcoder is left out: it is no feature.

    Features are as strong as ``encode`` says. Where decoder rows differ in length, call
    ``sae.fold_W_dec_norm()`` first to rank them by what they add.

    Args:
        sae: An SAE or transcoder of SAELens (standard, gated, topk, jumprelu), dictionary_learning
            or sparsify. None of these is imported.
        lens: The fitted lens that it is compared with.
        data: The documents that the lens was fitted on.
        config: How to read them; None: as the lens was fitted.
        hook_point: What it reads, a layer or a name; None: what the SAE says of itself, as one of
            SAELens does.
        n_active: How many features stand for a token, as described above; None: the strongest, and
            it is the code.
        n_codes: How many features become codes: those that are the strongest of most tokens, and a
            token whose strongest feature is none of them has its strongest among them. None: as
            many as the lens has, so that methods are compared on equal terms. Where all are taken,
            code 17 is feature 17; ``baseline.quantizer.codebook.features`` always tells. With
            ``n_active``: how many clusters.
        decoder: As for `clvq_lens.Lens.baseline`.
        name: Name on the model; None: such as "4-8 SAE", or "4-8 SAE top 8" with ``n_active=8``.
        progress: Whether to show progress bars.
        **options: Options of `FitConfig` by name.

    Returns:
        The baseline; its ``remove()`` takes it off the model again.

    Raises:
        UnsupportedSAEError: If it is of no kind that is known, expects an option that is not
            supported, its ``encode`` or ``decode`` says something else than its weights, or
            ``n_active`` needs a decoder that it lacks.
        HookNotFoundError: If the model has no such hook point.
        LayerOrderError: If it reads a hook point after the target of the lens.
        HostMismatchError: If the widths differ, or one model has centered weights.
        NotFittedError: If the lens has not been fitted.
        NameTakenError: If the model has a quantizer of that name.
        ConfigError: If there are fewer features than ``n_codes`` or ``n_active``, its ``encode``
            keeps fewer than that, no hook point is known, or an option does not exist.
        TooFewTokensError: If the data hold fewer different tokens than there are clusters.

    Example:
        >>> sae = SAE.from_pretrained("gpt2-small-res-jb", "blocks.4.hook_resid_pre")
        >>> other = from_sae(sae, lens, texts)
        >>> top = from_sae(sae, lens, texts, n_active=8)
        >>> compare([lens, other, top, "k-means"], held_out, train=texts).frame()
    """
    like = ready(lens, "put an SAE beside it")
    require_gradients("A baseline")
    config = fit_config(config, lens.quantizer.fit_config, **options)
    attachment = attach_sae(
        sae,
        like,
        data,
        config,
        hook_point=hook_point,
        n_active=n_active,
        n_codes=n_codes,
        decoder=decoder,
        name=name,
        progress=progress,
    )
    return Lens(attachment)
