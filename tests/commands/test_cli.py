"""The command line, on the toy world."""

import gzip
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from io import StringIO
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import datasets
import pandas as pd
import pytest
import torch
from transformers import LlamaConfig
from typer.testing import CliRunner

import clvq_lens as cl
from clvq_lens import cli
from clvq_lens.commands import (
    command_callbacks,
    command_data,
    command_model,
    fit_and_write,
    output,
    run_demo,
    run_fit,
    run_report,
)
from clvq_lens.commands.command_model import ModelChoice
from clvq_lens.commands.run import Run
from clvq_lens.config import FitConfig
from clvq_lens.data.split import Split
from clvq_lens.data.store import cache
from clvq_lens.data.text_files import Spool
from clvq_lens.errors import (
    CheckpointError,
    CommandInterruptedError,
    ConfigError,
    DataError,
    FileFormatError,
    HookNotFoundError,
    PathError,
    PathTakenError,
    TerminatedError,
)
from clvq_lens.host.host import Host
from clvq_lens.training.loop import Training

RESULTS = {"config.json", "run.json", "history.csv", "evaluation.csv", "concepts.csv", "index.html"}


def data_of(page: Path) -> dict:
    """What a page holds."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text())[1])


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder that ``clvq-lens demo`` wrote, and what it said; with less of everything."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    short = run_demo.Demo(n_texts=150, n_held_out=40, n_tokens=20_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_demo, "DEMO", short)
        result = CliRunner().invoke(cli.app, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out, result


def test_demo_writes_quantizer_tables_and_a_page_that_needs_no_network(demo):
    out, result = demo
    assert {path.name for path in out.iterdir()} >= RESULTS | {"recovery.csv"}
    assert "ce_loss_recovered" in result.output
    assert "token identity" in result.output
    page = data_of(out / "index.html")
    assert {"usage", "codebook", "history", "flow", "recovery"} <= set(page["figures"])
    assert "<script src" not in (out / "index.html").read_text()
    assert cl.load(out).fitted
    recovery = pd.read_csv(out / "recovery.csv")
    assert set(recovery["method"]) == {
        *("codes", "k-means", "token identity", "codes, labels shuffled")
    }


def report(*arguments: object) -> None:
    """Runs ``clvq-lens report``."""
    CliRunner().invoke(cli.app, ["report", *map(str, arguments)], catch_exceptions=False)


def test_fit_on_a_file_saves_and_evaluates_on_the_held_out_part(run):
    out, _ = run
    assert {path.name for path in out.iterdir()} >= RESULTS
    quantizer = cl.load(out)
    assert quantizer.config.n_codes == 20
    assert quantizer.origin is not None
    assert quantizer.origin.target == "blocks.2.hook_resid_post"
    assert len(data_of(out / "index.html")["texts"]) == 4  # a twentieth of 80


def test_report_writes_the_page_of_a_run_again(run):
    out, _ = run
    report(out)
    assert (out / "report.html").read_bytes() == (out / "index.html").read_bytes()
    parts = data_of(out / "report.html")["settings"]
    settings = {part["title"]: dict(part["rows"]) for part in parts}
    assert settings["Fit"]["n_tokens"] == "4,000"
    assert settings["Course of the fit"]["n_held_out_documents"] == "4"


def test_report_replaces_no_other_file_unasked(run, tmp_path):
    page = tmp_path / "notes.html"
    page.write_text("mine")
    with pytest.raises(PathTakenError, match=r"notes\.html exists\. Pass --overwrite"):
        report(run[0], "--out", page)
    assert page.read_text() == "mine"
    report(run[0], "--out", page, "--overwrite")
    assert page.read_text() == (run[0] / "index.html").read_text()


def test_report_on_other_texts_goes_where_it_is_told(run, tmp_path):
    texts = tmp_path / "other.txt"
    texts.write_text("\n".join(cl.toy.generate(7, seed=9)))
    report(run[0], "--data", texts, "--out", tmp_path / "page.html")
    assert len(data_of(tmp_path / "page.html")["texts"]) == 7


def test_report_of_the_demo_knows_its_texts_and_labels(demo):
    out, _ = demo
    report(out)
    assert (out / "report.html").read_bytes() == (out / "index.html").read_bytes()
    assert data_of(out / "report.html")["evaluation"]["agreement"] is not None


def test_report_refuses_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(FileFormatError, match=r"is not a run: it has no run\.json\. Pass a folder"):
        report(tmp_path)


def test_report_says_when_the_data_have_moved(run, tmp_path):
    moved = shutil.copytree(run[0], tmp_path / "run")
    text = (moved / "run.json").read_text().replace("texts.jsonl", "moved.jsonl")
    (moved / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"moved\.jsonl, which no longer exists\. .*--data"):
        report(moved)


def test_report_says_before_it_computes_that_the_page_cannot_be_written(run, tmp_path):
    with pytest.raises(PathError, match="There is no folder"):
        report(run[0], "--out", tmp_path / "missing" / "page.html")


def test_an_error_is_one_line_with_the_remedy_and_status_one(tmp_path, capsys):
    arguments = ["--model", "toy", "--source", "1", "--target", "2", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", *arguments, "--data", str(tmp_path / "missing.txt")])
    assert stop.value.code == 1
    assert "There is no file" in capsys.readouterr().err


# ---- other kinds of data, and where the course of a fit is told ----------------------------------


@pytest.mark.parametrize("kind", ["parquet", "jsonl.gz", "hf"])
def test_fit_and_report_read_other_kinds_of_data(run, tmp_path, monkeypatch, kind: str):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    text = run[1].read_text()
    (tmp_path / "folder").mkdir()
    data = f"folder/texts.{kind}"
    if kind == "parquet":
        pd.read_json(StringIO(text), lines=True).to_parquet(data)
    elif kind == "jsonl.gz":
        (tmp_path / data).write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / "folder" / "train.jsonl").write_text(text)
        data = "hf:./folder:train:text"
    fit_toy("--data", data, "--out", tmp_path / "run", "--decoder", "table")
    monkeypatch.chdir(tmp_path / "run")  # the run knows where its data are
    report(tmp_path / "run")
    assert len(data_of(tmp_path / "run" / "report.html")["texts"]) == 4  # a twentieth of 80
    report(tmp_path / "run", "--data", f"hf:{tmp_path}/folder", "--overwrite")
    assert len(data_of(tmp_path / "run" / "report.html")["texts"]) > 4


def test_a_data_set_is_cached(run, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shutil.copy(run[1], tmp_path / "train.jsonl")
    data = ["--data", f"hf:{tmp_path}", "--point", 1, "--out", tmp_path / "store"]
    invoked("cache", "--model", "toy", *data)
    assert cl.ActivationStore(tmp_path / "store").index.complete


@pytest.mark.usefixtures("nothing_is_loaded")
def test_a_data_set_that_is_not_there_is_refused_first(run, tmp_path):
    with pytest.raises(DataError, match=r"There is no folder \./missing"):
        fit_toy("--data", "hf:./missing", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Rows:
    """What a data set on the Hub sends, with a count of its rows that were sent."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows, self.n_sent = n_rows, 0

    def __iter__(self) -> Iterator[str]:
        for number in range(self.n_rows):
            self.n_sent += 1
            yield f"Row {number} of a data set is this text."


