"""``clvq-lens evaluate``: the quantizer of a run on other data."""

import json
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

import clvq_lens as cl
from clvq_lens import cli
from clvq_lens.commands import opened_run
from clvq_lens.commands.command_model import ModelChoice
from clvq_lens.commands.refusals import evaluation_table
from clvq_lens.errors import (
    CommandInterruptedError,
    ConfigError,
    DataError,
    FileFormatError,
    PathError,
    PathTakenError,
)


def evaluate(*arguments: object) -> str:
    """Runs ``clvq-lens evaluate``, raises what it raises, and gives what it prints."""
    words = ["evaluate", *map(str, arguments)]
    return CliRunner().invoke(cli.app, words, catch_exceptions=False).output


@pytest.fixture
def other(tmp_path):
    """A file of other texts."""
    path = tmp_path / "other.txt"
    path.write_text("\n".join(cl.toy.generate(7, seed=9)))
    return path


def test_other_data_get_a_table_of_their_own_beside_that_of_the_run(run, tmp_path, other):
    folder = shutil.copytree(run[0], tmp_path / "run")
    before = (folder / "evaluation.csv").read_bytes()
    printed = evaluate(folder, "--data", other)
    table = pd.read_csv(folder / "evaluation-other.csv")
    model = cl.toy.load(n_texts=1).model
    lens = model.add_clvq(quantizer=cl.load(folder))
    expected = lens.evaluate(other, progress=False).frame()
    assert table["metric"].tolist() == expected["metric"].tolist()
    assert table["value"].tolist() == pytest.approx(expected["value"].tolist())
    assert table["low"].tolist() == pytest.approx(expected["low"].tolist(), nan_ok=True)
    assert (folder / "evaluation.csv").read_bytes() == before
    assert "tokens of" in printed
    assert "ce_loss_recovered" in printed
    assert "evaluation-other.csv" in printed.replace("\n", "")


def test_the_part_that_was_held_out_is_evaluated_as_in_the_fit(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    before = (folder / "evaluation.csv").read_text()
    (folder / "evaluation.csv").unlink()  # as after a fit that was interrupted
    evaluate(folder)
    assert (folder / "evaluation.csv").read_text() == before
    with pytest.raises(PathTakenError, match=r"evaluation\.csv exists\. Pass --overwrite"):
        evaluate(folder)
    evaluate(folder, "--overwrite")


def test_only_what_is_asked_for_is_measured(run, tmp_path, other):
    evaluate(run[0], "--data", other, "--metrics", "fvu", "--out", tmp_path / "fvu.csv")
    metrics = set(pd.read_csv(tmp_path / "fvu.csv")["metric"])
    assert "fvu" in metrics
    assert not metrics & {"kl", "ce_clean", "fvu_random_codes"}
    options = ["--metrics", "fvu", "--metrics", "kl", "--out", tmp_path / "kl.csv"]
    evaluate(run[0], "--data", other, *options)
    assert "kl" in set(pd.read_csv(tmp_path / "kl.csv")["metric"])


def test_numbers_on_the_data_of_the_fit_are_called_training(run, tmp_path):
    printed = evaluate(run[0], "--data", run[1], "--metrics", "fvu", "--out", tmp_path / "a.csv")
    assert "TRAINING tokens: the run was fitted on these data" in " ".join(printed.split())


def test_a_run_of_the_demo_knows_its_labels(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    values = json.loads((folder / "run.json").read_text()) | {"toy_texts": [6, 1], "data": None}
    (folder / "run.json").write_text(json.dumps(values))
    printed = evaluate(folder, "--metrics", "fvu", "--overwrite")
    assert "Do codes recover the true concepts?" in printed
    assert "token identity" in printed


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--data", "none.txt"], DataError, "There is no file none.txt"),
        (["--metrics", "fvus"], ConfigError, "metrics is 'fvus'. Closest: 'fvu'"),
        (["--dtype", "int8"], ConfigError, "dtype is 'int8'"),
        (["--out", "none/a.csv"], PathError, "There is no folder none"),
        (["--out", __file__], PathTakenError, "exists. Pass --overwrite"),
    ],
)
def test_what_is_impossible_is_refused_before_the_model_is_loaded(
    run, monkeypatch, arguments, error, message
):
    monkeypatch.setattr(ModelChoice, "load", lambda _: pytest.fail("the model is loaded"))
    with pytest.raises(error, match=message):
        evaluate(run[0], *arguments)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="is not a run"):
        evaluate(tmp_path)


def test_ctrl_c_says_that_no_table_was_written(run, monkeypatch, tmp_path, other):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cl.Lens, "evaluate", interrupt)
    with pytest.raises(CommandInterruptedError, match=r"evaluating\. .*a\.csv was not written"):
        evaluate(run[0], "--data", other, "--out", tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()


def test_the_model_is_that_of_the_run_unless_another_is_named(run, monkeypatch):
    asked = []

    def load(choice):
        asked.append(choice)
        raise DataError("far enough")

    monkeypatch.setattr(ModelChoice, "load", load)
    for arguments in ([], ["--model", "gpt2", "--dtype", "bfloat16"]):
        with pytest.raises(DataError, match="far enough"):
            evaluate(run[0], "--overwrite", *arguments)
    assert [(choice.name, choice.dtype) for choice in asked] == [
        ("toy", None),
        ("gpt2", "bfloat16"),
    ]
    assert opened_run.OF_RUN.name == ""


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (None, "evaluation.csv"),
        ("folder/texts.jsonl.gz", "evaluation-texts.csv"),
        ("hf:user/name:test:text", "evaluation-user-name-test-text.csv"),
        ("a b/c d.txt", "evaluation-c-d.csv"),
        ("x" * 300 + ".txt", f"evaluation-{'x' * 100}.csv"),
    ],
)
def test_a_table_is_named_after_its_data(tmp_path, data, name):
    assert evaluation_table(tmp_path, data, None) == tmp_path / name
    assert evaluation_table(tmp_path, data, tmp_path / "mine.csv") == tmp_path / "mine.csv"
