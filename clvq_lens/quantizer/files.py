"""Saving and loading: config.json and one safetensors file, atomic, versioned, strict."""

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from clvq_lens.config import CLVQConfig
from clvq_lens.errors import ConfigError, FileFormatError, NewerFormatError
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.origin import Origin

FORMAT_VERSION = 1
_CONFIG = "config.json"
_FIELDS = {"format", "format_version", "library_version", "weights", "sha256"} | {
    *("d_source", "d_target", "causal", "quantizer", "origin")
}


def save(quantizer: CrossLayerQuantizer, folder: str | Path) -> Path:
    """Writes a fitted quantizer; an interrupted save leaves what was there before.

    The weights go first, under a name made of their hash; replacing config.json, which names
    them, is the one step that counts. Weights of an earlier save are deleted last.

    Args:
        quantizer: To be saved.
        folder: Created if needed.

    Returns:
        The folder.

    Raises:
        NotFittedError: If the quantizer was never fitted.
        FileExistsError: If ``folder`` is a file, or holds another program's config.json.
    """
    quantizer.require_fitted()
    folder = Path(folder)
    _refuse_foreign(folder / _CONFIG)
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({k: v.cpu().contiguous() for k, v in quantizer.state_dict().items()})
    digest = hashlib.sha256(weights).hexdigest()
    name = f"weights-{digest[:12]}.safetensors"
    config = {
        "format": "clvq_lens",
        "format_version": FORMAT_VERSION,
        "library_version": _library_version(),
        "weights": name,
        "sha256": digest,
        "d_source": quantizer.d_source,
        "d_target": quantizer.d_target,
        "causal": quantizer.causal,
        "quantizer": dataclasses.asdict(quantizer.config),
        "origin": None if quantizer.origin is None else dataclasses.asdict(quantizer.origin),
    }
    write_atomically(folder / name, weights)
    write_atomically(folder / _CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    for old in folder.glob(f"weights-{'[0-9a-f]' * 12}.safetensors"):  # ours, and nobody else's
        if old.name != name:
            old.unlink()
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
    config = _read_config(folder / _CONFIG)
    weights = _read_weights(folder / config["weights"], config["sha256"])
    try:
        quantizer = CrossLayerQuantizer(
            CLVQConfig().replace(**config["quantizer"]),
            config["d_source"],
            config["d_target"],
            causal=config["causal"],
        )
    except (ConfigError, TypeError, RuntimeError) as error:
        raise FileFormatError(
            f"{folder / _CONFIG} holds an impossible quantizer: {error} Save it again."
        ) from error
    _check_tensors(quantizer.state_dict(), weights, folder)
    quantizer.load_state_dict(weights)
    if config["origin"] is not None:
        quantizer.origin = Origin.from_dict(config["origin"])
    return quantizer


def _refuse_foreign(path: Path) -> None:
    """Raises rather than overwrite a config.json that somebody else wrote, such as a model's."""
    if path.is_file() and '"format": "clvq_lens"' not in path.read_text(errors="replace"):
        raise FileExistsError(
            f"{path} was not written by clvq_lens, and saving would overwrite it. "
            f"Pass a folder of its own."
        )


def _library_version() -> str:
    from clvq_lens import __version__

    return __version__


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file beside the old one and puts it in its place in one step."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)  # noqa: PTH105  # the atomic one, also over an existing file
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"No {path.name} in {path.parent}. Pass the folder that lens.save(folder) wrote."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(f"{path} is damaged: {error}. Save the quantizer again.") from error
    if not isinstance(config, dict) or config.get("format") != "clvq_lens":
        raise FileFormatError(
            f"{path} was not written by clvq_lens (no 'format': 'clvq_lens'). "
            f"Pass the folder that lens.save(folder) wrote."
        )
    version = config.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path} has format version {version}; this library reads up to {FORMAT_VERSION}. "
            f"Upgrade it: pip install --upgrade clvq-lens."
        )
    if version != FORMAT_VERSION or set(config) != _FIELDS:
        missing, unknown = sorted(_FIELDS - set(config)), sorted(set(config) - _FIELDS)
        raise FileFormatError(
            f"{path} is damaged: format version {version!r}, missing fields {missing}, "
            f"unknown fields {unknown}. Save the quantizer again."
        )
    _check_types(config, path)
    return config


def _check_types(config: dict[str, Any], path: Path) -> None:
    kinds = {"weights": str, "sha256": str, "d_source": int, "d_target": int, "causal": bool}
    for field, kind in {**kinds, "quantizer": dict}.items():
        if type(config[field]) is not kind:
            raise FileFormatError(
                f"{path} is damaged: {field!r} is {config[field]!r}, expected {kind.__name__}. "
                f"Save the quantizer again."
            )
    options = {field.name for field in dataclasses.fields(CLVQConfig)}
    if set(config["quantizer"]) != options:
        differing = sorted(set(config["quantizer"]) ^ options)
        raise FileFormatError(
            f"{path} is damaged: its quantizer lacks or does not know the options {differing}. "
            f"Save the quantizer again."
        )
    if not isinstance(config["origin"], dict | None):
        raise FileFormatError(f"{path} is damaged: 'origin' is no object. Save it again.")
    if Path(config["weights"]).name != config["weights"]:
        raise FileFormatError(
            f"{path} names weights outside its own folder ({config['weights']!r}). Do not trust it."
        )


def _read_weights(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileFormatError(f"{path} is missing. Copy the whole folder, or save it again.")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise FileFormatError(
            f"{path} is damaged: its SHA-256 is {digest[:12]}…, config.json says {sha256[:12]}…. "
            f"Copy the folder again, or save the quantizer again."
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise FileFormatError(f"{path} is no safetensors file: {error}. Save it again.") from error


def _check_tensors(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], folder: Path
) -> None:
    wrong = [f"missing {name}" for name in expected.keys() - found.keys()]
    wrong += [f"unknown {name}" for name in found.keys() - expected.keys()]
    wrong += [
        f"{name} is {tensor.dtype} {list(tensor.shape)}, expected "
        f"{expected[name].dtype} {list(expected[name].shape)}"
        for name, tensor in found.items()
        if name in expected
        and (tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype)
    ]
    if wrong:
        raise FileFormatError(
            f"The weights in {folder} do not fit its config.json: {'; '.join(sorted(wrong))}. "
            f"The files belong to different saves; save the quantizer again."
        )