def test_a_data_set_on_the_hub_is_not_read_to_its_end_before_the_fit():
    rows = Rows(10_000)
    command_data.read_through(Spool(rows))
    assert rows.n_sent == 0


def test_the_held_out_part_of_a_data_set_on_the_hub_is_a_draw_of_what_was_read(monkeypatch):
    monkeypatch.setattr(command_data, "_HELD_OUT_CHARACTERS", 1_000)
    rows = Rows(10**9)
    data = Spool(rows)
    described = Run(
        model="toy",
        data="hf:user/name",
        held_out=None,
        toy_texts=None,
        config=FitConfig(n_tokens=1_000, held_out_fraction=0.1),
    )
    held_out = command_data.held_out_of(described, data)
    assert held_out.kept_aside
    documents = list(held_out.data)
    assert 1_000 <= sum(map(len, documents)) < 1_100
    split = Split(data, 0.1)
    numbers = {document.number for document in islice(split.held_out(), 1_000)}
    assert {document.number for document in documents} < numbers
    # 200 characters of text for a token, and as much again for the space that documents take.
    assert rows.n_sent < 20_000


def test_the_course_of_a_fit_goes_where_the_command_says(run, tmp_path, monkeypatch):
    told: dict[str, list] = {}

    class Tracker:
        def __init__(self, *arguments, **options):
            self.place = str(arguments or options)

        def on_begin(self, start):
            told[self.place] = [start]

        def on_record(self, record):
            told[self.place].append(record)

        def on_end(self, end):
            told[self.place].append(end)

    monkeypatch.setattr(command_callbacks, "TensorBoard", Tracker)
    monkeypatch.setattr(command_callbacks, "WandB", Tracker)
    log = tmp_path / "fit.jsonl"
    options = ["--log", log, "--tensorboard", "board", "--wandb", "concepts"]
    fit_toy("--data", run[1], "--out", tmp_path / "run", "--decoder", "table", *options)
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert events == ["begin", *["record"] * len(history), "end"]
    assert set(told) == {"(PosixPath('board'),)", "{'project': 'concepts'}"}
    assert {len(values) for values in told.values()} == {len(history) + 2}


