"""add_clvq: puts a quantizer on a model."""

import operator
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, SupportsIndex, Unpack

import torch

from clvq_lens.arguments import check_is
from clvq_lens.config import CLVQConfig, CLVQOptions
from clvq_lens.errors import ConfigError, HostMismatchError
from clvq_lens.host.attachment import Attachment
from clvq_lens.host.host import Host
from clvq_lens.host.lenses import lenses_of, require_free_name
from clvq_lens.host.protocol.without_model import VectorModel
from clvq_lens.lens import Lens
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer


def add_clvq(
    model: Any,
    source: SupportsIndex | str | None = None,
    target: SupportsIndex | str | None = None,
    *,
    name: str | None = None,
    config: CLVQConfig | None = None,
    quantizer: CrossLayerQuantizer | None = None,
    check_weights: bool = True,
    **options: Unpack[CLVQOptions],
) -> Lens:
    """Attaches a quantizer between two layers of a model; the model computes the same as before.

    Args:
        model: A TransformerLens `HookedTransformer`, `HookedEncoder` or `TransformerBridge`.
        source: Where to read: a layer number for the residual stream after that block, or the
            name of a hook point.
        target: Where to reconstruct, later than the source.
        name: Prefix of its hook points, ``clvq.<name>.hook_codes`` and so on; None: such as "4-8".
        config: The quantizer's options; None: the defaults.
        quantizer: A fitted quantizer, from `clvq_lens.load`, instead of a new one. Source, target
            and name are then its own.
        check_weights: Whether a fitted quantizer refuses a model of the same shape and processing
            with other weights, such as a fine-tuned one.
        **options: Options of `CLVQConfig` by name.

    Returns:
        The lens, with the verbs: fit, encode, evaluate, concepts, report, edit, project_out,
        splice, save, remove.

    Raises:
        HookNotFoundError: If a layer or hook point does not exist.
        LayerOrderError: If the target lies before the source.
        NameTakenError: If the model has a quantizer of that name.
        ConfigError: If an option does not exist or is impossible.
        HostMismatchError: If ``quantizer`` was fitted on another model.
        AlreadyAttachedError: If ``quantizer`` is on a model already.

    Example:
        >>> lens = model.add_clvq(source=4, target=8, n_codes=400)  # doctest: +SKIP
    """
    host = Host(model)
    check_is("config", config, CLVQConfig | None, "Pass a clvq_lens.CLVQConfig, or none.")
    require_free_name(host.model, name)
    if quantizer is not None:
        remedy = "Pass what clvq_lens.load(folder) returns, or lens.quantizer."
        check_is("quantizer", quantizer, CrossLayerQuantizer, remedy)
        if source is not None or target is not None or config is not None or options:
            raise ConfigError(
                "A fitted quantizer brings its own source, target and options. "
                "Pass quantizer=... and at most a name, or leave it out and fit a new one."
            )
        return _attach(host, quantizer, name, check_weights=check_weights)
    if source is None or target is None:
        raise ConfigError("Pass both source=... and target=..., or quantizer=load(folder).")
    source_point, target_point = host.resolve(source), host.resolve(target)
    host.check_order(source_point, target_point)
    d_source, d_target = host.width(source_point), host.width(target_point)
    config = (config or CLVQConfig()).replace(**options)
    with torch.inference_mode(False):  # or its weights could never be trained
        quantizer = CrossLayerQuantizer(config, d_source, d_target, causal=host.causal)
    name = name or f"{_shown(source)}-{_shown(target)}"
    quantizer.origin = host.origin(source_point, target_point, name)
    return _attach(host, quantizer, name)


def _attach(
    host: Host, quantizer: CrossLayerQuantizer, name: str | None, *, check_weights: bool = True
) -> Lens:
    origin = quantizer.origin
    if origin is None:
        raise HostMismatchError(
            "This quantizer does not say which model it belongs to. Create it with "
            "model.add_clvq(source, target), which records that."
        )
    vectors_only = origin.host == VectorModel.__name__
    if vectors_only == host.runs:
        fitted_on, remedy = f"a model ({origin.host})", "Attach it to that model."
        if vectors_only:
            fitted_on = "vectors without a model"
            remedy = "Attach it to such: clvq_lens.activations(...).add_clvq(quantizer=quantizer)."
        raise HostMismatchError(
            f"The quantizer was fitted on {fitted_on}, and this is a {host.protocol.kind}. {remedy}"
        )
    name = name or origin.name
    require_free_name(host.model, name)  # before what is slower to look at
    # Hosts of one architecture name the same point differently: a saved name is made local first.
    source = host.resolve(host.protocol.local(origin.source))
    target = host.resolve(host.protocol.local(origin.target))
    here = host.origin(source, target, name)
    differences = origin.differences(
        here if check_weights else replace(here, weights=origin.weights)
    )
    if differences:
        raise HostMismatchError(
            f"The quantizer was fitted on another model: {'; '.join(differences)}. Load the model "
            f"that it was fitted on, with the same dtype and weight processing, or fit a new one. "
            f"HookedTransformer.from_pretrained and bridge.enable_compatibility_mode() process "
            f"weights; from_pretrained_no_processing and a new bridge leave them. To use it on a "
            f"fine-tuned model all the same, pass check_weights=False."
        )
    return Lens(Attachment(host, quantizer, name, source, target))


def _shown(point: Any) -> str:
    """A layer or hook point in a name: 4 for any kind of whole number."""
    return point if isinstance(point, str) else str(operator.index(point))


def clvqs(model: Any) -> Mapping[str, Lens]:
    """The lenses on a model, by name; the same as ``model.clvqs``."""
    return MappingProxyType(lenses_of(Host(model).model))
