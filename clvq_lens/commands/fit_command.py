"""``clvq-lens fit``: what it takes, and what is refused before anything heavy is imported."""

import os

from clvq_lens.commands.command_options import (
    CheckpointEveryOption,
    CheckpointOption,
    ConfigOption,
    Context,
    DataOption,
    DecoderOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    HeldOutOption,
    JsonOption,
    KlWeightOption,
    LogOption,
    LongTextsOption,
    ModelOption,
    NCodesOption,
    NTokensOption,
    OutOption,
    OverwriteOption,
    PrependBosOption,
    QuantizeOption,
    ResumeOption,
    SeedOption,
    SourceOption,
    TargetOption,
    TensorBoardOption,
    WandBOption,
    given,
    layer_or_hook_point,
    settings_of,
)
from clvq_lens.commands.refusals import (
    check_checkpoints,
    check_data,
    check_dtype_name,
    check_fit_options,
    check_results,
)
from clvq_lens.commands.starting import starting
from clvq_lens.commands.telling import BY_TORCHRUN, json_alone, write_json


def fit(
    context: Context,
    model: ModelOption,
    source: SourceOption,
    target: TargetOption,
    data: DataOption,
    out: OutOption,
    config: ConfigOption = None,
    held_out: HeldOutOption = None,
    n_codes: NCodesOption = 400,
    encoder: EncoderOption = "predictive",
    decoder: DecoderOption = "transformer",
    n_tokens: NTokensOption = None,
    kl_weight: KlWeightOption = 0.0,
    long_texts: LongTextsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    prepend_bos: PrependBosOption = None,
    device_map: DeviceMapOption = None,
    quantize: QuantizeOption = None,
    seed: SeedOption = 0,
    checkpoint: CheckpointOption = None,
    checkpoint_every: CheckpointEveryOption = 300.0,
    resume: ResumeOption = False,
    log: LogOption = None,
    tensorboard: TensorBoardOption = None,
    wandb: WandBOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Fit a quantizer between two layers of a model, evaluate it and save everything."""
    of_file = settings_of(context)
    options = {**of_file.quantizer, "n_codes": n_codes, "encoder": encoder, "decoder": decoder}
    fit_options = {**of_file.fit, "kl_weight": kl_weight, "seed": seed}
    fit_options |= given(n_tokens=n_tokens, long_texts=long_texts)
    check_fit_options(options, fit_options)
    check_dtype_name(dtype)
    check_data(data, held_out)
    if BY_TORCHRUN not in os.environ:  # which may start a fit again, after it was saved
        check_results(out, overwrite=overwrite)
    check_checkpoints(checkpoint, every_s=checkpoint_every, resume=resume)
    with json_alone(json):
        with starting():
            from clvq_lens.commands.command_callbacks import callbacks_for
            from clvq_lens.commands.command_model import ModelChoice
            from clvq_lens.commands.fit_and_write import Checkpointing
            from clvq_lens.commands.json_documents import fit_document
            from clvq_lens.commands.run_fit import run_fit

        fitted = run_fit(
            ModelChoice(
                name=model,
                device=device,
                dtype=dtype,
                prepend_bos=prepend_bos,
                device_map=device_map,
                quantize=quantize,
            ),
            layer_or_hook_point(source),
            layer_or_hook_point(target),
            data,
            out,
            held_out=held_out,
            options=options,
            fit_options=fit_options,
            overwrite=overwrite,
            checkpointing=Checkpointing(folder=checkpoint, every_s=checkpoint_every, resume=resume),
            callbacks=callbacks_for(log=log, tensorboard=tensorboard, wandb=wandb),
        )
    if json:
        write_json(fit_document(fitted, out))
