"""A run remembers how its quantizer came about."""

import json
from dataclasses import replace

import pytest

import clvq_lens as cl
from clvq_lens.commands.run import Run, read_history, read_run, write_history, write_run
from clvq_lens.errors import FileFormatError
from clvq_lens.training.history import History, Record

RUN = Run(
    model="gpt2",
    dtype="bfloat16",
    prepend_bos=False,
    quantize="4bit",
    device="cpu",
    source=4,
    target="blocks.8.hook_resid_post",
    data="texts.txt",
    held_out=None,
    toy_texts=(4, 1),
    quantizer=cl.CLVQConfig(n_codes=64, decoder="table"),
    config=cl.FitConfig(n_tokens=5, batch_tokens=2_048, long_texts="split"),
)
RECORD = Record(
    step=10,
    n_tokens=1_000,
    epoch=0,
    wall_s=0.1 + 0.2,
    learning_rate=1e-3,
    fvu=1 / 3,
    kl=None,
    commitment=0.1,
    held_out_fvu=0.25,
    held_out_kl=None,
    perplexity=5.0,
    n_dead_codes=3,
    n_revived=0,
)
HISTORY = History(records=[RECORD], stop="early", best_step=7, n_training_documents=9)


def test_a_run_comes_back_as_it_was(tmp_path):
    write_run(tmp_path, RUN, HISTORY)
    run = read_run(tmp_path)
    assert replace(run, ended=None) == RUN
    assert run.ended == replace(HISTORY, records=[])


def test_a_folder_of_the_format_version_before_stays_readable(tmp_path):
    """Which did not say what was fitted, and where; nor, without quantized weights, their bits."""
    write_run(tmp_path, RUN, HISTORY)
    values = json.loads((tmp_path / "run.json").read_text()) | {"format_version": 2}
    for name in ("device", "device_map", "source", "target", "quantizer", "quantize"):
        del values[name]
    (tmp_path / "run.json").write_text(json.dumps(values))
    expected = replace(RUN, quantize=None, device=None, source=None, target=None, quantizer=None)
    assert replace(read_run(tmp_path), ended=None) == expected
    (tmp_path / "run.json").write_text(json.dumps({**values, "quantize": "8bit"}))
    assert read_run(tmp_path).quantize == "8bit"


def test_a_folder_of_this_format_version_stays_readable(tmp_path):
    """What version 0.1.0 wrote, byte for byte but for its number."""
    text = """{
  "format": "clvq_lens run",
  "format_version": 3,
  "library_version": "0.1.0",
  "model": "gpt2",
  "dtype": "bfloat16",
  "prepend_bos": false,
  "quantize": "4bit",
  "device": "cpu",
  "device_map": null,
  "source": 4,
  "target": "blocks.8.hook_resid_post",
  "data": "texts.txt",
  "held_out": null,
  "toy_texts": [
    4,
    1
  ],
  "quantizer": {
    "n_codes": 64,
    "top_k": null,
    "temperature": 0.5,
    "temperature_unit": "relative",
    "ema_decay": 0.99,
    "commitment_weight": 0.1,
    "dead_after_tokens": null,
    "initialization": "scaled_spherical",
    "encoder": "predictive",
    "encoder_layers": 2,
    "d_encoder_mlp": null,
    "decoder": "table",
    "decoder_memory": "codes",
    "decoder_layers": 2,
    "decoder_heads": null,
    "d_decoder_mlp": null,
    "decoder_dropout": 0.0
  },
  "fit": {
    "n_tokens": 5,
    "batch_tokens": 2048,
    "accumulation_steps": 1,
    "learning_rate": null,
    "weight_decay": 0.01,
    "warmup_fraction": 0.05,
    "max_grad_norm": 1.0,
    "recon_weight": 1.0,
    "loss_unit": "variance",
    "kl_weight": 0.0,
    "held_out_fraction": 0.05,
    "n_evaluations": 20,
    "patience": 4,
    "buffer_tokens": 524288,
    "keep_outliers": false,
    "long_texts": "split",
    "seed": 0
  },
  "history": {
    "stop": "early",
    "best_step": 7,
    "n_tokens": 0,
    "n_training_documents": 9,
    "n_held_out_documents": 0,
    "n_outliers": 0
  }
}
"""
    (tmp_path / "run.json").write_text(text)
    assert replace(read_run(tmp_path), ended=None) == RUN
    write_run(tmp_path, RUN, HISTORY)
    again = (tmp_path / "run.json").read_text()
    assert again.replace(cl.__version__, "0.1.0") == text


def test_a_history_comes_back_as_it_was(tmp_path):
    write_run(tmp_path, RUN, HISTORY)
    write_history(tmp_path / "history.csv", HISTORY)
    assert read_history(tmp_path / "history.csv", read_run(tmp_path)) == HISTORY


def test_a_history_that_is_gone_is_none(tmp_path):
    assert read_history(tmp_path / "history.csv", RUN) is None


def test_a_table_of_something_else_is_no_history(tmp_path):
    (tmp_path / "history.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FileFormatError, match=r"has the columns \['a', 'b'\], expected"):
        read_history(tmp_path / "history.csv", RUN)


def test_a_damaged_table_is_refused(tmp_path):
    write_history(tmp_path / "history.csv", HISTORY)
    text = (tmp_path / "history.csv").read_text()
    (tmp_path / "history.csv").write_text(text.replace("1000", "many"))
    with pytest.raises(FileFormatError, match=r"history\.csv is damaged"):
        read_history(tmp_path / "history.csv", RUN)


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.pop("model"),
        lambda values: values.update(format_version=99),
        lambda values: values["fit"].update(n_tokens=-1),
        lambda values: values["history"].pop("stop"),
        lambda values: values.update(toy_texts=[1]),
        lambda values: values.update(device=0),
        lambda values: values["quantizer"].update(n_code=1),
    ],
)
def test_a_damaged_run_is_refused(tmp_path, damage):
    write_run(tmp_path, RUN, HISTORY)
    values = json.loads((tmp_path / "run.json").read_text())
    damage(values)
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(FileFormatError, match=r"run\.json is damaged"):
        read_run(tmp_path)


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("not json")
    with pytest.raises(FileFormatError, match=r"run\.json is damaged"):
        read_run(tmp_path)
