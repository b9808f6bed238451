"""Plan: what a fit will take in time, memory and disk, before it is begun."""

from typing import Any, SupportsIndex, Unpack

from clvq_lens.arguments import check_count
from clvq_lens.config import CLVQConfig, CLVQOptions, FitConfig
from clvq_lens.data.stream import memory_bytes
from clvq_lens.errors import ConfigError, LayerOrderError
from clvq_lens.host.host import Host
from clvq_lens.planning.by_formula import Work, seconds_on
from clvq_lens.planning.fit_plan import FitPlan, PlannedPhase
from clvq_lens.planning.gpus import gpu_named
from clvq_lens.planning.measured_rates import measured_seconds
from clvq_lens.planning.model_shape import ModelShape, shape_of
from clvq_lens.training.memory import process_bytes


def plan(
    model: Any,
    data_tokens: int | None = None,
    *,
    source: SupportsIndex | str,
    target: SupportsIndex | str,
    config: CLVQConfig | None = None,
    fit: FitConfig | None = None,
    context: int = 256,
    gpu: str | None = None,
    n_gpus: int = 1,
    dtype: str | None = None,
    progress: bool = True,
    **options: Unpack[CLVQOptions],
) -> FitPlan:
    """What it will take to cache activations and to fit a quantizer on them.

    On this machine it runs the model and a very short fit for about ten seconds. For GPUs of some
    kind it computes: operations over what such a GPU does, at a utilization that is stated.

    Args:
        model: A loaded model; or, for GPUs, a name or a folder, of which only the configuration is
            read.
        data_tokens: Tokens of the data, each of which the model reads once; None: as many as
            ``fit`` needs for its ``n_tokens`` without a repetition.
        source: Layer or hook point of the source; a layer if only a configuration is read.
        target: Layer or hook point of the target.
        config: Options of the quantizer; None: the defaults.
        fit: Options of the fit; None: the defaults.
        context: Tokens of a text, about.
        gpu: Name of a kind of GPU, such as "H100"; None: this machine.
        n_gpus: How many of them.
        dtype: Dtype of the model on these, and of the activations on disk; None: that of a loaded
            model, and float32 for a name.
        progress: Whether to show progress bars.
        **options: Options of the quantizer by name.

    Returns:
        Time of every phase, memory and disk, with ``.frame()``.

    Raises:
        ConfigError: If an option is impossible, this machine has not the model that is asked
            about, or nothing says how many tokens there are.
        LayerOrderError: If the target comes before the source.
        ModelLoadError: If there is no configuration of that name.

    Example:
        >>> cl.plan(model, 1_000_000, source=4, target=8, n_codes=400)  # doctest: +SKIP
    """
    fit = fit or FitConfig()
    data_tokens = _data_tokens(data_tokens, fit)
    check_count("context", context)
    check_count("n_gpus", n_gpus)
    kind = None if gpu is None else gpu_named(gpu)
    if kind is None:
        _check_this_machine(model, n_gpus, dtype)
    config = (config or CLVQConfig()).replace(**options)
    device_bytes = memory_bytes(Host(model).device) if kind is None else kind.memory_bytes
    work = _work(model, data_tokens, source, target, config, fit, context, dtype, device_bytes)
    model_bytes = work.shape.size_bytes
    if kind is None:
        device = Host(model).device
        seconds, basis = measured_seconds(model, source, target, work, progress=progress)
        where = f"this machine ({device})"
        if device.type == "cpu":  # the memory of the interpreter and its libraries is there, too
            model_bytes = max(model_bytes, process_bytes())
    else:
        seconds, basis = seconds_on(kind, n_gpus, work)
        where = f"{n_gpus} x {kind.name}"
    phases: list[PlannedPhase] = []
    for name, wall_s in seconds.items():
        phases.append(PlannedPhase(name, work.tokens_of(name), wall_s))
    return FitPlan(
        phases=tuple(phases),
        disk_bytes=work.disk_bytes,
        model_bytes=model_bytes,
        fit_bytes=work.fit_bytes,
        device_bytes=device_bytes,
        where=where,
        basis=basis,
    )


def _data_tokens(data_tokens: int | None, fit: FitConfig) -> int:
    """How many tokens the data have."""
    if data_tokens is None:
        if fit.n_tokens is None:
            raise ConfigError(
                "Nothing says how many tokens the model is to read. Pass data_tokens, those of "
                "the data, or how many the fit trains on: fit=FitConfig(n_tokens=...)."
            )
        return round(fit.n_tokens / (1 - fit.held_out_fraction))
    check_count("data_tokens", data_tokens)
    return data_tokens


def _check_this_machine(model: Any, n_gpus: int, dtype: str | None) -> None:
    """Raises unless this machine can be measured, with the model as it is."""
    if isinstance(model, str):
        raise ConfigError(
            "A model that is only named cannot be measured. Pass gpu=, such as 'H100', or a "
            "loaded model."
        )
    if n_gpus != 1 or dtype is not None:
        raise ConfigError(
            "n_gpus and dtype are for GPUs of some kind: this machine and the model on it are "
            "measured as they are. Pass gpu= as well, such as 'H100', or leave them out."
        )


def _work(
    model: Any,
    data_tokens: int,
    source: SupportsIndex | str,
    target: SupportsIndex | str,
    config: CLVQConfig,
    fit: FitConfig,
    context: int,
    dtype: str | None,
    device_bytes: int,
) -> Work:
    shape = shape_of(model, dtype=dtype)
    if isinstance(model, str):
        d_source = d_target = shape.d_model
        n_blocks = _layer(target, shape) + 1
        if _layer(source, shape) >= n_blocks:
            raise LayerOrderError(
                f"The target {target} comes before the source {source}. A quantizer reads the "
                f"lower layer and reconstructs the higher one; swap them."
            )
    else:
        host = Host(model)
        names = host.resolve(source), host.resolve(target)
        host.check_order(*names)
        d_source, d_target = map(host.width, names)
        n_blocks = min(host.depth(names[1])[0] + 1, shape.n_layers)
    return Work(
        shape=shape,
        n_blocks=n_blocks,
        d_source=d_source,
        d_target=d_target,
        config=config,
        fit=fit,
        data_tokens=data_tokens,
        context=context,
        device_bytes=device_bytes,
    )


def _layer(point: SupportsIndex | str, shape: ModelShape) -> int:
    """A layer of a model of which only the configuration is known."""
    if isinstance(point, str) or not 0 <= int(point) < shape.n_layers:
        raise ConfigError(
            f"{point!r} is no layer of {shape.name}, which has {shape.n_layers}. Pass a number "
            f"from 0 to {shape.n_layers - 1}, or a loaded model for a hook point."
        )
    return int(point)
