"""Fitting: options are checked, the fit runs, and a quantizer that fails is what it was before."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Unpack

from clvq_lens.arguments import check_positive
from clvq_lens.config import FitConfig, FitOptions, fit_config
from clvq_lens.data.documents import Data
from clvq_lens.data.store.stored_activations import StoredActivations
from clvq_lens.errors import ConfigError, DataError, ModelNeededError
from clvq_lens.host.attachment import Attached, Attachment
from clvq_lens.host.modes import require_gradients
from clvq_lens.processes import Processes
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training.callback import Callback, check_callbacks
from clvq_lens.training.checkpoint import EVERY_S, Checkpoints, check_resume, held
from clvq_lens.training.fitting import Fit
from clvq_lens.training.history import History
from clvq_lens.training.kept_data import fit_identity, kept_data
from clvq_lens.training.memory import require_memory
from clvq_lens.training.validation import clone_state


def fit(
    lens: Attached,
    data: Data,
    config: FitConfig | None = None,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = EVERY_S,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    **options: Unpack[FitOptions],
) -> History:
    """Fits the quantizer on activations streamed from the model.

    A fit starts anew when called again. Interrupted with Ctrl-C, it keeps what was learned; after
    any other error, and before the codebook is started, the quantizer is what it was before. How
    much memory it needs is logged when it starts; whether it was too short to have converged is
    said when it ends. Processes of torch.distributed share it; all of them have to call it.

    The model reads each token once. Activations that do not fit the shuffle buffer are kept in a
    temporary folder (see `tempfile.gettempdir`; TMPDIR names another) while the fit runs.

    Args:
        lens: The lens whose quantizer is fitted.
        data: Texts; a path to a .txt, .jsonl, .txt.gz, .jsonl.gz or .parquet file; a Hugging Face
            dataset or its name, "hf:NAME[:SPLIT[:COLUMN]]", such as "hf:stanfordnlp/imdb" or
            "hf:allenai/c4/en:train:text", which is streamed; a tensor of tokens [row, pos], padded
            left or right; or what a tokenizer returns, with its mask. Texts longer than the context
            are split unless ``long_texts`` says otherwise. Or a store that `cache_activations`
            filled, or what `activations` returned: then no model is run.
        config: Options of the fit; None: the defaults.
        checkpoint: Folder for checkpoints, from which a fit that was killed goes on and ends with
            the same bits. Activations of texts are kept there too, so that none is read twice.
        checkpoint_every: Seconds between two checkpoints.
        resume: Whether to go on with the last checkpoint in that folder.
        callbacks: What is told how the fit goes on, such as
            ``[cl.callbacks.JSONLines("fit.jsonl")]`` or any other `clvq_lens.Callback`. An error
            in one of them ends the fit.
        progress: Whether to show progress bars.
        **options: Options of `FitConfig` by name.

    Returns:
        Losses and validation over time, with ``.frame()`` and ``.plot()``.

    Raises:
        DataError: If the data cannot be read.
        HubError: If a data set on the Hub cannot be reached.
        EmptyCorpusError: If the data hold no real token.
        TooFewTokensError: If the data hold fewer distinct tokens than there are codes.
        TextTooLongError: If a text is longer than the context and ``long_texts`` is "error".
        NonFiniteError: If activations, or the loss, become NaN or infinity.
        ConfigError: If an option does not exist or does not suit the model or the decoder, or if
            what is learned cannot fit into the memory that the device has left.
        OpenBlockError: Inside a block of this lens, such as an edit.
        ModeError: Under ``torch.inference_mode()``.
        CheckpointError: If there is no checkpoint to go on with, or it is of another fit.
        PathTakenError: If there are checkpoints, and ``resume`` is off.
        PathError: If another fit is writing to that folder, or nothing can be written there.
    """
    attachment, quantizer = lens.attachment, lens.attachment.quantizer
    config = fit_config(config, **options)
    _check_attachment(attachment, config)
    check_callbacks(callbacks)
    check_resume(checkpoint, resume=resume)
    check_positive("checkpoint_every", checkpoint_every)
    require_memory(attachment, config)
    processes = Processes.current()
    processes.require_same("clvq_lens", version("clvq-lens"), "Install one version everywhere.")
    with held(checkpoint, writes=processes.is_first), _as_before_if_it_fails(quantizer):
        checkpoints = None
        if checkpoint is not None:
            checkpoints = Checkpoints(
                checkpoint,
                fit_identity(attachment, config),
                every_s=checkpoint_every,
                resume=resume,
                writes=processes.is_first,
            )
            # Only now: with other options, activations would be added that the fit does not have.
            data = kept_data(attachment, data, config, checkpoints.folder, progress=progress)
            checkpoints.require_same(data.identity)
            begin = checkpoints.resumed_from or "the beginning"
            processes.require_same("The checkpoint to go on with", begin, "Start them again.")
        if processes.shared:
            _check_shared(attachment, data, config, processes)
        run = Fit(
            attachment,
            data,
            config,
            checkpoints=checkpoints,
            callbacks=callbacks,
            processes=processes,
            progress=progress,
        )
        history = run.run()
    # The number of tokens that was found, so that a baseline or a refit reads as many.
    quantizer.fit_config = config.replace(n_tokens=run.data.n_tokens)
    attachment.recognize_model()
    return history


@contextmanager
def _as_before_if_it_fails(quantizer: CrossLayerQuantizer) -> Iterator[None]:
    """While open, the quantizer is fitted; an error leaves it as it was before."""
    before = clone_state(quantizer)
    try:
        yield
    except BaseException:
        quantizer.load_state_dict(before)
        raise
    finally:
        quantizer.eval()


def _check_shared(
    attachment: Attachment, data: Data, config: FitConfig, processes: Processes
) -> None:
    """Raises unless all processes can share a fit."""
    if not isinstance(data, StoredActivations):
        raise ConfigError(
            "Processes share activations through a folder. Pass checkpoint=folder, where they are "
            "kept, or a store that cache_activations filled."
        )
    identity = json.dumps(fit_identity(attachment, config) | data.identity, sort_keys=True)
    processes.require_same("The fit", identity, "Start all processes with the same command.")
    if data.n_documents < processes.size:
        raise DataError(
            f"{processes.size} processes cannot share {data.n_documents} documents. Start fewer "
            f"processes, or pass more documents."
        )


def _check_attachment(attachment: Attachment, config: FitConfig) -> None:
    """Raises unless a fit with these options is possible now."""
    attachment.require_attached()
    attachment.require_closed("fit")
    require_gradients("A fit")
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
