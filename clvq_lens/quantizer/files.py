"""Saving and loading: config.json and one safetensors file, atomic, versioned, strict.

config.json names the file of weights and its SHA-256. The file of weights holds a copy of all else
that config.json says. So the hash covers everything, and an error can name a field that was edited.
"""

import dataclasses
import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from clvq_lens.errors import (
    ConfigError,
    FileFormatError,
    NonFiniteError,
    PathTakenError,
    TerminatedError,
)
from clvq_lens.quantizer.codebook import Codebook
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.encoders import sae_fields
from clvq_lens.quantizer.saved import (
    CODEBOOKS,
    CONFIG,
    FORMAT_VERSION,
    WEIGHTS,
    Saved,
    impossible,
    is_ours,
    read_config,
)
from clvq_lens.writing import (
    check_file,
    check_space,
    locked,
    make_folder,
    path_errors,
    replace_file,
)

_LOCK, _TEMPORARY = ".clvq_lens.lock", ".clvq_lens.tmp"
_MAX_DIFFERENCES = 8  # in one message
_SAFETENSORS_DTYPES = {torch.float32: "F32", torch.int64: "I64"}
_COPY = "clvq_lens"  # the key of the copy of config.json in the file of weights


def save(quantizer: CrossLayerQuantizer, folder: str | Path) -> Path:
    """Writes a fitted quantizer; an interrupted save leaves what was there before.

    The weights are written first, under a name made of their hash. Then config.json, which names
    them, is replaced: from that step on the new quantizer is loaded. Weights of an earlier save
    are deleted last. Saves into one folder wait for each other, and a load in the meantime gets
    one of the quantizers.

    Args:
        quantizer: The quantizer.
        folder: Folder to write to, which is created if needed.

    Returns:
        The folder.

    Raises:
        NotFittedError: If the quantizer was never fitted.
        NonFiniteError: If the quantizer holds NaN or infinity, so that it could not be loaded.
        PathTakenError: If ``folder`` is a file, or holds another program's config.json. A
            `FileExistsError`.
        PathError: If the folder cannot be written to, or the disk is full. An `OSError`.
    """
    quantizer.require_fitted()
    tensors = {}
    for name, tensor in quantizer.state_dict().items():
        tensors[name] = tensor.cpu().contiguous()
    if wrong := _impossible_values(tensors):
        raise NonFiniteError(
            f"The quantizer cannot be saved: {'; '.join(wrong)}. Fit it again, with a smaller "
            f"learning_rate if the fit has diverged."
        )
    folder = check_folder(folder)
    config = _described(quantizer)
    weights = save_tensors(tensors, metadata={_COPY: json.dumps(config)})
    check_space(folder, len(weights))
    digest = hashlib.sha256(weights).hexdigest()
    name = f"weights-{digest[:12]}.safetensors"
    complete_config = {**config, "weights": name, "sha256": digest}
    temporary = folder / _TEMPORARY
    with locked(folder / _LOCK):
        replace_file(folder / name, weights, temporary=temporary)
        text = json.dumps(complete_config, indent=2) + "\n"
        replace_file(folder / CONFIG, text.encode(), temporary=temporary)
        # Under the lock, no other save is between its two files.
        for old in folder.iterdir():
            if WEIGHTS.fullmatch(old.name) and old.name != name:
                old.unlink(missing_ok=True)
    return folder


def _described(quantizer: CrossLayerQuantizer) -> dict[str, Any]:
    """What config.json and its copy say about a quantizer."""
    return {
        "format": "clvq_lens",
        "format_version": FORMAT_VERSION,
        "library_version": _library_version(),
        "d_source": quantizer.d_source,
        "d_target": quantizer.d_target,
        "causal": quantizer.causal,
        "codebook": _codebook_kind(quantizer.codebook),
        "quantizer": dataclasses.asdict(quantizer.config),
        **sae_fields(quantizer.encoder),
        "fit": None if quantizer.fit_config is None else dataclasses.asdict(quantizer.fit_config),
        "origin": None if quantizer.origin is None else dataclasses.asdict(quantizer.origin),
    }