@pytest.mark.usefixtures("nothing_is_loaded")
def test_a_log_that_cannot_be_written_is_refused_first(run, tmp_path):
    log = ["--log", tmp_path / "missing" / "fit.jsonl"]
    with pytest.raises(PathError, match="There is no folder"):
        fit_toy("--data", run[1], "--out", tmp_path / "run", *log)
    assert not (tmp_path / "run").exists()


def test_a_model_is_loaded_as_was_asked_for(monkeypatch):
    def load(name, device, **options):
        return name, device, options

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(command_model, "load_pretrained", load)
    options = {"dtype": "bfloat16", "prepend_bos": False, "device_map": "auto", "quantize": "4bit"}
    assert ModelChoice(name="gpt2", **options).load() == ("gpt2", None, options)


def test_device_dtype_and_bos_are_those_of_the_toy_model_too():
    choice = ModelChoice
    model = choice(name="toy", device="cpu", dtype="bfloat16", prepend_bos=False).load()
    assert next(model.parameters()).dtype == torch.bfloat16
    assert not model.cfg.default_prepend_bos
    with pytest.raises(ConfigError, match=r"device is 'cupboard'"):
        choice(name="toy", device="cupboard")
    with pytest.raises(ConfigError, match=r"toy model is small: .* Leave --device-map and"):
        choice(name="toy", device_map="auto").load()


@pytest.mark.parametrize("options", [["--quantize", "4bit"], ["--device-map", "auto"]])
@pytest.mark.parametrize("command", ["fit", "cache"])
def test_where_weights_go_and_their_bits_reach_the_loader(monkeypatch, tmp_path, command, options):
    asked = {}

    def load(choice):
        asked.update(asdict(choice))
        raise DataError("far enough")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(ModelChoice, "load", load)
    data = tmp_path / "texts.txt"
    data.write_text("one text\nanother text\n")
    arguments = ["--model", "gpt2", "--data", data, "--out", tmp_path / "out", *options]
    points = ["--source", 1, "--target", 2] if command == "fit" else ["--point", 1]
    words = [command, *map(str, [*arguments, *points])]
    with pytest.raises(DataError, match="far enough"):
        CliRunner().invoke(cli.app, words, catch_exceptions=False)
    name, value = options[0].removeprefix("--").replace("-", "_"), options[1]
    assert asked[name] == value
    assert asked["device"] is None


