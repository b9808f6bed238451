"""Every Python block of the README runs, in order, in one session, and it stays one screen."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks_of_the_readme_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some blocks write files
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert blocks
    session: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), session)
    printed = capsys.readouterr().out
    assert "torch.Size([1, " in printed
    assert "ce_loss_recovered" in printed
    assert (tmp_path / "report.html").stat().st_size > 1_000_000


def test_first_screen_has_the_two_commands():
    first = README.read_text().split("\n\n")[:3]
    assert "make demo" in "".join(first)
    assert "make test" in "".join(first)


def test_the_readme_is_one_screen():
    assert README.read_text().count("\n") <= 60
