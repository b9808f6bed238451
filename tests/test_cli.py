"""The command line, on the toy world."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

import clvq_lens as cl
from clvq_lens import cli, workflow

RESULTS = {"config.json", "history.csv", "report.csv", "concepts.csv", "index.html"}


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
    page = (out / "index.html").read_text()
    assert "<script src" not in page
    assert "Plotly.newPlot" in page
    assert cl.load(out).fitted
    recovery = pd.read_csv(out / "recovery.csv")
    assert set(recovery["method"]) == {
        *("codes", "k-means", "token identity", "codes, labels shuffled")
    }


def test_fit_on_a_file_saves_and_evaluates_on_the_held_out_part(toy, tmp_path):
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(json.dumps({"text": text}) for text in toy.texts[:80]))
    arguments = ["--model", "toy", "--source", "1", "--target", "blocks.2.hook_resid_post"]
    arguments += ["--data", str(data), "--out", str(tmp_path / "run"), "--n-codes", "20"]
    result = CliRunner().invoke(cli.app, ["fit", *arguments, "--n-tokens", "4000"])
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "run").iterdir()} >= RESULTS
    quantizer = cl.load(tmp_path / "run")
    assert quantizer.config.n_codes == 20
    assert quantizer.origin is not None
    assert quantizer.origin.target == "blocks.2.hook_resid_post"


def test_an_error_is_one_line_with_the_remedy_and_status_one(tmp_path, capsys):
    arguments = ["--model", "toy", "--source", "1", "--target", "2", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", *arguments, "--data", str(tmp_path / "missing.txt")])
    assert stop.value.code == 1
    assert "There is no file" in capsys.readouterr().err


def test_a_model_name_goes_to_from_pretrained(monkeypatch):
    import transformer_lens

    asked = {}

    def stand_in(name, device):
        asked.update(name=name, device=device)
        return "model"

    monkeypatch.setattr(transformer_lens.HookedTransformer, "from_pretrained", stand_in)
    assert workflow.load_model("gpt2", "cpu") == "model"
    assert asked == {"name": "gpt2", "device": "cpu"}
