"""Settings of a command in a file: read strictly, and before anything heavy is imported."""

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import clvq_lens as cl
from clvq_lens import cli
from clvq_lens.commands import config_file
from clvq_lens.commands.config_file import read_settings
from clvq_lens.errors import ConfigError

YAML = """
model: gpt2
source: 4
target: blocks.8.hook_resid_post
data: hf:stanfordnlp/imdb:train:text
checkpoint_every: 60
held_out: null
quantizer:
  n_codes: 64
  top_k: 5
fit:
  learning_rate: 1e-3
  n_tokens: 1_000
"""
TOML = """
model = "gpt2"
source = 4
target = "blocks.8.hook_resid_post"
data = "hf:stanfordnlp/imdb:train:text"
checkpoint_every = 60
[quantizer]
n_codes = 64
top_k = 5
[fit]
learning_rate = 1e-3
n_tokens = 1_000
"""
JSON = """{
    "model": "gpt2", "source": 4, "target": "blocks.8.hook_resid_post",
    "data": "hf:stanfordnlp/imdb:train:text", "checkpoint_every": 60, "held_out": null,
    "quantizer": {"n_codes": 64, "top_k": 5}, "fit": {"learning_rate": 1e-3, "n_tokens": 1000}
}"""


def read(folder: Path, text: str, name: str = "run.yaml", command: str = "fit"):
    (folder / name).write_text(text, encoding="utf-8")
    return read_settings(folder / name, command)


@pytest.mark.parametrize(
    ("name", "text"),
    [("run.yaml", YAML), ("run.yml", YAML), ("run.toml", TOML), ("run.json", JSON)],
)
def test_three_kinds_of_files_say_the_same(tmp_path, name, text):
    settings = read(tmp_path, text, name)
    assert settings.flags == {
        "model": "gpt2",
        "source": "4",
        "target": "blocks.8.hook_resid_post",
        "data": "hf:stanfordnlp/imdb:train:text",
        "checkpoint_every": 60,
        "n_codes": 64,
        "n_tokens": 1_000,
    }
    assert settings.quantizer == {"top_k": 5}
    assert settings.fit == {"learning_rate": 0.001}


def test_a_plan_takes_the_file_of_a_fit(tmp_path):
    settings = read(tmp_path, YAML + "\nn_gpus: 8\n", command="plan")
    assert settings.flags == {
        "model": "gpt2",
        "source": "4",
        "target": "blocks.8.hook_resid_post",
        "n_codes": 64,
        "n_tokens": 1_000,
        "n_gpus": 8,
    }


def test_a_cache_takes_several_points(tmp_path):
    settings = read(tmp_path, "point: [4, blocks.8.hook_resid_post]\nseed: 3", command="cache")
    assert settings.flags == {"point": ["4", "blocks.8.hook_resid_post"], "seed": 3}
    assert read(tmp_path, "point: 4", command="cache").flags == {"point": ["4"]}


