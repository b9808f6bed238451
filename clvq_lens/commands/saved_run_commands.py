"""``clvq-lens report`` and ``evaluate``: what they take, and what is refused before the imports."""

from pathlib import Path
from typing import Annotated

import typer

from clvq_lens.commands.command_options import (
    DeviceMapOption,
    DeviceOption,
    DtypeOfRunOption,
    JsonOption,
    MetricsOption,
    ModelOfRunOption,
    OtherDataOption,
    RunArgument,
)
from clvq_lens.commands.refusals import (
    check_data,
    check_dtype_name,
    check_output_file,
    check_run,
    checked_metrics,
)
from clvq_lens.commands.starting import starting
from clvq_lens.commands.telling import json_alone, write_json


def report(
    run: RunArgument,
    data: OtherDataOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Path of the page; default: report.html in the folder.")
    ] = None,
    model: ModelOfRunOption = None,
    device: DeviceOption = None,
    dtype: DtypeOfRunOption = None,
    device_map: DeviceMapOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file that --out names.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write one page with all results, to read or to send to a colleague."""
    check_run(run)
    check_dtype_name(dtype)
    check_data(data)
    check_output_file(out, overwrite=overwrite)
    with json_alone(json):
        with starting():
            from clvq_lens.commands.command_model import ModelChoice
            from clvq_lens.commands.json_documents import report_document
            from clvq_lens.commands.run_report import run_report

        written = run_report(
            run,
            data=data,
            out=out,
            model=ModelChoice(name=model or "", device=device, dtype=dtype, device_map=device_map),
            overwrite=overwrite,
        )
    if json:
        write_json(report_document(written))


def evaluate(
    run: RunArgument,
    data: OtherDataOption = None,
    metrics: MetricsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Path of the table, a .csv file; default: in the folder, named after the data."
        ),
    ] = None,
    model: ModelOfRunOption = None,
    device: DeviceOption = None,
    dtype: DtypeOfRunOption = None,
    device_map: DeviceMapOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a table of other data.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Evaluate the quantizer of a run on other data; print the numbers and write them beside it."""
    check_run(run)
    check_dtype_name(dtype)
    check_data(data)
    measured = checked_metrics(metrics)
    check_output_file(out, overwrite=overwrite)
    with json_alone(json):
        with starting():
            from clvq_lens.commands.command_model import ModelChoice
            from clvq_lens.commands.json_documents import evaluation_document
            from clvq_lens.commands.run_evaluate import run_evaluate

        evaluated = run_evaluate(
            run,
            data=data,
            metrics=measured,
            out=out,
            model=ModelChoice(name=model or "", device=device, dtype=dtype, device_map=device_map),
            overwrite=overwrite,
        )
    if json:
        write_json(evaluation_document(evaluated))
