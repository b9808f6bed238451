"""What the commands do: load, fit, evaluate, and write a folder with everything in it.

All checks come before anything slow, and a finished fit is saved before anything else is done
with it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from clvq_lens import toy
from clvq_lens.add import add_clvq
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.data.documents import Data, open_documents
from clvq_lens.data.split import Split
from clvq_lens.data.token_labels import TokenLabels
from clvq_lens.errors import CommandInterruptedError, DataError, PathTakenError
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.host.loading import check_device, check_dtype, choose_bos_, load_pretrained
from clvq_lens.lens import Lens
from clvq_lens.output import (
    interruptible,
    output_folder,
    print_evaluation,
    print_table,
    save_fit,
)
from clvq_lens.page.contents import gather
from clvq_lens.page.write import check_path, write_page
from clvq_lens.quantizer.files import load
from clvq_lens.run import Run, read_history, read_run, write_table
from clvq_lens.training.history import History
from clvq_lens.writing import check_space

_RESULTS_BYTES = 32 * 2**20  # a page and tables with very many codes
_NOTHING = "Nothing was written."


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Size of the demo: a minute on two cores."""

    source: int = 1
    target: int = 3
    n_texts: int = 3_000
    n_held_out: int = 400
    held_out_seed: int = 1
    n_codes: int = 256
    n_tokens: int = 300_000


DEMO = Demo()


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Data that a quantizer is evaluated on.

    Attributes:
        data: Texts or tokens.
        token_labels: A label of every real token, if known.
        kept_aside: Whether the quantizer was not fitted on them. A single document, or a fit with
            ``held_out_fraction=0``, leaves only the training data to evaluate on.
    """

    data: Data
    token_labels: TokenLabels | None = None
    kept_aside: bool = True


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    prepend_bos: bool | None = None,
) -> Any:
    """A pretrained model by its name or folder, or the toy model.

    Args:
        name: Name on the Hub, path of a folder, or "toy".
        device: Device of the model, such as "cuda"; None: chosen for the model.
        dtype: Type of its weights, such as "bfloat16"; None: float32.
        prepend_bos: Whether texts begin with BOS; None: as TransformerLens does for this model.

    Raises:
        ConfigError: If the device or the dtype does not exist.
        ModelLoadError: If the model cannot be loaded.
    """
    if name != "toy":
        return load_pretrained(name, device, dtype=dtype, prepend_bos=prepend_bos)
    check_device(device)
    # Only the model is needed, and `toy.load` makes at least one text.
    model = toy.load(n_texts=1, device=device or "cpu").model
    if dtype is not None:
        model.to(check_dtype(dtype))
    choose_bos_(model, prepend_bos, None)
    return model


def run_demo(out: Path, *, seed: int, overwrite: bool = False) -> Evaluation:
    """Fits on the toy world and writes the results.

    Args:
        out: Folder for the results.
        seed: Random seed for data order, initialization and sampling.
        overwrite: Whether a quantizer in the folder may be replaced.

    Raises:
        PathTakenError: If the folder holds a quantizer that may not be replaced.
        CommandInterruptedError: On Ctrl-C.
    """
    console = Console()
    console.print("[bold]The toy world:[/] a small language model whose true concepts are known.")
    run = Run(
        model="toy",
        data=None,
        held_out=None,
        toy_texts=(DEMO.n_held_out, DEMO.held_out_seed),
        config=FitConfig(n_tokens=DEMO.n_tokens, seed=seed),
    )
    with output_folder(out, overwrite=overwrite):
        with interruptible("loading the toy world", _NOTHING):
            model, texts = toy.load(n_texts=DEMO.n_texts)
            lens = add_clvq(model, DEMO.source, DEMO.target, n_codes=DEMO.n_codes)
        return fit_and_write(lens, run, texts, out, console)


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
    overwrite: bool = False,
) -> Evaluation:
    """Fits on a user's data and writes the results.

    Args:
        model: Name of the model, as for `load_model`.
        source: Layer number or hook point that is read.
        target: Layer number or hook point that is reconstructed.
        data: File of texts to fit on.
        out: Folder for the results.
        held_out: File of texts to evaluate on; None: the part of ``data`` kept aside.
        options: Options of `clvq_lens.CLVQConfig` by name.
        fit_options: Options of `clvq_lens.FitConfig` by name.
        device: Device of the model, as for `load_model`.
        dtype: Type of its weights, as for `load_model`.
        prepend_bos: Whether texts begin with BOS, as for `load_model`.
        overwrite: Whether a quantizer in the folder may be replaced.

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
        data=str(data.absolute()),
        held_out=None if held_out is None else str(held_out.absolute()),
        toy_texts=None,
        config=FitConfig().replace(**fit_options),
    )
    check_device(device)
    if dtype is not None:
        check_dtype(dtype)
    with output_folder(out, overwrite=overwrite):
        with interruptible("reading the data", _NOTHING):
            # To the end: an error in the last line must not come after an hour of fitting.
            read_through(data)
            if held_out is not None:
                read_through(held_out)
        with interruptible("loading the model", _NOTHING):
            loaded = load_model(model, device=device, dtype=dtype, prepend_bos=prepend_bos)
            lens = add_clvq(loaded, source, target, config=config)
        return fit_and_write(lens, run, data, out, Console())


