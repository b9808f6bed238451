"""Saving and loading: config.json and one safetensors file, atomic, versioned, strict.

config.json names the weights and their SHA-256. The file of weights holds a copy of everything
else that config.json says, so that the hash covers the whole, and a field that was edited is named.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from clvq_lens.errors import ConfigError, FileFormatError, NonFiniteError, PathTakenError
from clvq_lens.quantizer.codebook import Codebook
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
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
_MAX_DIFFERENCES = 8  # that a message lists
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # in the words of safetensors
_COPY = "clvq_lens"  # the key of the copy of config.json in the file of weights


def save(quantizer: CrossLayerQuantizer, folder: str | Path) -> Path:
    """Writes a fitted quantizer; an interrupted save leaves what was there before.

    The weights go first, under a name made of their hash; replacing config.json, which names
    them, is the one step that counts. Weights of an earlier save are deleted last. Saves into one
    folder wait for each other; whoever loads meanwhile gets one of the quantizers.

    Args:
        quantizer: To be saved.
        folder: Created if needed.

    Returns:
        The folder.

    Raises:
        NotFittedError: If the quantizer was never fitted.
        NonFiniteError: If it holds NaN or infinity, so that it could not be loaded.
        PathTakenError: If ``folder`` is a file, or holds another program's config.json. A
            `FileExistsError`.
        PathError: If the folder cannot be written to, or the disk is full. An `OSError`.
    """
    quantizer.require_fitted()
    tensors = {name: t.cpu().contiguous() for name, t in quantizer.state_dict().items()}
    if wrong := _impossible_values(tensors):
        raise NonFiniteError(
            f"The quantizer cannot be saved: {'; '.join(wrong)}. Fit it again, with a smaller "
            f"learning_rate if that is how it came about."
        )
    folder = check_folder(folder)
    config = {
        "format": "clvq_lens",
        "format_version": FORMAT_VERSION,
        "library_version": _library_version(),
        "d_source": quantizer.d_source,
        "d_target": quantizer.d_target,
        "causal": quantizer.causal,
        "codebook": _kind(quantizer.codebook),
        "quantizer": dataclasses.asdict(quantizer.config),
        "fit": None if quantizer.fit_config is None else dataclasses.asdict(quantizer.fit_config),
        "origin": None if quantizer.origin is None else dataclasses.asdict(quantizer.origin),
    }
    weights = save_tensors(tensors, metadata={_COPY: json.dumps(config)})
    check_space(folder, len(weights))
    digest = hashlib.sha256(weights).hexdigest()
    name = f"weights-{digest[:12]}.safetensors"
    named = {**config, "weights": name, "sha256": digest}
    temporary = folder / _TEMPORARY
    with locked(folder / _LOCK):
        replace_file(folder / name, weights, temporary=temporary)
        text = json.dumps(named, indent=2) + "\n"
        replace_file(folder / CONFIG, text.encode(), temporary=temporary)
        for old in folder.iterdir():  # nobody else is between the two files now
            if WEIGHTS.fullmatch(old.name) and old.name != name:
                old.unlink(missing_ok=True)
    return folder


def check_folder(folder: str | Path) -> Path:
    """A folder that a quantizer can be saved to; created if needed.

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

    Nothing is unpickled, and hash, names, shapes and types are checked before anything is built.

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
            return _load(folder, saved)
        except FileFormatError:
            # A save that ended in the meantime has deleted the weights of the one before.
            newer = read_config(folder / CONFIG)
            if newer.sha256 == saved.sha256:
                raise
            saved = newer


def _load(folder: Path, saved: Saved) -> CrossLayerQuantizer:
    """The quantizer of a folder whose config.json says this."""
    path = folder / saved.weights
    try:
        if not path.is_file():
            raise FileNotFoundError
        _check_hash(path, saved.sha256)
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            header = {name: _described(file.get_slice(name)) for name in names}
            _check_copy(file.metadata(), saved, folder)
            _check_header(header, saved, folder)
            weights = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise FileFormatError(
            f"{path} is missing. Copy the whole folder, or save it again."
        ) from error
    except SafetensorError as error:
        raise FileFormatError(f"{path} is no safetensors file: {error}. Save it again.") from error
    if wrong := _impossible_values(weights):
        raise FileFormatError(
            f"{path} holds an impossible quantizer: {'; '.join(wrong)}. Fit it again, and save it."
        )
    quantizer = saved.build()
    quantizer.load_state_dict(weights)
    quantizer.origin, quantizer.fit_config = saved.origin, saved.fit
    return quantizer