def test_a_report_loads_the_weights_in_the_bits_of_the_run(run, monkeypatch):
    folder = run[0]
    before = (folder / "run.json").read_text()
    asked = {}

    def load(choice):
        asked.update(asdict(choice))
        raise DataError("far enough")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(ModelChoice, "load", load)
    (folder / "run.json").write_text(json.dumps({**json.loads(before), "quantize": "8bit"}))
    try:
        with pytest.raises(DataError, match="far enough"):
            report(folder, "--device-map", "auto")
    finally:
        (folder / "run.json").write_text(before)
    assert asked["quantize"] == "8bit"
    assert asked["device_map"] == "auto"


# ---- what is refused before the model is loaded ------------------------------------------------


def fit_toy(*arguments: object) -> None:
    """Runs ``clvq-lens fit`` on the toy model, and raises what the command raises."""
    fixed = ["fit", "--model", "toy", "--source", "1", "--target", "2", "--n-codes", "20"]
    fixed += ["--n-tokens", "4000"]
    CliRunner().invoke(cli.app, [*fixed, *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def load(*arguments, **options):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(ModelChoice, "load", load)


@pytest.mark.usefixtures("nothing_is_loaded")
def test_a_folder_that_cannot_be_saved_to_is_refused_first(run, tmp_path):
    _, data = run
    (tmp_path / "file").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "gpt2"}')
    for out, message in (
        (tmp_path / "file", "exists and is not a folder"),
        (tmp_path / "file" / "sub", "Nothing can be written to"),
        (tmp_path / "foreign", "was not written by clvq_lens"),
    ):
        with pytest.raises(PathError, match=message):
            fit_toy("--data", data, "--out", out)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("option", ["--data", "--held-out"])
@pytest.mark.parametrize(
    ("content", "message"), [(None, "There is no file"), ('"one"\n{', r"line 2")]
)
def test_texts_that_cannot_be_read_are_refused_first(run, tmp_path, option, content, message):
    bad = tmp_path / "bad.jsonl"
    if content is not None:
        bad.write_text(content)
    texts = {"--data": run[1], "--held-out": run[1], option: bad}
    with pytest.raises(DataError, match=message):
        fit_toy(*(word for pair in texts.items() for word in pair), "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_is_loaded", "as_for_a_user")
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--decoder", "lstm", "decoder is 'lstm'"),
        ("--long-texts", "burn", "long_texts is 'burn'"),
        ("--device", "cupboard", "device is 'cupboard'"),
        ("--dtype", "int3", "dtype is 'int3'"),
    ],
)
def test_impossible_options_are_refused_first(run, tmp_path, option, value, message):
    with pytest.raises(ConfigError, match=message):
        fit_toy("--data", run[1], "--out", tmp_path / "run", option, value)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_is_loaded", "as_for_a_user")
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--out", __file__, "exists and is not a folder"),
        ("--store-dtype", "int8", "dtype is 'int8'"),
        ("--n-tokens", "0", "n_tokens is 0"),
    ],
)
def test_an_impossible_cache_is_refused_first(run, tmp_path, option, value, message):
    options = {"--model": "toy", "--point": 1, "--data": run[1], "--out": tmp_path / "store"}
    words = [word for pair in (options | {option: value}).items() for word in pair]
    with pytest.raises((ConfigError, PathError), match=message):
        invoked("cache", *words)


@pytest.mark.usefixtures("nothing_is_loaded")
def test_going_on_from_nothing_is_refused_first(run, tmp_path):
    options = ["--data", run[1], "--out", tmp_path / "run", "--resume"]
    with pytest.raises(ConfigError, match="--resume needs a folder"):
        fit_toy(*options)
    with pytest.raises(CheckpointError, match="holds no checkpoint to go on with"):
        fit_toy(*options, "--checkpoint", tmp_path / "checkpoints")


