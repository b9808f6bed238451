"""A run that several files of tests look at."""

import json

import pytest
from typer.testing import CliRunner

import clvq_lens as cl
from clvq_lens import cli


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
