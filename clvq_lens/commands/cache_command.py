"""``clvq-lens cache``: what it takes, and what is refused before anything heavy is imported."""

from clvq_lens.commands.command_options import (
    ConfigOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LongTextsOption,
    ModelOption,
    OutOption,
    PointsOption,
    PrependBosOption,
    QuantizeOption,
    SeedOption,
    StoreDtypeOption,
    StoreTokensOption,
    TextsOption,
    given,
    layer_or_hook_point,
)
from clvq_lens.commands.refusals import check_data, check_dtype_name, check_fit_options
from clvq_lens.commands.starting import starting
from clvq_lens.commands.telling import json_alone, write_json


def cache(
    model: ModelOption,
    point: PointsOption,
    data: TextsOption,
    out: OutOption,
    config: ConfigOption = None,
    n_tokens: StoreTokensOption = None,
    store_dtype: StoreDtypeOption = None,
    long_texts: LongTextsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    prepend_bos: PrependBosOption = None,
    device_map: DeviceMapOption = None,
    quantize: QuantizeOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Run a model once and keep its activations, so that fits read the disk and not the model."""
    # A store takes of these what a fit takes.
    check_fit_options({}, given(n_tokens=n_tokens, seed=seed, long_texts=long_texts))
    check_dtype_name(dtype)
    check_dtype_name(store_dtype)
    check_data(data)
    options = given(n_tokens=n_tokens, dtype=store_dtype, seed=seed, long_texts=long_texts)
    with json_alone(json):
        with starting():
            from clvq_lens.commands.command_model import ModelChoice
            from clvq_lens.commands.json_documents import store_document
            from clvq_lens.commands.run_cache import run_cache

        store = run_cache(
            ModelChoice(
                name=model,
                device=device,
                dtype=dtype,
                prepend_bos=prepend_bos,
                device_map=device_map,
                quantize=quantize,
            ),
            list(map(layer_or_hook_point, point)),
            data,
            out,
            options=options,
        )
    if json:
        write_json(store_document(store))
