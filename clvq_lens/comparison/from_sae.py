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
        n_codes: How many features become codes: those that are the strongest of most tokens, and a
            token whose strongest feature is none of them has its strongest among them. None: as
            many as the lens has, so that methods are compared on equal terms. Where all are taken,
            code 17 is feature 17; ``baseline.quantizer.codebook.features`` always tells.
        decoder: As for `clvq_lens.Lens.baseline`.
        name: Name on the model; None: such as "4-8 SAE".
        progress: Whether to show progress bars.
        **options: Options of `FitConfig` by name.

    Returns:
        The baseline; its ``remove()`` takes it off the model again.

    Raises:
        UnsupportedSAEError: If it is of no kind that is known, expects an option that is not
            supported, or its ``encode`` says something else than its weights.
        HookNotFoundError: If the model has no such hook point.
        LayerOrderError: If it reads a hook point after the target of the lens.
        HostMismatchError: If the widths differ, or one model has centered weights.
        NotFittedError: If the lens has not been fitted.
        NameTakenError: If the model has a quantizer of that name.
        ConfigError: If there are fewer features than ``n_codes``, no hook point is known, or an
            option does not exist.

    Example:
        >>> sae = SAE.from_pretrained("gpt2-small-res-jb", "blocks.4.hook_resid_pre")
        >>> other = from_sae(sae, lens, texts)
        >>> compare([lens, other, "k-means"], held_out, train=texts).frame()
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
        n_codes=n_codes,
        decoder=decoder,
        name=name,
        progress=progress,
    )
    return Lens(attachment)