def _kind(codebook: Codebook) -> str:
    return next(kind for kind, each in CODEBOOKS.items() if type(codebook) is each)


def _library_version() -> str:
    from clvq_lens import __version__

    return __version__


def _check_hash(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise FileFormatError(
            f"{path} is damaged: its SHA-256 is {digest[:12]}…, config.json says {sha256[:12]}…. "
            f"Copy the folder again, or save the quantizer again."
        )


def _check_copy(metadata: dict[str, str] | None, saved: Saved, folder: Path) -> None:
    """Compares config.json with its copy in the file of weights, which the hash covers."""
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


def _differences(copied: dict[str, Any], found: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs from the copy, as "field is mine, was saved as theirs"; in nested fields too."""
    differences = []
    for name in sorted(copied.keys() | found.keys()):
        mine, theirs = found.get(name), copied.get(name)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            differences += _differences(theirs, mine, prefix=f"{prefix}{name}.")
        elif json.dumps(mine) != json.dumps(theirs):  # as text: NaN in an origin equals itself
            differences.append(f"{prefix}{name} is {mine!r}, was saved as {theirs!r}")
    return differences


def _impossible_values(tensors: dict[str, Tensor]) -> list[str]:
    """Tensors that no fit can leave: NaN, infinity, counts below zero, or no token at all."""
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
    """A limit may be none; and an encoder that changes nothing, of a baseline, mixes nothing in."""
    return name.startswith("max_") or name == "encoder.mix_logit"


def _described(tensor: Any) -> str:
    """Type and shape of a tensor in a safetensors file, whose header is all that this reads."""
    return f"{tensor.get_dtype()} {list(tensor.get_shape())}"


def _check_header(header: dict[str, str], saved: Saved, folder: Path) -> None:
    """Compares the tensors of a file with those of the quantizer that config.json describes.

    First the sizes that decide how much is allocated: they cannot exceed the file's. Then every
    tensor, with those of a quantizer on the device where tensors have shapes and no content.
    """
    options = saved.quantizer
    expected = {
        "codebook.vectors": f"F32 {[options.n_codes, saved.d_source]}",
        "mean_target": f"F32 {[options.n_codes, saved.d_target]}",
    }
    found = {name: header[name] for name in expected.keys() & header.keys()}
    _compare(expected, found, folder)
    blocks = {name.split(".")[2] for name in header if name.startswith("decoder.blocks.")}
    if options.decoder != "table" and len(blocks) != options.decoder_layers:
        raise FileFormatError(
            f"The weights in {folder} have {len(blocks)} decoder blocks, and config.json says "
            f"decoder_layers: {options.decoder_layers}. The files belong to different saves; save "
            f"the quantizer again."
        )
    try:
        with torch.device("meta"):
            tensors = saved.build().state_dict()
    except (ConfigError, RuntimeError, TypeError, OverflowError) as error:
        raise impossible(folder / CONFIG, error) from error
    _compare(
        {name: f"{_DTYPES[t.dtype]} {list(t.shape)}" for name, t in tensors.items()},
        header,
        folder,
    )


def _compare(expected: dict[str, str], found: dict[str, str], folder: Path) -> None:
    wrong = [f"missing {name}" for name in expected.keys() - found.keys()]
    wrong += [f"unknown {name}" for name in found.keys() - expected.keys()]
    wrong += [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    if wrong:
        more = len(wrong) - _MAX_DIFFERENCES
        listed = "; ".join(sorted(wrong)[:_MAX_DIFFERENCES]) + (f"; {more} more" * (more > 0))
        raise FileFormatError(
            f"The weights in {folder} do not fit its config.json: {listed}. "
            f"The files belong to different saves; save the quantizer again."
        )
