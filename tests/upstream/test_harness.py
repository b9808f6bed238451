"""The runs of TransformerLens' own tests notice a quantizer that changes a model."""

import os
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from tests.upstream.__main__ import main
from tests.upstream.run import Results, UnreachableError, broken, fetch, run_modes, run_tests

OPTIONS = {
    **{"n_layers": 2, "n_heads": 2, "d_model": 8, "d_head": 4, "d_mlp": 8, "n_ctx": 8},
    **{"d_vocab": 8, "act_fn": "gelu", "seed": 0},
}
TESTS = """
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import T5Config, T5ForConditionalGeneration

def test_logits():
    logits = TransformerBridge.boot_native({options})(torch.arange(6)[None])
    assert torch.equal(logits, torch.tensor({logits}))

def test_names():
    model = TransformerBridge.boot_native({options})
    assert not [name for name in model.hook_dict if name.startswith("clvq")]

def test_two_stacks():
    config = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    model = T5ForConditionalGeneration(config)
    build_bridge_from_module(model, "T5ForConditionalGeneration", hf_config=config)

def test_that_fails_anyway():
    assert False

@pytest.fixture
def fails_at_the_end():
    yield
    assert False

def test_whose_end_fails(fails_at_the_end):
    pass
"""
BREAK = """
import clvq_lens

add = clvq_lens.add_clvq

def add_and_break(model, *args, **options):
    model.blocks[0].hook_out.register_forward_hook(lambda point, args, out: out * 1.5)
    return add(model, *args, **options)

clvq_lens.add_clvq = add_and_break
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a few tests, as a source distribution has them."""
    logits = TransformerBridge.boot_native(OPTIONS)(torch.arange(6)[None]).tolist()
    (tmp_path / "tests").mkdir()
    written = TESTS.format(options=OPTIONS, logits=logits)
    (tmp_path / "tests/test_invented.py").write_text(written)
    return tmp_path


def outcomes(results: Results) -> dict[str, str]:
    return {test.split("::")[1]: outcome for test, outcome in results.outcomes.items()}


@pytest.mark.slow
def test_only_tests_that_see_the_quantizer_tell_the_runs_apart(root):
    results = run_modes(root, ["test_invented.py", "test_of_another_version.py"])
    usual = {
        **{"test_logits": "passed", "test_names": "passed", "test_two_stacks": "passed"},
        **{"test_that_fails_anyway": "failed", "test_whose_end_fails": "failed"},
    }
    assert outcomes(results["plain"]) == usual
    assert outcomes(results["attached"]) == {**usual, "test_names": "failed"}
    assert broken(results) == ["tests/test_invented.py::test_names"]
    assert results["plain"].attached == {}
    assert results["attached"].attached == {"TransformerBridge": 2}
    assert results["attached"].left_alone == {"TransformerBridge: no stack of blocks": 1}


@pytest.mark.slow
def test_a_quantizer_that_changes_logits_is_noticed(root):
    (root / "conftest.py").write_text(BREAK)
    results = run_tests(root, ["test_invented.py"], "attached")
    assert outcomes(results)["test_logits"] == "failed"


def test_the_archive_is_unpacked_without_the_library(tmp_path):
    packed = tmp_path / "transformer_lens-0.0.1"
    for file in ("tests/test_it.py", "transformer_lens/__init__.py", "pyproject.toml"):
        (packed / file).parent.mkdir(parents=True, exist_ok=True)
        (packed / file).touch()
    given = tmp_path / "given"
    given.mkdir()
    with tarfile.open(given / "transformer_lens-0.0.1.tar.gz", "w:gz") as archive:
        archive.add(packed, packed.name)
    root = fetch("0.0.1", tmp_path / "new", given)
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert found == {"tests/test_it.py", "pyproject.toml"}


def test_an_index_that_does_not_answer_is_said(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UnreachableError, match=r"pip could not download transformer_lens-0\.0\.1"):
        fetch("0.0.1", tmp_path)


@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("", 0)])
def test_without_the_archive_only_ci_fails(ci, status, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(sys, "argv", ["upstream", "--sdist", str(tmp_path)])
    assert main() == status
    assert "were not run. There is no transformer_lens-" in capsys.readouterr().out