def test_held_out_activations_of_other_points_are_refused_before_the_fit(
    run, tmp_path, monkeypatch
):
    invoked("cache", "--model", "toy", "--data", run[1], "--point", 1, "--out", tmp_path / "store")
    monkeypatch.setattr(fit_and_write, "fit_and_write", lambda *_, **__: pytest.fail("fitted"))
    monkeypatch.setattr(run_fit, "fit_and_write", lambda *_, **__: pytest.fail("fitted"))
    options = ["--data", run[1], "--out", tmp_path / "run", "--held-out", tmp_path / "store"]
    with pytest.raises(HookNotFoundError, match=r"has no activations at .*blocks.2"):
        fit_toy(*options)


# ---- plans --------------------------------------------------------------------------------------


def test_a_plan_is_a_table_and_a_sentence(monkeypatch, capsys, tmp_path):
    LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=50,
        dtype="bfloat16",
    ).save_pretrained(tmp_path)
    monkeypatch.setattr(ModelChoice, "load", lambda _: pytest.fail("weights were loaded"))
    options = ["--source", 0, "--target", 1, "--data-tokens", 10**8]
    command = ["plan", "--model", tmp_path, *options, "--gpu", "H100", "--n-gpus", 2]
    result = CliRunner().invoke(cli.app, list(map(str, command)), catch_exceptions=False)
    assert "read the model" in result.output
    assert "2 x H100" in result.output
    # In float32, as fit would load it, and not as the configuration says.
    assert "24.3 GB on disk" in " ".join(result.output.split())
    command += ["--dtype", "bfloat16"]
    result = CliRunner().invoke(cli.app, list(map(str, command)), catch_exceptions=False)
    assert "12.4 GB on disk" in " ".join(result.output.split())
    with pytest.raises(ConfigError, match=r"--gpu plans for another one. Leave one"):
        invoked(*command, "--device", "cpu")


def test_a_plan_for_this_machine_measures_it(monkeypatch):
    monkeypatch.setattr("clvq_lens.planning.measured_rates._READING_S", 0.1)
    options = ["--source", 1, "--target", 2, "--data-tokens", 5_000, "--n-codes", 20]
    command = ["plan", "--model", "toy", *options, "--n-tokens", 2_000]
    result = CliRunner().invoke(cli.app, list(map(str, command)), catch_exceptions=False)
    assert "Measured here" in " ".join(result.output.split())


