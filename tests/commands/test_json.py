"""``--json``: one document on standard output, whatever happens, and everything else elsewhere."""

import json
import math
import sys

import pytest

import clvq_lens as cl
from clvq_lens import cli
from clvq_lens.commands.command_model import ModelChoice
from clvq_lens.commands.telling import json_alone, write_json
from clvq_lens.errors import CommandInterruptedError, TerminatedError


@pytest.fixture
def said(capsys):
    """Runs a command: its status, the document on standard output, and standard error."""

    def run(*arguments: object) -> tuple[int, dict, str]:
        capsys.readouterr()
        status = 0
        try:
            cli.main(list(map(str, arguments)))
        except SystemExit as end:
            status = end.code or 0
        output, errors = capsys.readouterr()

        def refuse(name: str) -> None:
            pytest.fail(f"{name} is not JSON")

        return status, json.loads(output, parse_constant=refuse), errors

    return run


def assert_measured(document: dict, n_metrics: int) -> None:
    """Numbers stand with their intervals, and counts have none."""
    metrics = document["evaluation"]["metrics"]
    assert len(metrics) >= n_metrics
    for name in ("fvu", "kl"):
        assert metrics[name]["low"] < metrics[name]["value"] < metrics[name]["high"]
    assert metrics["n_dead_codes"]["low"] is None
    assert isinstance(metrics["n_dead_codes"]["value"], int)


def test_a_fit_an_evaluation_and_a_report_are_documents(said, run, tmp_path):
    settings = ["--config", run[0] / "run.json", "--decoder", "table"]
    status, fitted, errors = said("fit", *settings, "--out", tmp_path / "run", "--json")
    assert status == 0
    assert fitted["command"] == "fit"
    assert fitted["out"] == str(tmp_path / "run")
    assert fitted["written"] == str(tmp_path / "run" / "index.html")
    assert fitted["run"] == json.loads((tmp_path / "run" / "run.json").read_text())
    assert fitted["run"]["quantizer"]["decoder"] == "table"
    assert fitted["data"] == str(run[1])
    assert fitted["held_out"] is True
    assert_measured(fitted, 15)
    assert "Open" in errors  # what people read is elsewhere
    assert "ce_loss_recovered" in errors

    (tmp_path / "other.txt").write_text("\n".join(cl.toy.generate(7, seed=9)))
    arguments = [tmp_path / "run", "--data", tmp_path / "other.txt", "--json"]
    status, evaluated, _ = said("evaluate", *arguments)
    assert status == 0
    assert evaluated["command"] == "evaluate"
    assert evaluated["written"] == str(tmp_path / "run" / "evaluation-other.csv")
    assert evaluated["data"] == str(tmp_path / "other.txt")
    assert evaluated["evaluation"]["n_documents"] == 7
    assert_measured(evaluated, 15)

    status, reported, _ = said("report", tmp_path / "run", "--json")
    assert status == 0
    assert reported["command"] == "report"
    assert reported["written"] == str(tmp_path / "run" / "report.html")
    assert reported["evaluation"] == fitted["evaluation"]


def test_a_recovery_is_in_the_document(said, run, tmp_path):
    values = json.loads((run[0] / "run.json").read_text()) | {"toy_texts": [6, 1], "data": None}
    folder = tmp_path / "run"
    cl.load(run[0])
    folder.mkdir()
    for path in run[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "run.json").write_text(json.dumps(values))
    arguments = [folder, "--metrics", "fvu", "--overwrite", "--json"]
    status, document, _ = said("evaluate", *arguments)
    assert status == 0
    assert document["data"] is None
    rows = document["evaluation"]["recovery"]
    assert {"codes", "k-means", "token identity"} <= {row["method"] for row in rows}
    assert all(0 <= row["purity"] <= 1 for row in rows)


def test_a_cache_and_a_plan_are_documents(said, run, tmp_path, monkeypatch):
    arguments = ["--model", "toy", "--data", run[1], "--point", 1, "--out", tmp_path / "store"]
    status, cached, _ = said("cache", *arguments, "--n-tokens", 500, "--json")
    assert status == 0
    store = cl.ActivationStore(tmp_path / "store")
    assert cached["n_tokens"] == store.n_tokens
    assert cached["size_bytes"] == store.size_bytes
    assert cached["points"] == {
        "blocks.1.hook_resid_post": store.index.contents.points[store.points[0]]
    }
    assert cached["complete"] is True

    options = ["--source", 1, "--target", 2, "--data-tokens", 10**6, "--gpu", "H100", "--json"]
    status, planned, _ = said("plan", "--model", "toy", *options)
    assert status == 0
    assert planned["where"] == "1 x H100"
    assert planned["fits"] is True
    assert planned["wall_s"] == pytest.approx(sum(phase["wall_s"] for phase in planned["phases"]))
    assert planned["memory_bytes"] == planned["model_bytes"] + planned["fit_bytes"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CommandInterruptedError("Interrupted while\nfitting."), 130),
        (TerminatedError("Told to end."), 143),
        (PermissionError(13, "Permission denied", "/x"), 1),
    ],
)
def test_an_error_is_a_document_with_its_status_and_a_line_elsewhere(
    said, run, monkeypatch, error, status
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("clvq_lens.commands.opened_run.opened_run", fail)
    monkeypatch.setattr("clvq_lens.commands.run_report.opened_run", fail)
    ended, document, errors = said("report", run[0], "--json")
    assert ended == status
    message = " ".join(str(error).split())
    assert document == {
        "error": {"type": type(error).__name__, "message": message, "status": status}
    }
    assert message in errors


def test_a_mistake_in_the_options_is_a_document_too(said):
    status, document, errors = said("fit", "--json", "--none", "1")
    assert (status, document["error"]["status"]) == (2, 2)
    assert document["error"]["type"] == "NoSuchOption"
    assert "--none" in document["error"]["message"]
    assert "--none" in errors
    status, document, _ = said("plan", "--json")
    assert status == 2
    assert "--model" in document["error"]["message"]


def test_an_error_that_nobody_has_foreseen_keeps_its_traceback(run, monkeypatch, capsys):
    def fail(*_, **__):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("clvq_lens.commands.run_report.opened_run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", str(run[0]), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["error"] == {
        "type": "ZeroDivisionError",
        "message": "by nothing",
        "status": 1,
    }


def test_what_other_libraries_print_is_not_in_the_document(said, run, monkeypatch):
    load = ModelChoice.load

    def chatty(choice):
        sys.stdout.write("Loaded pretrained model\n")
        return load(choice)

    monkeypatch.setattr(ModelChoice, "load", chatty)
    status, _, errors = said("report", run[0], "--json")
    assert status == 0
    assert "Loaded pretrained model" in errors


def test_help_is_help_for_machines_as_well(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["report", "--help", "--json"])
    assert not end.value.code
    assert "Write one page" in capsys.readouterr().out


def test_of_processes_that_work_together_the_first_speaks(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        write_json({"rank": rank})
    assert json.loads(capsys.readouterr().out) == {"rank": "0"}


def test_nothing_is_moved_that_nobody_wants_moved(capsys):
    for wanted in (False, True):
        with json_alone(wanted):
            sys.stdout.write(f"{wanted}\n")
    assert capsys.readouterr() == ("False\n", "True\n")


def test_what_is_no_json_is_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"value": math.nan})
