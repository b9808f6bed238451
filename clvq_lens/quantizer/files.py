"""Saving and loading: config.json and one safetensors file, atomic, versioned, strict."""

import dataclasses
import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors

from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.errors import ConfigError, FileFormatError, NewerFormatError
from clvq_lens.quantizer.codebook import Codebook
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.feature_codebook import FeatureCodebook
from clvq_lens.quantizer.origin import Origin

FORMAT_VERSION = 4
CONFIG = "config.json"
WEIGHTS = re.compile(r"weights-[0-9a-f]{12}\.safetensors")
"""Names of files of weights: ours, and nobody else's."""

_MAX_CONFIG_BYTES = 2**20  # a thousand times what one takes
_MAX_DIFFERENCES = 8  # that a message lists
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # in the words of safetensors
_FIELDS = {"format", "format_version", "library_version", "weights", "sha256"} | {
    *("d_source", "d_target", "causal", "codebook", "quantizer", "fit", "origin")
}
_CODEBOOKS: dict[str, type[Codebook]] = {"vectors": Codebook, "features": FeatureCodebook}


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
    _refuse_foreign(folder / CONFIG)
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
        "codebook": _kind(quantizer.codebook),
        "quantizer": dataclasses.asdict(quantizer.config),
        "fit": None if quantizer.fit_config is None else dataclasses.asdict(quantizer.fit_config),
        "origin": None if quantizer.origin is None else dataclasses.asdict(quantizer.origin),
    }
    write_atomically(folder / name, weights)
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    for old in folder.iterdir():
        if WEIGHTS.fullmatch(old.name) and old.name != name:
            old.unlink()
    return folder


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What config.json says about a saved quantizer.

    Attributes:
        weights: Name of the file of weights beside it.
        sha256: Of that file.
        d_source: Width at the source.
        d_target: Width at the target.
        causal: Whether the host is.
        codebook: What its codes are: "vectors" or "features".
        quantizer: Options.
        fit: How it was fitted, if known.
        origin: Where it was fitted, if known.
    """

    weights: str
    sha256: str
    d_source: int
    d_target: int
    causal: bool
    codebook: str
    quantizer: CLVQConfig
    fit: FitConfig | None
    origin: Origin | None

    def build(self) -> CrossLayerQuantizer:
        """A quantizer of these sizes, without the weights."""
        sizes = self.d_source, self.d_target
        codebook = _CODEBOOKS[self.codebook]
        return CrossLayerQuantizer(self.quantizer, *sizes, causal=self.causal, codebook=codebook)


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
    path = folder / saved.weights
    _check_hash(path, saved.sha256)
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            header = {name: _described(file.get_slice(name)) for name in names}
            _check_header(header, saved, folder)
            weights = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise FileFormatError(f"{path} is no safetensors file: {error}. Save it again.") from error
    quantizer = saved.build()
    quantizer.load_state_dict(weights)
    quantizer.origin, quantizer.fit_config = saved.origin, saved.fit
    return quantizer


def _kind(codebook: Codebook) -> str:
    return next(kind for kind, each in _CODEBOOKS.items() if type(codebook) is each)


def is_ours(path: Path) -> bool:
    """Whether a config.json was written by clvq_lens, in whatever version or state."""
    return '"format": "clvq_lens"' in path.read_text(errors="replace")


def _refuse_foreign(path: Path) -> None:
    """Raises rather than overwrite a config.json that somebody else wrote, such as a model's."""
    if path.is_file() and not is_ours(path):
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


def read_config(path: Path) -> Saved:
    """Reads and verifies a config.json; no other file is looked at.

    Raises:
        FileNotFoundError: If there is none.
        FileFormatError: If it is damaged, impossible or somebody else's.
        NewerFormatError: If a newer version of this library wrote it.
    """
    config = _parse(path)
    _check_fields(config, path)
    _check_types(config, path)
    try:
        options = CLVQConfig().replace(**config["quantizer"])
        fit = None if config["fit"] is None else FitConfig().replace(**config["fit"])
    except (ConfigError, TypeError) as error:
        raise _impossible(path, error) from error
    if config["codebook"] not in _CODEBOOKS:
        raise _impossible(path, f"its codebook is {config['codebook']!r}.")
    for width in ("d_source", "d_target"):
        if config[width] < 1:
            raise _impossible(path, f"{width} is {config[width]}, and no width is below 1.")
    origin = None if config["origin"] is None else Origin.from_dict(config["origin"])
    names = ("weights", "sha256", "d_source", "d_target", "causal", "codebook")
    known = {name: config[name] for name in names}
    return Saved(**known, quantizer=options, fit=fit, origin=origin)


def _parse(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"No {path.name} in {path.parent}. Pass the folder that lens.save(folder) wrote."
        )
    foreign = (
        f"{path} was not written by clvq_lens (no 'format': 'clvq_lens'). "
        f"Pass the folder that lens.save(folder) wrote."
    )
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise FileFormatError(foreign)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is damaged: {error}. Save the quantizer again.") from error
    if not isinstance(config, dict) or config.get("format") != "clvq_lens":
        raise FileFormatError(foreign)
    return config


def _check_fields(config: dict[str, Any], path: Path) -> None:
    version = config.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path} has format version {version}; this library reads up to {FORMAT_VERSION}. "
            f"Upgrade it: pip install --upgrade clvq-lens."
        )
    if type(version) is not int or version != FORMAT_VERSION or set(config) != _FIELDS:
        missing, unknown = sorted(_FIELDS - set(config)), sorted(set(config) - _FIELDS)
        raise FileFormatError(
            f"{path} is damaged: format version {version!r}, missing fields {missing}, "
            f"unknown fields {unknown}. Save the quantizer again."
        )


def _check_types(config: dict[str, Any], path: Path) -> None:
    kinds = {"weights": str, "sha256": str, "d_source": int, "d_target": int, "causal": bool}
    kinds["codebook"] = str
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
    for name in ("fit", "origin"):
        if not isinstance(config[name], dict | None):
            raise FileFormatError(f"{path} is damaged: {name!r} is no object. Save it again.")
    if not WEIGHTS.fullmatch(config["weights"]):
        raise FileFormatError(
            f"{path} names the file {config['weights']!r}; expected one beside it, named "
            f"weights-<12 hex digits>.safetensors. Do not trust it."
        )


def _impossible(path: Path, reason: object) -> FileFormatError:
    return FileFormatError(f"{path} holds an impossible quantizer: {reason} Save it again.")


def _check_hash(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise FileFormatError(f"{path} is missing. Copy the whole folder, or save it again.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise FileFormatError(
            f"{path} is damaged: its SHA-256 is {digest[:12]}…, config.json says {sha256[:12]}…. "
            f"Copy the folder again, or save the quantizer again."
        )


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
        raise _impossible(folder / CONFIG, error) from error
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