def run_report(
    folder: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the page of a run again.

    Args:
        folder: Folder that `run_fit` or `run_demo` wrote.
        data: File of held-out texts; None: the texts of the run.
        out: Path of the page; None: report.html in the folder.
        model: Name to load the model by; None: that of the run.
        device: Device of the model, as for `load_model`.
        dtype: Type of its weights; None: that of the run.
        overwrite: Whether a file at ``out`` may be replaced.

    Raises:
        PathTakenError: If there is a file at ``out`` that may not be replaced.
        FileFormatError: If the folder is not a run.
        DataError: If the data of the run no longer exist.
        CommandInterruptedError: On Ctrl-C.
    """
    check_device(device)
    run, quantizer = read_run(folder), load(folder)
    path = check_path(folder / "report.html" if out is None else out)
    # report.html in the folder is ours; a file that the user names may be something else.
    if out is not None and path.exists() and not overwrite:
        raise PathTakenError(f"{path} exists. Pass --overwrite to replace it, or another path.")
    with interruptible("reading the data", _NOTHING):
        held_out = held_out_of(run) if data is None else EvaluationData(data=data)
        open_documents(held_out.data)
    with interruptible("loading the model", _NOTHING):
        loaded = load_model(
            model or run.model,
            device=device,
            dtype=dtype or run.dtype,
            # As in the fit: BOS decides what the codes of a text are.
            prepend_bos=run.prepend_bos,
        )
        lens = add_clvq(loaded, quantizer=quantizer)
    try:
        with interruptible("evaluating", f"{path} was not written."):
            contents = gather(
                lens.attachment,
                held_out.data,
                token_labels=held_out.token_labels,
                history=read_history(folder / "history.csv", run),
                config=run.config,
                long_texts=run.config.long_texts,
            )
            path = write_page(path, contents)
    finally:
        lens.remove()
    Console().print(f"Open [bold]{escape(str(path))}[/] in a browser.")
    return path


def read_through(path: Path) -> None:
    """Raises `DataError` if anything is wrong anywhere in a file of texts."""
    for _ in open_documents(path):
        pass


def held_out_of(run: Run) -> EvaluationData:
    """The data that a run is evaluated on.

    Args:
        run: What a command did.

    Raises:
        DataError: If the data no longer exist.
    """
    if run.toy_texts is not None:
        n_texts, seed = run.toy_texts
        texts = toy.generate(n_texts, seed=seed)
        return EvaluationData(data=texts, token_labels=toy.token_labels(texts))
    path = Path(run.held_out or run.data or "")
    if not os.path.isfile(path):
        raise DataError(
            f"The data of this run were in {path}, which no longer exists. Pass them with --data."
        )
    if run.held_out is not None:
        return EvaluationData(data=path)
    # The same split as in the fit: it depends on the documents and the fraction only.
    split = Split(open_documents(path), run.config.held_out_fraction)
    documents = list(split.held_out())
    if not documents:
        return EvaluationData(data=path, kept_aside=False)
    return EvaluationData(data=documents)


def fit_and_write(lens: Lens, run: Run, data: Data, out: Path, console: Console) -> Evaluation:
    """Fits and saves a lens, then evaluates it and writes tables and the page.

    Args:
        lens: A new lens; it is removed from its model at the end.
        run: What the command does.
        data: Data to fit on.
        out: Folder for the results.
        console: Where tables are printed.

    Raises:
        PathError: If the disk is too full, or the folder cannot be written to.
        CommandInterruptedError: On Ctrl-C.
    """
    try:
        # Before the fit, which may take hours, and not after it.
        check_space(out, _size_bytes(lens) + _RESULTS_BYTES)
        with interruptible("starting to fit", f"Nothing was learned yet. {_NOTHING}"):
            history = lens.fit(data, run.config)
        report_command = f"clvq-lens report {out}"
        saved = f"The fitted quantizer is saved in {out}. To evaluate it: {report_command}"
        with interruptible("saving", saved):
            save_fit(lens, run, history, out)
        if history.stop == "interrupted":
            # Whoever ends a fit early does not want to wait for its evaluation.
            raise CommandInterruptedError(
                f"Interrupted while fitting. What was learned by then is saved in {out}. To fit to "
                f"the end, give the same command again with --overwrite. To look at what was "
                f"learned: {report_command}"
            )
        with interruptible("evaluating", saved):
            return write_results(lens, run, history, held_out_of(run), out, console)
    finally:
        lens.remove()


def _size_bytes(lens: Lens) -> int:
    size_bytes = 0
    for weight in lens.quantizer.state_dict().values():
        size_bytes += weight.nbytes
    return size_bytes


def write_results(
    lens: Lens,
    run: Run,
    history: History,
    held_out: EvaluationData,
    out: Path,
    console: Console,
) -> Evaluation:
    """Evaluates a fitted lens, prints tables, and writes them and the page.

    Args:
        lens: A fitted lens.
        run: What the command did.
        history: History of the fit.
        held_out: Data to evaluate on.
        out: Folder for the results.
        console: Where tables are printed.

    Raises:
        KeyboardInterrupt: On Ctrl-C.
    """
    data, token_labels = held_out.data, held_out.token_labels
    long_texts = run.config.long_texts
    evaluation = lens.evaluate(data, token_labels=token_labels, long_texts=long_texts)
    write_table(out / "evaluation.csv", evaluation.frame())
    concepts = lens.concepts(data, token_labels=token_labels, long_texts=long_texts)
    if not concepts.complete:
        # `concepts` returns what it has on Ctrl-C; the flow and the page would take as long again.
        raise KeyboardInterrupt
    write_table(out / "concepts.csv", concepts.frame())
    title = _title(lens.name, evaluation.n_tokens, held_out)
    print_evaluation(console, title, evaluation)
    if evaluation.recovery is not None:
        recovery = evaluation.recovery.frame()
        write_table(out / "recovery.csv", recovery)
        print_table(console, "Do codes recover the true concepts?", recovery)
    contents = gather(
        lens.attachment,
        data,
        token_labels=token_labels,
        history=history,
        config=run.config,
        long_texts=long_texts,
        concepts=concepts,
        evaluation=evaluation,
    )
    page = write_page(out / "index.html", contents)
    console.print(
        f"The quantizer and the tables are in [bold]{escape(str(out))}[/]. Open "
        f"[bold]{escape(str(page))}[/] in a browser."
    )
    return evaluation


def _title(name: str, n_tokens: int, held_out: EvaluationData) -> str:
    """A title that says what the numbers were measured on."""
    if held_out.kept_aside:
        return f"{name}, {n_tokens:,} held-out tokens"
    return (
        f"{name}, {n_tokens:,} TRAINING tokens: nothing was held out, so these numbers are too "
        f"good. Pass more documents, or others with --held-out."
    )
