"""What results of a comparison depend on: settings that a file keeps, and the identity of all."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from clvq_lens.comparison.contestants import Contestant, Fitting
from clvq_lens.config import FitConfig
from clvq_lens.data.document import Document
from clvq_lens.data.store.stored_activations import StoredActivations
from clvq_lens.training.identity import (
    documents_digest,
    model_identity,
    quantizer_identity,
)


def comparison_settings(
    data: Mapping[str, object],
    numbers: Mapping[str, object],
    config: FitConfig,
    options: Mapping[str, Any],
) -> dict[str, object]:
    """All that results depend on but lenses and readout; of data a digest.

    Args:
        data: Texts, classes and labels by name.
        numbers: Options of the comparison.
        config: Options of the fits.
        options: Options of faithfulness.
    """
    settings: dict[str, object] = {}
    for name, value in data.items():
        settings[name] = _digest(value)
    settings |= numbers
    for name, value in options.items():
        # A readout can neither be written down nor compared.
        if isinstance(value, str | int | float | bool):
            settings[name] = value
    for name, value in dataclasses.asdict(config).items():
        settings[f"config.{name}"] = value
    return settings


def comparison_identity(
    fitting: Fitting,
    contestants: Sequence[Contestant],
    settings: Mapping[str, object],
    *,
    bounds: bool,
) -> dict[str, Any]:
    """What has to be the same for a comparison to go on: settings, methods and the model.

    Args:
        fitting: How methods are fitted.
        contestants: The methods.
        settings: What `comparison_settings` gave.
        bounds: Whether there are rows for predictions that are not quantized.
    """
    methods: dict[str, object] = {}
    for contestant in contestants:
        methods[contestant.name] = "a baseline"
        if contestant.lens is not None:
            methods[contestant.name] = quantizer_identity(contestant.lens.attachment)
    return {
        "settings": dict(settings),
        "methods": methods,
        "reference": fitting.reference.name,
        "decoders": fitting.decoders,
        "bounds": bounds,
        "model": model_identity(fitting.reference.host),
    }


def _digest(value: object) -> str | None:
    if value is None:
        return None
    return hashlib.blake2b(json.dumps(value, default=_jsonable).encode(), digest_size=8).hexdigest()


def _jsonable(value: Any) -> object:
    """What JSON can hold; a long array as a string would lack its middle."""
    if isinstance(value, StoredActivations):
        return value.digest
    if isinstance(value, Document):
        return documents_digest([value])
    return value.tolist() if hasattr(value, "tolist") else str(value)
