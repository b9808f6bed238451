"""The command line, on the toy world."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import clvq_lens as cl
from clvq_lens import cli, workflow
from clvq_lens.errors import DataError, FileFormatError, PathError

RESULTS = {"config.json", "run.json", "history.csv", "report.csv", "concepts.csv", "index.html"}


def data_of(page: Path) -> dict:
    """What a page holds."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text())[1])


@pytest.fixture
def short_demo(monkeypatch):
    monkeypatch.setattr(
        workflow, "DEMO", workflow.Demo(n_texts=150, n_held_out=40, n_tokens=20_000)
    )


def test_demo_writes_quantizer_tables_and_a_page_that_needs_no_network(short_demo, tmp_path):
    out = tmp_path / "demo"
    result = CliRunner().invoke(cli.app, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder that ``clvq-lens fit`` wrote, and the file that it was fitted on."""
    folder = tmp_path_factory.mktemp("cli")
    data = folder / "texts.jsonl"
    texts = cl.toy.generate(80, seed=3)
    data.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    arguments = ["--model", "toy", "--source", "1", "--target", "blocks.2.hook_resid_post"]
    arguments += ["--data", str(data), "--out", str(folder / "run"), "--n-codes", "20"]
    result = CliRunner().invoke(cli.app, ["fit", *arguments, "--n-tokens", "4000", "--seed", "3"])
    assert result.exit_code == 0, result.output
    return folder / "run", data


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


def test_report_on_other_texts_goes_where_it_is_told(run, tmp_path):
    texts = tmp_path / "other.txt"
    texts.write_text("\n".join(cl.toy.generate(7, seed=9)))
    report(run[0], "--data", texts, "--out", tmp_path / "page.html")
    assert len(data_of(tmp_path / "page.html")["texts"]) == 7


def test_report_of_the_demo_knows_its_texts_and_labels(short_demo, tmp_path):
    CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path)])
    report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == (tmp_path / "index.html").read_bytes()
    assert data_of(tmp_path / "report.html")["evaluation"]["agreement"] is not None


def test_report_refuses_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(FileFormatError, match=r"is no run: it has no run\.json. Pass the folder"):
        report(tmp_path)


def test_report_says_when_the_data_have_moved(run, tmp_path):
    moved = shutil.copytree(run[0], tmp_path / "run")
    text = (moved / "run.json").read_text().replace("texts.jsonl", "moved.jsonl")
    (moved / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"moved\.jsonl, where there is no file now.*--data"):
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


def test_a_model_is_loaded_by_its_name_on_the_device_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(workflow, "load_pretrained", lambda name, device: f"{name} on {device}")
    assert workflow.load_model("gpt2", "cpu") == "gpt2 on cpu"


def test_numbers_on_training_texts_are_not_called_held_out(tmp_path):
    """A single document, or no held-out part, leaves nothing else to evaluate on."""
    from clvq_lens.config import FitConfig
    from clvq_lens.training.run import Run

    path = tmp_path / "one.txt"
    path.write_text("the same story\n" * 3)

    def held_out_of(data, fit):
        run = Run(model="toy", data=str(data), held_out=None, toy_texts=None, fit=fit)
        return workflow.held_out_of(run)

    assert not held_out_of(path, FitConfig()).kept_aside
    (tmp_path / "two.txt").write_text("one story\nand another\n")
    assert held_out_of(tmp_path / "two.txt", FitConfig()).kept_aside
    assert not held_out_of(tmp_path / "two.txt", FitConfig(held_out_fraction=0.0)).kept_aside

    titles = [
        workflow._title("1-3", 9, workflow.HeldOut(data=path, kept_aside=aside))
        for aside in (True, False)
    ]
    assert titles[0] == "1-3, 9 held-out tokens"
    assert "9 TRAINING tokens: nothing was held out" in titles[1]
