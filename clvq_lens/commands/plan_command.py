"""``clvq-lens plan``: what it takes, and what is refused before anything heavy is imported."""

from typing import Annotated

import typer

from clvq_lens.commands.command_options import (
    ConfigOption,
    Context,
    DecoderOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    GpuOption,
    JsonOption,
    KlWeightOption,
    ModelOption,
    NCodesOption,
    NTokensOption,
    SourceOption,
    TargetOption,
    layer_or_hook_point,
    settings_of,
)
from clvq_lens.commands.refusals import check_counts, check_dtype_name, check_fit_options
from clvq_lens.commands.starting import starting
from clvq_lens.commands.telling import json_alone, write_json
from clvq_lens.errors import ConfigError
from clvq_lens.planning.gpus import gpu_named


def plan(
    ctx: Context,
    model: ModelOption,
    source: SourceOption,
    target: TargetOption,
    config: ConfigOption = None,
    data_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of the data, each of which the model reads once; default: --n-tokens."
        ),
    ] = None,
    n_tokens: NTokensOption = None,
    gpu: GpuOption = None,
    n_gpus: Annotated[int, typer.Option(help="How many of them.")] = 1,
    context: Annotated[int, typer.Option(help="Tokens of a text, about.")] = 256,
    n_codes: NCodesOption = 400,
    encoder: EncoderOption = "predictive",
    decoder: DecoderOption = "transformer",
    kl_weight: KlWeightOption = 0.0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    json: JsonOption = False,
) -> None:
    """Say what a fit will take in time, memory and disk, here or on GPUs of some kind."""
    of_file = settings_of(ctx)
    options = {**of_file.quantizer, "n_codes": n_codes, "encoder": encoder, "decoder": decoder}
    fit_options = {**of_file.fit, "n_tokens": n_tokens, "kl_weight": kl_weight}
    check_fit_options(options, fit_options)
    check_dtype_name(dtype)
    check_counts(context=context, n_gpus=n_gpus)
    if data_tokens is not None:
        check_counts(data_tokens=data_tokens)
    elif n_tokens is None:
        raise ConfigError(
            "Nothing says how many tokens the model is to read. Pass --data-tokens, those of the "
            "data, or --n-tokens, how many the fit trains on."
        )
    if gpu is not None:
        gpu_named(gpu)  # raises if there is none
    with json_alone(json):
        with starting():
            from clvq_lens.commands.command_model import ModelChoice
            from clvq_lens.commands.json_documents import plan_document
            from clvq_lens.commands.run_plan import run_plan

        planned = run_plan(
            ModelChoice(name=model, device=device, dtype=dtype),
            layer_or_hook_point(source),
            layer_or_hook_point(target),
            data_tokens,
            gpu=gpu,
            n_gpus=n_gpus,
            context=context,
            options=options,
            fit_options=fit_options,
        )
    if json:
        write_json(plan_document(planned))