def check_folder(folder: str | Path) -> Path:
    """A folder that a quantizer can be saved to, which is created if needed.

    Raises:
        PathTakenError: If it is a file, or holds another program's config.json.
        PathError: If it cannot be created or written to.
    """
    config = Path(folder) / CONFIG
    with path_errors(config):
        is_taken = config.is_file() and not is_ours(config)
    if is_taken:
        raise PathTakenError(
            f"{config} was not written by clvq_lens, and saving would overwrite it. "
            f"Pass a folder of its own."
        )
    folder = make_folder(folder)
    check_file(config)
    return folder


def load(folder: str | Path) -> CrossLayerQuantizer:
    """Reads a quantizer that `save` wrote; attach it with ``model.add_clvq(quantizer=...)``.

    Nothing is unpickled. Hash, names, shapes and types are checked before anything is built.

    Raises:
        FileNotFoundError: If there is no config.json in ``folder``.
        FileFormatError: If a file is damaged or does not fit the others; it says what differs.
        NewerFormatError: If a newer version of this library wrote it.

    Example:
        >>> quantizer = load("runs/gpt2-4-8")  # doctest: +SKIP
    """
    folder = Path(folder)
    saved = read_config(folder / CONFIG)
    while True:
        try:
            return _load_weights(folder, saved)
        except FileFormatError:
            # Another save may have ended since config.json was read, and deleted these weights.
            newer = read_config(folder / CONFIG)
            if newer.sha256 == saved.sha256:
                raise
            saved = newer


def _load_weights(folder: Path, saved: Saved) -> CrossLayerQuantizer:
    """The quantizer that config.json describes, with its weights from the same folder."""
    path = folder / saved.weights
    try:
        if not path.is_file():
            raise FileNotFoundError
        _check_hash(path, saved.sha256)
        with safe_open(path, framework="pt") as file:
            _check_copy(file.metadata(), saved, folder)
            # First the header alone: it says how much memory the tensors would need.
            _check_header(_header_of(file), saved, folder)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise FileFormatError(
            f"{path} is missing. Copy the whole folder, or save it again."
        ) from error
    except SafetensorError as error:
        raise FileFormatError(
            f"{path} is not a safetensors file: {error}. Save it again."
        ) from error
    if wrong := _impossible_values(weights):
        raise FileFormatError(
            f"{path} holds an impossible quantizer: {'; '.join(wrong)}. Fit it again, and save it."
        )
    quantizer = saved.build()
    quantizer.load_state_dict(weights)
    quantizer.origin, quantizer.fit_config = saved.origin, saved.fit
    return quantizer


def _codebook_kind(codebook: Codebook) -> str:
    """The word for a kind of codebook, such as "vectors"."""
    return next(kind for kind, known in CODEBOOKS.items() if type(codebook) is known)


def _library_version() -> str:
    return version("clvq-lens")


