"""Mistakes on the command line are named before anything heavy is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clvq_lens import cli
from clvq_lens.commands import refusals
from clvq_lens.config import FitConfig
from clvq_lens.errors import CheckpointError, DataError, PathTakenError
from clvq_lens.quantizer import saved

MODEL = ("--model", "gpt2")
LAYERS = ("--source", "1", "--target", "3")
FIT = ("fit", *MODEL, *LAYERS, "--out", "run", "--data", "texts.txt")
CACHE = ("cache", *MODEL, "--point", "1", "--out", "store")
PLAN = ("plan", *MODEL, *LAYERS)
REFUSED = [
    ((*FIT, "--held-out", "none.txt"), "There is no file none.txt"),
    ((*FIT[:-1], "none.txt"), "There is no file none.txt"),
    ((*FIT, "--n-codes", "0"), "n_codes is 0"),
    ((*FIT, "--decoder", "none"), "decoder is 'none'"),
    ((*FIT, "--seed", "-1"), "seed is -1"),
    ((*FIT, "--n-tokens", "0"), "n_tokens is 0"),
    ((*FIT, "--long-texts", "cut"), "long_texts is 'cut'"),
    ((*FIT, "--dtype", "int8"), "dtype is 'int8'"),
    ((*FIT, "--resume"), "--resume needs a folder"),
    ((*FIT, "--resume", "--checkpoint", "none"), "there is no such folder"),
    ((*FIT, "--checkpoint-every", "0"), "checkpoint_every is 0"),
    ((*FIT, "--out", "texts.txt"), "is not a folder"),
    ((*FIT, "--out", "fitted"), "already holds a fitted quantizer"),
    ((*CACHE, "--data", "none.txt"), "There is no file none.txt"),
    ((*CACHE, "--data", "texts.txt", "--store-dtype", "int8"), "dtype is 'int8'"),
    ((*CACHE, "--data", "texts.txt", "--n-tokens", "0"), "n_tokens is 0"),
    (PLAN, "Pass --data-tokens, those of the data"),
    ((*PLAN, "--n-tokens", "0"), "n_tokens is 0"),
    ((*PLAN, "--data-tokens", "0"), "data_tokens is 0"),
    ((*PLAN, "--n-tokens", "9", "--n-gpus", "0"), "n_gpus is 0"),
    ((*PLAN, "--n-tokens", "9", "--encoder", "none"), "encoder is 'none'"),
    (("report", "none"), "is not a run"),
    (("report", "fitted", "--data", "none.txt"), "There is no file none.txt"),
    (("report", "fitted", "--out", "texts.txt"), "Pass --overwrite to replace it"),
    (("evaluate", "none"), "is not a run"),
    (("evaluate", "fitted", "--data", "none.txt"), "There is no file none.txt"),
    (("evaluate", "fitted", "--metrics", "loss"), "metrics is 'loss'"),
    (("evaluate", "fitted", "--out", "texts.txt"), "Pass --overwrite to replace it"),
    ((*PLAN, "--n-tokens", "9", "--gpu", "H1000"), "No GPU 'H1000' is known"),
    (("fit", "--config", "none.yaml"), "There is no file none.yaml"),
    (("fit", "--config", "unknown.yaml"), "knows no key 'modell'"),
    (("fit", "--config", "twice.toml"), "cannot be read"),
    (("cache", "--config", "type.json"), "'seed' is 'one', of type str"),
    (("demo", "--out", "texts.txt"), "is not a folder"),
    (("demo", "--seed", "-1"), "seed is -1"),
]
# All of them in one process: what is imported stays imported.
PROGRAM = """
import contextlib, io, json, os, sys
from clvq_lens import cli

os.chdir(sys.argv[2])
heavy = ("torch", "transformer_lens", "pandas", "numpy")
for arguments in json.loads(sys.argv[1]):
    said, status = io.StringIO(), 0
    with contextlib.redirect_stderr(said):
        try:
            cli.main(arguments)
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, said.getvalue(), [name for name in heavy if name in sys.modules]]))
"""


@pytest.fixture
def here(tmp_path):
    """A folder with a file of texts and a fitted quantizer."""
    (tmp_path / "texts.txt").write_text("a text\n")
    (tmp_path / "unknown.yaml").write_text("modell: gpt2\n")
    (tmp_path / "twice.toml").write_text("seed = 1\nseed = 2\n")
    (tmp_path / "type.json").write_text('{"seed": "one"}')
    (tmp_path / "fitted").mkdir()
    for name in (saved.CONFIG, refusals.RUN):
        (tmp_path / "fitted" / name).write_text("{}")
    return tmp_path


def test_mistakes_are_refused_without_torch(here):
    commands = json.dumps([arguments for arguments, _ in REFUSED])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, commands, str(here)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    for (arguments, expected), line in zip(REFUSED, lines, strict=True):
        status, said, imported = json.loads(line)
        assert (status, imported) == (1, []), arguments
        assert expected in said, arguments


def test_a_name_on_the_hub_is_no_missing_file():
    refusals.check_data("hf:stanfordnlp/imdb", None)
    with pytest.raises(DataError, match="There is no file none"):
        refusals.check_data("hf:stanfordnlp/imdb", "none")


def test_results_may_go_to_a_new_folder_to_one_of_another_program_and_over_old_ones(here):
    refusals.check_results(here / "new", overwrite=False)
    assert not (here / "new").exists()
    refusals.check_results(here / "fitted", overwrite=True)
    with pytest.raises(PathTakenError, match="--overwrite to replace it"):
        refusals.check_results(here / "fitted", overwrite=False)
    (here / "fitted" / refusals.RUN).unlink()  # the command says whose file config.json is
    refusals.check_results(here / "fitted", overwrite=False)


def test_a_page_may_be_replaced_where_it_is_ours_or_the_user_says_so(here):
    refusals.check_output_file(None, overwrite=False)
    refusals.check_output_file(here / "new.html", overwrite=False)
    refusals.check_output_file(here / "texts.txt", overwrite=True)


def test_a_fit_goes_on_from_a_folder_that_exists(here):
    refusals.check_checkpoints(here, every_s=1.0, resume=True)
    refusals.check_checkpoints(None, every_s=1.0, resume=False)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        refusals.check_checkpoints(Path("none"), every_s=1.0, resume=True)


def test_a_fit_that_torchrun_starts_again_may_find_its_own_results(here, monkeypatch):
    """A process may be lost after the quantizer was saved; the command itself knows more."""
    reached = []
    monkeypatch.setattr("clvq_lens.commands.run_fit.run_fit", lambda *_, **__: reached.append(1))
    monkeypatch.setattr(cli, "_run", cli.app)  # without meeting other processes
    monkeypatch.chdir(here)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(SystemExit, match="0"):
        cli.main([*FIT, "--out", "fitted"])
    assert reached == [1]


def test_what_is_said_of_an_option_is_what_the_library_says():
    with pytest.raises(ValueError, match="patience is 0"):
        refusals.check_fit_options({}, {"patience": 0})
    assert refusals._QUANTIZER == saved.CONFIG
    refusals.check_fit_options({"n_codes": 7}, {"seed": FitConfig().seed})
