"""Completion in shells: of commands, options and values, at once."""

import os
import subprocess
import sys
from typing import get_args

import pytest
from typer.testing import CliRunner

from clvq_lens import cli
from clvq_lens.config import DecoderName, DtypeName, EncoderName, LongTexts, Metric

# The program under its own name, which says at its end what it has imported.
PROGRAM = """#!{python}
import atexit, sys
heavy = ("torch", "transformer_lens", "pandas", "numpy")
told = lambda: open({log!r}, "w").write(repr([name for name in heavy if name in sys.modules]))
atexit.register(told)
from clvq_lens.cli import main
main()
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts ``clvq-lens`` on the path; gives the file where it says what it imported."""
    folder, log = tmp_path / "bin", tmp_path / "imported"
    folder.mkdir()
    path = folder / "clvq-lens"
    path.write_text(PROGRAM.format(python=sys.executable, log=str(log)))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return log


def completed(shell: str, line: str) -> str:
    """What a shell is told at the end of a line, by the protocol of typer."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_CLVQ_LENS_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        ["clvq-lens"], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_options_and_values_are_completed_without_torch(program, shell):
    assert "evaluate" in completed(shell, "clvq-lens ev")
    assert "--metrics" in completed(shell, "clvq-lens evaluate run --met")
    values = completed(shell, "clvq-lens fit --decoder ")
    assert all(name in values for name in ("transformer", "mlp", "table"))
    assert "predictive" not in values
    assert program.read_text() == "[]"


VALUES = [
    ("fit --encoder re", "residual"),
    ("fit --long-texts tr", "truncate"),
    ("fit --dtype bf", "bfloat16"),
    ("fit --quantize 8", "8bit"),
    ("fit --device-map a", "auto"),
    ("fit --device cu", "cuda"),
    ("fit --model t", "toy"),
    ("cache --store-dtype float1", "float16"),
    ("plan --gpu H2", "H200"),
    ("evaluate run --metrics c", "controls\nce"),
    ("report run --dtype fl", "float32\nfloat16"),
]


def test_the_values_of_every_choice_are_completed(program):
    for line, expected in VALUES:
        assert completed("bash", f"clvq-lens {line}").strip() == expected, line


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("--encoder", EncoderName),
        ("--decoder", DecoderName),
        ("--dtype", DtypeName),
        ("--long-texts", LongTexts),
        ("--metrics", Metric),
    ],
)
def test_what_is_completed_is_what_the_library_takes(program, option, kind):
    command = "evaluate run" if option == "--metrics" else "fit"
    values = completed("bash", f"clvq-lens {command} {option} ").split()
    assert set(values) == set(get_args(kind))


def test_values_have_meanings_without_which_zsh_completes_none(program):
    for option in ("fit --decoder ", "fit --quantize ", "plan --gpu "):
        said = completed("zsh", f"clvq-lens {option}")
        assert said.count('":"') == said.count("\n") > 1


def test_a_file_of_settings_is_not_read_while_a_shell_completes(program, tmp_path):
    line = f"clvq-lens fit --config {tmp_path}/none.yaml --decoder t"
    assert completed("bash", line).split() == ["transformer", "table"]


def test_bash_completes_as_a_person_sees_it(program, tmp_path):
    """The script itself, in bash, with its own completion machinery."""
    shell = """
eval "$(clvq-lens --show-completion bash)"
COMP_WORDS=(clvq-lens fit --decoder t) COMP_CWORD=3
_clvq_lens_completion clvq-lens
printf '%s\\n' "${COMPREPLY[@]}"
"""
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["transformer", "table"]


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", ".bash_completions/clvq-lens.sh"),
        ("zsh", ".zfunc/_clvq-lens"),
        ("fish", ".config/fish/completions/clvq-lens.fish"),
    ],
)
def test_completion_is_installed_where_a_shell_looks_for_it(program, tmp_path, shell, place):
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = ["clvq-lens", "--install-completion", shell]
    subprocess.run(command, capture_output=True, check=True, env=environment)
    assert "_CLVQ_LENS_COMPLETE" in (tmp_path / place).read_text()
    assert program.read_text() == "[]"


def test_help_says_how_completion_is_installed():
    said = " ".join(CliRunner().invoke(cli.app, ["--help"]).output.split())
    assert "clvq-lens --install-completion" in said
    assert "--show-completion" in said