def _check_hash(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise FileFormatError(
            f"{path} is damaged: its SHA-256 is {digest[:12]}…, config.json says {sha256[:12]}…. "
            f"Copy the folder again, or save the quantizer again."
        )


def _check_copy(metadata: dict[str, str] | None, saved: Saved, folder: Path) -> None:
    """Raises `FileFormatError` if config.json differs from its copy in the file of weights."""
    try:
        copied = json.loads((metadata or {}).get(_COPY, "{}"))
        wrong = _differences(copied, saved.copied)
    except (ValueError, AttributeError, RecursionError):
        wrong = ["the copy cannot be read"]
    if wrong:
        raise FileFormatError(
            f"{folder / CONFIG} was edited, or belongs to another save than its weights: "
            f"{'; '.join(wrong[:_MAX_DIFFERENCES])}. Undo that, or save the quantizer again."
        )


def _differences(copied: dict[str, Any], config: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs from the copy, as "field is x, was saved as y", in nested fields too."""
    differences = []
    for name in sorted(copied.keys() | config.keys()):
        now, before = config.get(name), copied.get(name)
        if isinstance(now, dict) and isinstance(before, dict):
            differences += _differences(before, now, prefix=f"{prefix}{name}.")
        elif json.dumps(now) != json.dumps(before):  # as text, where NaN equals itself
            differences.append(f"{prefix}{name} is {now!r}, was saved as {before!r}")
    return differences


def _impossible_values(tensors: dict[str, Tensor]) -> list[str]:
    """What no fit can leave in tensors: NaN, infinity, counts below zero, or no token at all."""
    wrong = []
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            if (tensor < 0).any():
                wrong.append(f"{name} holds counts below 0")
        elif tensor.isnan().any():
            wrong.append(f"{name} holds NaN")
        elif tensor.isinf().any() and not _may_be_infinite(name):
            wrong.append(f"{name} holds infinity")
    if not tensors["usage"].any():
        wrong.append("usage is 0 for every code")
    return wrong


def _may_be_infinite(name: str) -> bool:
    """Whether a tensor may hold infinity."""
    # Limits of norms, without outliers; and the mix of an encoder that changes nothing.
    return name.startswith("max_") or name == "encoder.mix_logit"


def _header_of(file: Any) -> dict[str, str]:
    """Type and shape of every tensor in a safetensors file, of which only the header is read."""
    header = {}
    for name in file.keys():  # noqa: SIM118  # the file is no dict
        tensor = file.get_slice(name)
        header[name] = f"{tensor.get_dtype()} {list(tensor.get_shape())}"
    return header


def _check_header(header: dict[str, str], saved: Saved, folder: Path) -> None:
    """Raises `FileFormatError` unless a file has the tensors that config.json describes."""
    # First what decides how much memory a quantizer takes, so that no file can ask for more than
    # its own size.
    options = saved.quantizer
    d_code = options.d_code(saved.d_source, saved.d_target)
    sizes = {
        "codebook.vectors": f"F32 {[options.n_codes, d_code]}",
        "mean_target": f"F32 {[options.n_codes, saved.d_target]}",
    }
    _check_tensors(sizes, {name: header[name] for name in sizes if name in header}, folder)
    blocks = {name.split(".")[2] for name in header if name.startswith("decoder.blocks.")}
    if options.decoder != "table" and len(blocks) != options.decoder_layers:
        raise FileFormatError(
            f"The weights in {folder} have {len(blocks)} decoder blocks, and config.json says "
            f"decoder_layers: {options.decoder_layers}. The files belong to different saves; save "
            f"the quantizer again."
        )
    try:
        with torch.device("meta"):  # where tensors have shapes and no content
            tensors = saved.build().state_dict()
    except TerminatedError:  # SIGTERM may come at any moment, and says nothing about the file
        raise
    except (ConfigError, RuntimeError, TypeError, OverflowError) as error:
        raise impossible(folder / CONFIG, error) from error
    expected = {}
    for name, tensor in tensors.items():
        expected[name] = f"{_SAFETENSORS_DTYPES[tensor.dtype]} {list(tensor.shape)}"
    _check_tensors(expected, header, folder)


def _check_tensors(expected: dict[str, str], header: dict[str, str], folder: Path) -> None:
    """Raises `FileFormatError` unless tensors have the expected names, types and shapes."""
    wrong = []
    for name in expected.keys() | header.keys():
        if name not in header:
            wrong.append(f"missing {name}")
        elif name not in expected:
            wrong.append(f"unknown {name}")
        elif header[name] != expected[name]:
            wrong.append(f"{name} is {header[name]}, expected {expected[name]}")
    if wrong:
        listed = "; ".join(sorted(wrong)[:_MAX_DIFFERENCES])
        n_more = len(wrong) - _MAX_DIFFERENCES
        if n_more > 0:
            listed += f"; {n_more} more"
        raise FileFormatError(
            f"The weights in {folder} do not fit its config.json: {listed}. "
            f"The files belong to different saves; save the quantizer again."
        )
