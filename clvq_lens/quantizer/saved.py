"""What config.json says about a saved quantizer: read strictly, field by field."""

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.errors import ConfigError, FileFormatError, NewerFormatError
from clvq_lens.quantizer.codebook import Codebook
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.quantizer.feature_codebook import FeatureCodebook
from clvq_lens.quantizer.origin import Origin
from clvq_lens.quantizer.sae_codebook import SAECodebook
from clvq_lens.quantizer.sae_prediction import SAEOptions

FORMAT_VERSION = 5
CONFIG = "config.json"
WEIGHTS = re.compile(r"weights-[0-9a-f]{12}\.safetensors")
"""Names of our files of weights."""

_MAX_CONFIG_BYTES = 2**20  # many times the size of ours
_COPIED = {
    *("format", "format_version", "library_version", "d_source", "d_target", "causal"),
    *("codebook", "quantizer", "fit", "origin"),
}
_FIELDS = _COPIED | {"weights", "sha256"}
_SAE = "sae"  # the one field that a config.json may lack: most quantizers have no SAE
CODEBOOKS: dict[str, type[Codebook]] = {
    "vectors": Codebook,
    "features": FeatureCodebook,
    "features of an SAE": SAECodebook,
}
_BEFORE_THERE_WERE_TWO_ENCODERS = {"encoder": "residual", "encoder_layers": 2, "d_encoder_mlp": 1}


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What config.json says about a saved quantizer.

    Attributes:
        weights: Name of the file of weights, in the same folder.
        sha256: SHA-256 of the file of weights.
        d_source: Width at the source.
        d_target: Width at the target.
        causal: Whether the host is causal.
        codebook: What the codes are, such as "vectors"; one of the names in `CODEBOOKS`.
        quantizer: Options of the quantizer.
        sae: Options of the SAE in its encoder, if there is one.
        fit: Options of its fit, if known.
        origin: The model that it was fitted on, if known.
        copied: The fields that the file of weights repeats.
    """

    weights: str
    sha256: str
    d_source: int
    d_target: int
    causal: bool
    codebook: str
    quantizer: CLVQConfig
    sae: SAEOptions | None
    fit: FitConfig | None
    origin: Origin | None
    copied: dict[str, Any]

    def build(self) -> CrossLayerQuantizer:
        """A quantizer of these sizes, without the weights."""
        return CrossLayerQuantizer(
            self.quantizer,
            self.d_source,
            self.d_target,
            causal=self.causal,
            codebook=CODEBOOKS[self.codebook],
            sae=self.sae,
        )


def is_ours(path: Path) -> bool:
    """Whether clvq_lens wrote a config.json, in any version, and whether damaged or not."""
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        return False
    return '"format": "clvq_lens"' in path.read_text(errors="replace")


def read_config(path: Path) -> Saved:
    """Reads and verifies a config.json, and no other file.

    Raises:
        FileNotFoundError: If the file is missing.
        FileFormatError: If it is damaged or impossible, or another program wrote it.
        NewerFormatError: If a newer version of this library wrote it.
    """
    config = _parse(path)
    _check_fields(config, path)
    _check_types(config, path)
    try:
        options = CLVQConfig().replace(**_options_of(config))
        fit = None if config["fit"] is None else FitConfig().replace(**config["fit"])
        sae = SAEOptions(**config[_SAE]) if _SAE in config else None
    except (ConfigError, TypeError) as error:
        raise impossible(path, error) from error
    if config["codebook"] not in CODEBOOKS:
        raise impossible(path, f"its codebook is {config['codebook']!r}.")
    for width in ("d_source", "d_target"):
        if config[width] < 1:
            raise impossible(path, f"{width} is {config[width]}, and no width is below 1.")
    origin = None if config["origin"] is None else Origin.from_dict(config["origin"])
    return Saved(
        weights=config["weights"],
        sha256=config["sha256"],
        d_source=config["d_source"],
        d_target=config["d_target"],
        causal=config["causal"],
        codebook=config["codebook"],
        quantizer=options,
        sae=sae,
        fit=fit,
        origin=origin,
        copied={name: config[name] for name in config.keys() & (_COPIED | {_SAE})},
    )


def _parse(path: Path) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"No {path.name} in {path.parent}. Pass the folder that lens.save(folder) wrote."
        )
    foreign = (
        f"{path} was not written by clvq_lens (no 'format': 'clvq_lens'). "
        f"Pass the folder that lens.save(folder) wrote."
    )
    if path.stat().st_size > _MAX_CONFIG_BYTES:  # read no file that may fill the memory
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
    # A newer format has other fields, so its number comes before them. True is no version.
    if type(version) is int and version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path} has format version {version}; this library reads up to {FORMAT_VERSION}. "
            f"Upgrade it: pip install --upgrade clvq-lens."
        )
    fields = set(config) - {_SAE}
    if type(version) is not int or version != FORMAT_VERSION or fields != _FIELDS:
        missing, unknown = sorted(_FIELDS - fields), sorted(fields - _FIELDS)
        raise FileFormatError(
            f"{path} is damaged or of a version that was never released: format version "
            f"{version!r}, missing fields {missing}, unknown fields {unknown}. "
            f"Save the quantizer again."
        )


def _check_types(config: dict[str, Any], path: Path) -> None:
    kinds = {
        **{"weights": str, "sha256": str, "d_source": int, "d_target": int, "causal": bool},
        **{"codebook": str, "quantizer": dict},
    }
    for field, kind in kinds.items():
        if type(config[field]) is not kind:  # not isinstance: True would be a width
            raise FileFormatError(
                f"{path} is damaged: {field!r} is {config[field]!r}, expected {kind.__name__}. "
                f"Save the quantizer again."
            )
    options = {field.name for field in dataclasses.fields(CLVQConfig)}
    if set(_options_of(config)) != options:
        differing = sorted(set(_options_of(config)) ^ options)
        raise FileFormatError(
            f"{path} is damaged: its quantizer lacks or does not know the options {differing}. "
            f"Save the quantizer again."
        )
    if not isinstance(config.get(_SAE, {}), dict):
        raise FileFormatError(f"{path} is damaged: {_SAE!r} is not an object. Save it again.")
    for name in ("fit", "origin"):
        if not isinstance(config[name], dict | None):
            raise FileFormatError(f"{path} is damaged: {name!r} is not an object. Save it again.")
    if not WEIGHTS.fullmatch(config["weights"]):
        raise FileFormatError(
            f"{path} names the file {config['weights']!r}; expected one beside it, named "
            f"weights-<12 hex digits>.safetensors. Do not trust it."
        )


def _options_of(config: dict[str, Any]) -> dict[str, Any]:
    """The saved options of the quantizer; files know them all since there are two encoders."""
    return {**_BEFORE_THERE_WERE_TWO_ENCODERS, **config["quantizer"]}


def impossible(path: Path, reason: object) -> FileFormatError:
    """The error for a config.json that no quantizer has."""
    return FileFormatError(f"{path} holds an impossible quantizer: {reason} Save it again.")