@pytest.mark.usefixtures("nothing_is_loaded")
def test_a_quantizer_is_not_replaced_unless_that_is_asked_for(run):
    out, data = run
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(PathTakenError, match=r"already holds a fitted quantizer\. .*--overwrite"):
        fit_toy("--data", data, "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(AssertionError, match="the model is loaded"):
        fit_toy("--data", data, "--out", out, "--overwrite")


@pytest.mark.usefixtures("nothing_is_loaded")
def test_a_folder_that_another_command_writes_to_is_refused(run, tmp_path):
    with output.output_folder(tmp_path / "run", overwrite=False):
        with pytest.raises(PathError, match=r"Another process or thread is writing to"):
            fit_toy("--data", run[1], "--out", tmp_path / "run")
        assert (tmp_path / "run").exists()
    assert not (tmp_path / "run").exists()  # nothing was written


def test_a_disk_without_room_for_the_results_is_noticed_before_the_fit(run, tmp_path, monkeypatch):
    nearly_full = SimpleNamespace(total=2**40, used=2**40 - 2**20, free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nearly_full)
    monkeypatch.setattr(cl.Lens, "fit", lambda *_: pytest.fail("it is fitted"))
    with pytest.raises(PathError, match=r"has 1\.0 MB left, .* Free some space"):
        fit_toy("--data", run[1], "--out", tmp_path / "run")


# ---- a fit is not lost ---------------------------------------------------------------------------


def test_a_fit_that_cannot_be_saved_where_it_should_be_is_saved_elsewhere(
    run, tmp_path, monkeypatch
):
    save = cl.Lens.save

    def save_elsewhere_only(lens, folder):
        if Path(folder) == tmp_path / "run":
            raise PathError("The folder is gone.")
        return save(lens, folder)

    monkeypatch.setattr(cl.Lens, "save", save_elsewhere_only)
    with pytest.raises(PathError, match=r"is gone\. The fitted quantizer is in .* inst") as error:
        fit_toy("--data", run[1], "--out", tmp_path / "run")
    (rescue,) = re.findall(r"quantizer is in (\S+) instead", str(error.value))
    assert cl.load(rescue).fitted
    assert (Path(rescue) / "run.json").is_file()
    shutil.rmtree(rescue)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_fit_is_saved_and_said_and_not_evaluated(run, tmp_path, monkeypatch):
    fit = cl.Lens.fit

    def fit_a_little(lens, data, config, **_):
        history = fit(lens, data, config, progress=False)
        history.stop = "interrupted"
        return history

    out = tmp_path / "run"
    out.mkdir()
    # What a run writes, and report.csv, which is what evaluation.csv was called.
    stale = {"evaluation.csv", "report.csv", "index.html"}
    for name in stale:
        (out / name).write_text("of an earlier run")
    monkeypatch.setattr(cl.Lens, "fit", fit_a_little)
    monkeypatch.setattr(cl.Lens, "evaluate", lambda *_, **__: pytest.fail("it is evaluated"))
    message = r"Interrupted while fitting\. .*is saved in .*--overwrite.*clvq-lens report"
    with pytest.raises(CommandInterruptedError, match=message):
        fit_toy("--data", run[1], "--out", out)
    assert cl.load(out).fitted
    assert not stale & {path.name for path in out.iterdir()}
    monkeypatch.undo()
    report(out)
    assert (out / "report.html").is_file()


@pytest.mark.parametrize(
    ("module", "place", "message", "saved"),
    [
        (ModelChoice, "load", r"while loading the model\. Nothing was written", False),
        (run_fit, "read_through", r"while reading the data\. Nothing was written", False),
        (
            fit_and_write,
            "write_results",
            r"while evaluating\. The fitted .* clvq-lens report",
            True,
        ),
    ],
)
def test_ctrl_c_says_what_was_interrupted_and_what_is_there(
    run, tmp_path, monkeypatch, module, place, message, saved
):
    monkeypatch.setattr(module, place, interrupt)
    with pytest.raises(CommandInterruptedError, match=f"Interrupted {message}"):
        fit_toy("--data", run[1], "--out", tmp_path / "run")
    assert (tmp_path / "run" / "config.json").is_file() == saved
    assert (tmp_path / "run").exists() == saved


def test_ctrl_c_during_a_report_says_that_no_page_was_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_report, "gather", interrupt)
    with pytest.raises(CommandInterruptedError, match=r"evaluating\. .*page\.html was not written"):
        report(run[0], "--out", tmp_path / "page.html")


# ---- as a person meets it ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (CommandInterruptedError("Interrupted while\nfitting."), 130, "Interrupted while fitting."),
        (PathError("No room."), 1, "PathError: No room."),
        (PermissionError(13, "Permission denied", "/x"), 1, "PermissionError: [Errno 13]"),
    ],
)
def test_an_error_is_one_line_on_the_screen(monkeypatch, capsys, error, status, line):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == status
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1


def test_the_version_is_told():
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"clvq-lens {cl.__version__}\n")


PROGRAM = "from clvq_lens.cli import main; print('started', flush=True); main()"