def test_a_byte_order_mark_and_an_empty_section_are_no_mistakes(tmp_path):
    assert read(tmp_path, "\ufeffmodel: gpt2\nfit:\n").flags == {"model": "gpt2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modell: x", "knows no key 'modell'. Closest: 'model', at the top level. Keys: model, "),
        ("held-out: x", "Closest: 'held_out', at the top level"),
        ("n_code: 3", "Closest: 'n_codes', in the section 'quantizer'"),
        ("n_codes: 3", "'n_codes' stands at the top level, and belongs in the section 'quant"),
        ("quantizer: {seed: 3}", "stands in the section 'quantizer', and belongs in the section"),
        ("fit: {model: toy}", "stands in the section 'fit', and belongs at the top level. Move"),
        ("fit: {sed: 3}", "no key 'sed' in the section 'fit'. Closest: 'seed', in the section 'f"),
        ("gpu: H100", "clvq-lens fit knows no key 'gpu'"),
        ("overwrite: true", "'overwrite' is about a single call .* pass --overwrite with"),
        ("config: a.yaml", "'config' is about a single call .* pass --config"),
        ("model: a\nmodel: b", "The key 'model' is there twice, the second time in line 2"),
        ("fit:\n  seed: 1\n  seed: 2", "The key 'seed' is there twice, the second time in line 3"),
        ("1: toy", "The key 1 in line 1 is no text"),
        ("? [a]\n: toy", r"The key \['a'\] in line 1 is no text"),
        ("model: [toy]", r"'model' is \['toy'\], of type list; expected one value"),
        ("out: 2026-01-01", "'out' is .*, of type date; expected a text. Put it in quotes"),
        ("source: true", "'source' is True, of type bool; expected a whole number or a text"),
        ("checkpoint_every: soon", "'checkpoint_every' is 'soon', of type str; expected a number"),
        ("prepend_bos: 1", "'prepend_bos' is 1, of type int; expected true or false"),
        ("fit: {seed: 1.5}", "'seed' is 1.5, of type float; expected a whole number"),
        ("fit: {kl_weight: true}", "'kl_weight' is True, of type bool; expected a number"),
        ("quantizer: {decoder: 3}", "'decoder' is 3, of type int; expected a text"),
        ("fit: 3", "'fit' is 3; it is a section of options"),
        ("- toy", r"holds \['toy'\]. Write keys and values"),
        ("", "holds None. Write keys and values"),
        ("model: !!python/name:os.system x", "cannot be read: could not determine a constructor"),
        ("model: [toy", "cannot be read: while parsing a flow sequence"),
        ("a: 1\n---\nb: 2", "cannot be read: expected a single document"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "run.yaml"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.json", '{"model": "a", "model": "b"}', "The key 'model' is there twice"),
        ("run.json", '{"fit": {"seed": 1, "seed": 2}}', "The key 'seed' is there twice"),
        ("run.json", "{", "cannot be read: .*line 1 column 2"),
        ("run.json", "[" * 100_000, "cannot be read: maximum recursion depth"),
        ("run.toml", 'model = "a"\nmodel = "b"', "cannot be read: Cannot overwrite a value"),
        ("run.toml", "model = toy", "cannot be read: Invalid value .*line 1, column 9"),
        ("run.ini", "", "has the ending '.ini'. Pass a .yaml, .yml, .toml or .json file"),
        ("run.yaml", "#" * 2**21, "is larger than a megabyte"),
        ("run.json", '{"format": "clvq_lens"}', "describes a quantizer. Pass the run.json"),
        (
            "run.json",
            '{"format": "clvq_lens run", "format_version": 2}',
            "has format version 2, and only version 3 says all that a fit needs",
        ),
        (
            "run.json",
            '{"format": "clvq_lens run", "format_version": 3, "toy_texts": [4, 1]}',
            "is of clvq-lens demo, which makes its texts itself",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, name, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text, name)


def test_no_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"There is no file .*none\.yaml"):
        read_settings(tmp_path / "none.yaml", "fit")
    with pytest.raises(ConfigError, match=r"is a folder\. Pass a file, such as .*run\.json"):
        read_settings(tmp_path, "fit")
    (tmp_path / "latin.yaml").write_bytes("model: caf\xe9".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml cannot be read: 'utf-8' codec"):
        read_settings(tmp_path / "latin.yaml", "fit")


@pytest.mark.parametrize("command", ["fit", "plan", "cache"])
def test_the_keys_are_the_flags(command):
    """So that a new flag gets a key, or stands among those that no file holds."""
    schema = config_file._SCHEMAS[command]
    parameters = typer.main.get_command(cli.app).commands[command].params
    flags = {parameter.name for parameter in parameters} - {"help"}
    known = set(schema.kinds) - schema.passed_over
    for section in schema.sections.values():
        known |= set(section.values())
    assert known == flags - set(config_file._OF_EACH_CALL)


def test_what_a_section_names_without_meaning_is_refused_as_the_library_does(tmp_path):
    (tmp_path / "texts.txt").write_text("a text\n")
    options = f"data: {tmp_path}/texts.txt\nout: {tmp_path}/run\nmodel: toy\nsource: 1\ntarget: 2\n"
    (tmp_path / "run.yaml").write_text(options + "quantizer: {top_k: 500}")
    command = ["fit", "--config", str(tmp_path / "run.yaml")]
    with pytest.raises(ConfigError, match="top_k is 500, but there are only 400 codes"):
        CliRunner().invoke(cli.app, command, catch_exceptions=False)
    # Together with the flags, and not before them.
    with pytest.raises(ConfigError, match="top_k is 500, but there are only 450 codes"):
        CliRunner().invoke(cli.app, [*command, "--n-codes", "450"], catch_exceptions=False)


def test_a_file_that_lacks_what_a_command_needs_is_refused_as_flags_are(tmp_path):
    (tmp_path / "run.yaml").write_text("model: toy")
    result = CliRunner().invoke(cli.app, ["fit", "--config", str(tmp_path / "run.yaml")])
    assert result.exit_code == 2
    assert "Missing option '--source'" in result.output


# ---- the same run again --------------------------------------------------------------------------


def fit(*arguments: object) -> None:
    CliRunner().invoke(cli.app, ["fit", *map(str, arguments)], catch_exceptions=False)


def same_quantizers(a: Path, b: Path) -> bool:
    states = [cl.load(folder).state_dict() for folder in (a, b)]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_file_of_a_run_gives_the_same_run_and_flags_go_before_it(run, tmp_path):
    folder, _ = run
    fit("--config", folder / "run.json", "--out", tmp_path / "again")
    assert (tmp_path / "again" / "run.json").read_text() == (folder / "run.json").read_text()
    assert same_quantizers(folder, tmp_path / "again")
    fit("--config", folder / "run.json", "--out", tmp_path / "other", "--seed", 4)
    assert not same_quantizers(folder, tmp_path / "other")
    before = json.loads((folder / "run.json").read_text())
    after = json.loads((tmp_path / "other" / "run.json").read_text())
    assert after["fit"] == {**before["fit"], "seed": 4}
    assert after["quantizer"] == before["quantizer"]


def test_options_without_a_flag_reach_the_fit_and_the_file_of_the_run(run, tmp_path):
    settings = tmp_path / "run.yaml"
    settings.write_text(
        f"model: toy\nsource: 1\ntarget: 2\ndata: {run[1]}\nout: {tmp_path}/run\n"
        "quantizer: {n_codes: 12, decoder: table, ema_decay: 0.9}\n"
        "fit: {n_tokens: 4000, batch_tokens: 512}\n"
    )
    fit("--config", settings, "--n-codes", 15)
    config = cl.load(tmp_path / "run").config
    assert (config.n_codes, config.decoder, config.ema_decay) == (15, "table", 0.9)
    values = json.loads((tmp_path / "run" / "run.json").read_text())
    assert values["quantizer"]["n_codes"] == 15
    assert values["fit"]["batch_tokens"] == 512
    assert (values["source"], values["target"]) == (1, 2)


def test_a_plan_of_a_run_is_a_plan_of_its_options(run, monkeypatch):
    asked = {}

    def run_plan(model, source, target, data_tokens, **options):
        asked.update(options, source=source, data_tokens=data_tokens, model=model.name)

    monkeypatch.setattr("clvq_lens.commands.run_plan.run_plan", run_plan)
    command = ["plan", "--config", str(run[0] / "run.json"), "--data-tokens", "99"]
    CliRunner().invoke(cli.app, command, catch_exceptions=False)
    assert (asked["model"], asked["source"], asked["data_tokens"]) == ("toy", 1, 99)
    assert asked["options"]["n_codes"] == 20
    assert asked["fit_options"]["n_tokens"] == 4_000
    assert asked["fit_options"]["seed"] == 3
