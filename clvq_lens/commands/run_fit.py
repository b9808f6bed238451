"""``clvq-lens fit``: a fit on the data of a user."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from clvq_lens.add import add_clvq
from clvq_lens.commands.command_data import data_at, read_through
from clvq_lens.commands.command_model import load_model
from clvq_lens.commands.fit_and_write import NO_CHECKPOINTS, Checkpointing, fit_and_write
from clvq_lens.commands.output import (
    NOTHING,
    interruptible,
    output_folder,
)
from clvq_lens.commands.run import Run
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.host.loading import check_dtype
from clvq_lens.host.placement import DeviceMap, Placement


def run_fit(
    model: str,
    source: int | str,
    target: int | str,
    data: Path,
    out: Path,
    *,
    held_out: Path | None,
    options: Mapping[str, object],
    fit_options: Mapping[str, object],
    device: str | None = None,
    dtype: str | None = None,
    prepend_bos: bool | None = None,
    device_map: DeviceMap | None = None,
    quantize: str | None = None,
    overwrite: bool = False,
    checkpointing: Checkpointing = NO_CHECKPOINTS,
) -> Evaluation:
    """Fits on a user's data and writes the results.

    Args:
        model: Name of the model, as for `load_model`.
        source: Layer number or hook point that is read.
        target: Layer number or hook point that is reconstructed.
        data: File of texts to fit on, or folder of activations that ``clvq-lens cache`` filled.
        out: Folder for the results.
        held_out: File of texts to evaluate on; None: the part of ``data`` kept aside.
        options: Options of `clvq_lens.CLVQConfig` by name.
        fit_options: Options of `clvq_lens.FitConfig` by name.
        device: Device of the model, as for `load_model`.
        dtype: Type of its weights, as for `load_model`.
        prepend_bos: Whether texts begin with BOS, as for `load_model`.
        device_map: Devices of its parts, as for `load_model`.
        quantize: Bits of its weights, as for `load_model`.
        overwrite: Whether a quantizer in the folder may be replaced.
        checkpointing: Where checkpoints are written to, if anywhere.

    Raises:
        ConfigError: If an option is unknown or impossible.
        DataError: If a file of texts cannot be read.
        PathTakenError: If the folder holds a quantizer that may not be replaced.
        CommandInterruptedError: On Ctrl-C.
    """
    config = CLVQConfig().replace(**options)
    run = Run(
        # Absolute paths: `clvq-lens report` may be called from another folder.
        model=str(Path(model).absolute()) if Path(model).is_dir() else model,
        dtype=dtype,
        prepend_bos=prepend_bos,
        quantize=quantize,
        data=str(data.absolute()),
        held_out=None if held_out is None else str(held_out.absolute()),
        toy_texts=None,
        config=FitConfig().replace(**fit_options),
    )
    Placement(device=device, device_map=device_map, quantize=quantize)  # checks them
    if dtype is not None:
        check_dtype(dtype)
    with output_folder(out, overwrite=overwrite):
        with interruptible("reading the data", NOTHING):
            # To the end: an error in the last line must not come after an hour of fitting.
            opened = data_at(data)
            read_through(opened)
            if held_out is not None:
                read_through(data_at(held_out))
        with interruptible("loading the model", NOTHING):
            loaded = load_model(
                model,
                device=device,
                dtype=dtype,
                prepend_bos=prepend_bos,
                device_map=device_map,
                quantize=quantize,
            )
            lens = add_clvq(loaded, source, target, config=config)
        return fit_and_write(lens, run, opened, out, Console(), checkpointing)