def start(*arguments: object) -> subprocess.Popen:
    """The command line in a process of its own, once it has got as far as `main`."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores Ctrl-C, and so would its processes.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def test_ctrl_c_while_starting_says_so(run, tmp_path):
    process = start("report", run[0], "--out", tmp_path / "page.html")
    time.sleep(1.0)  # it imports for seconds
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said == "Interrupted while starting. Nothing was written.\n"


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "bar"), [("predictive", "encoder:"), ("residual", "fvu=")])
def test_ctrl_c_while_fitting_saves_what_was_learned(run, tmp_path, encoder: str, bar: str):
    arguments = ["--model", "toy", "--source", "1", "--target", "2", "--n-tokens", 10**9]
    arguments += ["--data", run[1], "--out", tmp_path / "run", "--n-codes", 20]
    process = start("fit", *arguments, "--encoder", encoder)
    said = ""
    while bar not in said:
        said += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert "Interrupted while fitting. What was learned by then is saved in" in rest
    assert cl.load(tmp_path / "run").fitted


# ---- what the numbers are called -----------------------------------------------------------------


def test_numbers_on_training_texts_are_not_called_held_out(tmp_path):
    """A single document, or no held-out part, leaves nothing else to evaluate on."""
    from clvq_lens.commands.run import Run
    from clvq_lens.config import FitConfig

    path = tmp_path / "one.txt"
    path.write_text("the same story\n" * 3)

    def held_out_of(data, config):
        run = Run(model="toy", data=str(data), held_out=None, toy_texts=None, config=config)
        return command_data.held_out_of(run)

    assert not held_out_of(path, FitConfig()).kept_aside
    (tmp_path / "two.txt").write_text("one story\nand another\n")
    assert held_out_of(tmp_path / "two.txt", FitConfig()).kept_aside
    assert not held_out_of(tmp_path / "two.txt", FitConfig(held_out_fraction=0.0)).kept_aside

    titles = [
        fit_and_write._title("1-3", 9, command_data.EvaluationData(data=path, kept_aside=aside))
        for aside in (True, False)
    ]
    assert titles[0] == "1-3, 9 held-out tokens"
    assert "9 TRAINING tokens: nothing was held out" in titles[1]


# ---- activations on disk, and checkpoints --------------------------------------------------------


def invoked(*arguments: object) -> None:
    CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)


def test_a_cache_is_filled_fitted_on_and_reported(run, tmp_path, monkeypatch):
    _, data = run
    store = tmp_path / "store"
    model = ["--model", "toy", "--data", data]
    invoked("cache", *model, "--point", 1, "--point", "2", "--out", store)
    assert cl.ActivationStore(store).index.complete
    with monkeypatch.context() as patch:
        patch.setattr(Host, "activations", lambda *_: pytest.fail("the model was run"))
        fit_toy("--data", store, "--out", tmp_path / "run", "--decoder", "table")
    assert cl.load(tmp_path / "run").fitted
    report(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").is_file()


def test_an_interrupted_cache_says_how_to_go_on(run, tmp_path, monkeypatch, ctrl_c):
    original = cache.read

    def read(*arguments):
        ctrl_c()
        return original(*arguments)

    monkeypatch.setattr(cache, "read", read)
    command = ["cache", "--model", "toy", "--point", 1, "--data", run[1], "--out", tmp_path]
    with pytest.raises(CommandInterruptedError, match="The same command goes on where"):
        invoked(*command)
    monkeypatch.undo()
    invoked(*command)
    assert cl.ActivationStore(tmp_path).index.complete


def test_a_fit_that_is_interrupted_goes_on_with_resume(run, tmp_path, monkeypatch, ctrl_c):
    options = ["--data", run[1], "--decoder", "table", "--checkpoint", tmp_path / "checkpoints"]
    with monkeypatch.context() as patch:
        original = Training.train_step

        def train_step(self, *arguments):
            ctrl_c()
            return original(self, *arguments)

        patch.setattr(Training, "train_step", train_step)
        with pytest.raises(CommandInterruptedError, match="again with --resume --overwrite"):
            fit_toy(*options, "--out", tmp_path / "run")
    fit_toy(*options, "--out", tmp_path / "run", "--resume", "--overwrite")
    fit_toy(
        "--data",
        tmp_path / "checkpoints/activations",
        "--decoder",
        "table",
        "--out",
        tmp_path / "b",
    )
    found, expected = cl.load(tmp_path / "run"), cl.load(tmp_path / "b")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name


def test_sigterm_has_an_exit_status_of_its_own(monkeypatch):
    def terminated(*_, **__):
        raise TerminatedError("Told to end.")

    monkeypatch.setattr(cli, "app", terminated)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 143


def test_the_package_can_be_run_as_a_module():
    command = [sys.executable, "-m", "clvq_lens", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("clvq-lens ")
