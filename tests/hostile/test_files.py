"""Files: damaged, edited, cut and exchanged; of quantizers, comparisons, runs, texts and models."""

import copy
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from typer.testing import CliRunner

import clvq_lens as cl
from clvq_lens import cli
from tests.hostile.conftest import PROFILE
from tests.hostile.subjects import Subject, subject_of
from tests.hostile.trial import WHOLE, Trial, shown
from tests.hostile.values import TEXTS
from tests.hosts import D_MODEL, D_VOCAB, KINDS, N_CONTEXT, N_LAYERS, tokenizer

GOOD = ["w5 w6 w7 w8", "w9 w10 w11 w5 w6", "w30 w31"]
_DOCUMENTED = (FileNotFoundError, FileExistsError)
JSON_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 12, 16, 17, 10**6, 2**70, 0.5, 1e400, "", "x", "../x", "1"),
    *(float("nan"), [], {}, [1], {"a": 1}, "\ud800", "x" * 1_000, "/etc/passwd", "float32"),
]


@pytest.fixture(scope="module")
def any_subject() -> Subject:
    """Files do not depend on the kind of host."""
    return subject_of(next(kind for kind in KINDS if kind.name == "bridge-gpt2"))


@pytest.fixture(scope="module")
def saved(any_subject, tmp_path_factory) -> Path:
    """A saved quantizer."""
    return any_subject.lens.save(tmp_path_factory.mktemp("hostile") / "saved")


def _weights(folder: Path) -> Path:
    return next(folder.glob("weights-*.safetensors"))


def _same(loaded: Any, original: Any) -> None:
    """Raises unless two quantizers are the same in all that a file holds."""
    assert loaded.config == original.config, "options have changed without a word"
    assert loaded.causal == original.causal, "causality has changed without a word"
    assert loaded.origin == original.origin, "the origin has changed without a word"
    mine, theirs = loaded.state_dict(), original.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert value.equal(theirs[name]), f"{name} has changed without a word"


def _load_damaged(
    trial: Trial, saved: Path, folder: Path, case: str, damage: Callable[[Path], None]
) -> None:
    """Loads a damaged copy: it must be refused, or be what was saved."""
    original = cl.load(saved)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    damage(folder)
    trial.run(
        f"load after {case}",
        lambda: cl.load(folder),
        lambda loaded: _same(loaded, original),
        documented=_DOCUMENTED,
    )


def _write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


def _cut(name: str, length: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:length])

    return damage


def _flip(name: str, place: int, mask: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place % len(content)] ^= mask
        (folder / name).write_bytes(content)

    return damage


def test_files_cut_at_any_length(trial, saved, tmp_path):
    for name in ("config.json", _weights(saved).name):
        size = (saved / name).stat().st_size
        lengths = sorted({0, 1, 7, 8, 9, size - 1, *range(0, size, max(1, size // 120))})
        for length in trial.some(lengths, in_ci=8):
            case = f"{name} was cut to {length} of {size} bytes"
            _load_damaged(trial, saved, tmp_path / "copy", case, _cut(name, length))


def test_generated_bit_flips(trial, saved, tmp_path):
    @PROFILE
    @given(
        name=st.sampled_from(["config.json", _weights(saved).name]),
        place=st.integers(0, 2**20),
        mask=st.integers(1, 255),
    )
    def search(name: str, place: int, mask: int) -> None:
        case = f"byte {place} of {name} was changed by {mask}"
        _load_damaged(trial, saved, tmp_path / "copy", case, _flip(name, place, mask))

    search()


def _places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value."""
    inside = values.items() if isinstance(values, dict) else enumerate(values[:2])
    found = []
    for key, value in inside:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += _places(value, (*path, key))
    return found


def _edited(values: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    values = copy.deepcopy(values)
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return values


def _set(value: Any) -> Callable[[Any, Any], None]:
    return lambda inner, key: inner.__setitem__(key, value)


def _delete(inner: Any, key: Any) -> None:
    del inner[key]


def _double(inner: Any, key: Any) -> None:
    if isinstance(inner, dict):
        inner["more"] = inner[key]
    else:
        inner.append(inner[key])


def test_an_edited_config_is_refused(trial, saved, tmp_path):
    values = json.loads((saved / "config.json").read_text())
    edits: list[tuple[tuple[Any, ...], str, Any]] = []
    for path in _places(values):
        edits += [(path, f"was set to {shown(value)}", _set(value)) for value in JSON_VALUES]
        edits += [(path, "was deleted", _delete), (path, "was doubled", _double)]
    for path, how, change in trial.some(edits, in_ci=30):
        content = json.dumps(_edited(values, path, change)).encode()
        _load_damaged(
            trial,
            saved,
            tmp_path / "copy",
            f"{path} in config.json {how}",
            lambda folder, content=content: _write(folder, "config.json", content),
        )


WHOLE_FILES: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "a number": b"1",
    "a string": b'"clvq_lens"',
    "only the format": b'{"format": "clvq_lens"}',
    "binary": bytes(range(256)) * 20,
    "zeros": b"\x00" * 5_000,
    "latin-1": '{"format": "clvq_lens", "name": "é"}'.encode("latin-1"),
    "UTF-16": '{"format": "clvq_lens"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "gzip": gzip.compress(b'{"format": "clvq_lens"}', mtime=0),
    "deep": b'{"format": "clvq_lens", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep and open": b"[" * 1_000_000,
    "huge": b'{"format": "clvq_lens", "a": "' + b"x" * 3_000_000 + b'"}',
    "a long number": b'{"format": "clvq_lens", "format_version": ' + b"9" * 10_000 + b"}",
    "two objects": b'{"format": "clvq_lens"}{}',
    "a trailing comma": b'{"format": "clvq_lens",}',
    "the same key twice": b'{"format": "x", "format": "clvq_lens"}',
    "markup": b"<!DOCTYPE html><html></html>",
    "a version of the future": b'{"format": "clvq_lens", "format_version": 99}',
}


def test_whole_files_exchanged(trial, saved, any_subject, tmp_path):
    names = ("config.json", _weights(saved).name)
    for name in names:
        for case, content in WHOLE_FILES.items():
            _load_damaged(
                trial,
                saved,
                tmp_path / "copy",
                f"{name} was exchanged for: {case}",
                lambda folder, name=name, content=content: _write(folder, name, content),
            )
    other = any_subject.model.clvqs["2-3"].save(tmp_path / "other")
    damage: dict[str, Callable[[Path], Any]] = {
        "weights of another one": lambda folder: shutil.copy(_weights(other), _weights(folder)),
        "config of another one": lambda folder: shutil.copy(other / "config.json", folder),
        "weights removed": lambda folder: _weights(folder).unlink(),
        "config removed": lambda folder: (folder / "config.json").unlink(),
        "weights as a folder": lambda folder: (
            (w := _weights(folder)).unlink(),
            w.mkdir(),
        ),
        "config as a folder": lambda folder: (
            (folder / "config.json").unlink(),
            (folder / "config.json").mkdir(),
        ),
        "config as a fifo": lambda folder: (
            (folder / "config.json").unlink(),
            __import__("os").mkfifo(folder / "config.json"),
        ),
    }
    for case, change in damage.items():
        _load_damaged(trial, saved, tmp_path / "copy", case, change)


def _with_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    """Changes tensors and every hash that config.json is known to hold, as an editor would."""

    def damage(folder: Path) -> None:
        old = _weights(folder)
        tensors = load_tensors(old.read_bytes())
        change(tensors)
        content = save_tensors({name: value.contiguous() for name, value in tensors.items()})
        digest = hashlib.sha256(content).hexdigest()
        config = json.loads((folder / "config.json").read_text())
        old.unlink()
        config["weights"], config["sha256"] = f"weights-{digest[:12]}.safetensors", digest
        _write(folder, config["weights"], content)
        _write(folder, "config.json", json.dumps(config).encode())

    return damage


def test_edited_tensors_are_refused(trial, saved, tmp_path):
    tensors = load_tensors(_weights(saved).read_bytes())

    def fill(name: str, value: Any) -> Callable[[dict[str, torch.Tensor]], None]:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            tensors[name] = tensors[name].clone()
            tensors[name].view(-1)[0] = value

        return change

    changes: list[tuple[str, Any]] = []
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            for value in (float("nan"), float("inf"), float("-inf")):
                changes.append((f"{name} holds {value}", fill(name, value)))
        changes += [
            (f"{name} was left out", lambda t, name=name: t.pop(name)),
            (
                f"{name} was flattened",
                lambda t, name=name: t.update({name: t[name].reshape(-1, 1)}),
            ),
            (f"{name} is double", lambda t, name=name: t.update({name: t[name].double()})),
            (f"{name} is empty", lambda t, name=name: t.update({name: t[name].reshape(-1)[:0]})),
        ]
        if "usage" in name or "cluster" in name or "count" in name:
            changes.append((f"{name} is negative", fill(name, -5)))
    for case, change in trial.some(changes, in_ci=12):
        _load_damaged(trial, saved, tmp_path / "copy", case, _with_tensors(change))


# ---- files of texts ------------------------------------------------------------------------------

TEXT_FILES: dict[str, bytes] = {
    "latin-1": "w5 café w6\nw7\n".encode("latin-1"),
    "cp1252": "w5 “w6”\n".encode("cp1252"),
    "UTF-16": "w5 w6\nw7 w8\n".encode("utf-16"),
    "UTF-32": "w5 w6\nw7 w8\n".encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbfw5 w6\n",
    "gzip": gzip.compress(b"w5 w6\n" * 100, mtime=0),
    "binary": bytes(range(256)) * 20,
    "zeros": b"\x00" * 1_000,
    "NUL inside": b"w5 \x00 w6\n",
    "empty": b"",
    "blank lines": b"\n\n \n\t\n",
    "no newline at the end": b"w5 w6",
    "CRLF": b"w5 w6\r\nw7 w8\r\n",
    "CR": b"w5 w6\rw7 w8\r",
    "one long line": b"w5 " * 20_000,
    "a cut character": "w5 漢".encode()[:-1],
    "a surrogate": b"w5 \xed\xa0\x80 w6\n",
    "overlong": b"w5 \xc0\xaf w6\n",
    "good lines, then a bad one": b"w5 w6\n" * 3_000 + b"caf\xe9\n",
    "JSON strings": b'"w5 w6"\n"w7"\n',
    "objects": b'{"text": "w5 w6"}\n{"text": "w7 w8 w9"}\n',
    "objects without a text": b'{"body": "w5 w6"}\n',
    "a text that is a number": b'{"text": 5}\n',
    "a text that is null": b'{"text": null}\n',
    "a JSON list": b'["w5 w6", "w7"]\n',
    "a whole JSON document": b'[\n  "w5 w6",\n  "w7"\n]\n',
    "NaN": b'{"text": NaN}\n',
    "an escaped surrogate": b'{"text": "w5 \\ud800 w6"}\n',
    "an escaped NUL": b'{"text": "w5 \\u0000 w6"}\n',
    "deep": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "a long number": b'{"text": ' + b"9" * 10_000 + b"}\n",
    "a broken line": b'{"text": "w5 w6"}\n{"text": "w7\n',
    "single quotes": b"{'text': 'w5 w6'}\n",
    "two on a line": b'{"text": "w5"} {"text": "w6"}\n',
}


def test_files_of_texts(trial, any_subject, tmp_path):
    lens = any_subject.lens
    verbs: dict[str, Callable[[Path], Any]] = {
        "encode": lambda path: lens.encode(path, long_texts="split"),
        "evaluate": lambda path: lens.evaluate(path, long_texts="split", progress=False),
        "fit": lambda path: _fit(any_subject, path),
        "concepts": lambda path: lens.concepts(
            path, n_examples=1, progress=False, long_texts="split"
        ),
        "encode of the name": lambda path: lens.encode(str(path), long_texts="split"),
    }
    for case, content in TEXT_FILES.items():
        for suffix in (".txt", ".jsonl", ".TXT", ".json", ".csv", ""):
            path = tmp_path / f"texts{suffix}"
            path.write_bytes(content)
            for verb, call in verbs.items() if WHOLE else [*verbs.items()][:1]:
                trial.run(
                    f"{verb} of a {suffix or 'nameless'} file: {case}",
                    lambda call=call, path=path: call(path),
                )


def _fit(subject: Subject, data: Any) -> None:
    lens = subject.new_lens(decoder="table")
    try:
        lens.fit(data, n_tokens=100, batch_tokens=64, progress=False, long_texts="split")
    finally:
        lens.remove()


# ---- comparisons ---------------------------------------------------------------------------------


def test_damaged_comparisons(trial, any_subject, tmp_path):
    path = tmp_path / "comparison.json"
    comparison = cl.compare([any_subject.lens], GOOD, progress=False)
    comparison.save(path)
    content = path.read_bytes()
    values = json.loads(content)
    table = comparison.table()

    def load(content: bytes) -> Any:
        path.write_bytes(content)
        loaded = cl.Comparison.load(path)
        loaded.frame(), repr(loaded), loaded.table()
        return loaded

    cases: dict[str, bytes] = {f"exchanged for: {case}": c for case, c in WHOLE_FILES.items()}
    for length in range(0, len(content), max(1, len(content) // 40)):
        cases[f"cut to {length} bytes"] = content[:length]
    for place in _places(values):
        for value in JSON_VALUES:
            edited = _edited(values, place, _set(value))
            cases[f"{place} set to {shown(value)}"] = json.dumps(edited).encode()
        cases[f"{place} deleted"] = json.dumps(_edited(values, place, _delete)).encode()
    for case in trial.some(list(cases), in_ci=12):
        trial.run(f"a comparison {case}", lambda case=case: load(cases[case]))
        trial.run(
            f"compare with keep=... that is {case}",
            lambda case=case: (
                path.write_bytes(cases[case]),
                cl.compare([any_subject.lens], GOOD, keep=path, progress=False),
            ),
        )
    assert comparison.table().equals(table)


# ---- the command line ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory) -> Path:
    """A tiny random model with a tokenizer, as a folder of Hugging Face."""
    folder = tmp_path_factory.mktemp("hf") / "tiny"
    config = transformers.GPT2Config(
        **{"n_layer": N_LAYERS, "n_head": 4, "n_embd": D_MODEL, "n_inner": 32},
        **{"vocab_size": D_VOCAB, "n_positions": N_CONTEXT, "bos_token_id": 0, "eos_token_id": 0},
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer("gpt2").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(hf_folder, tmp_path_factory) -> Path:
    """A folder that the command line has written, with its texts beside it."""
    folder = tmp_path_factory.mktemp("cli")
    texts = folder / "texts.txt"
    texts.write_text("\n".join(f"w{5 + n % 30} w{6 + n % 7} w7 w{9 + n % 11}" for n in range(60)))
    result = CliRunner().invoke(cli.app, _arguments(hf_folder, folder))
    assert result.exit_code == 0, (result.output, result.exception)
    return folder / "run"


def _arguments(hf_folder: Path, folder: Path, **options: Any) -> list[str]:
    values = {
        **{"model": hf_folder, "source": 1, "target": 2, "data": folder / "texts.txt"},
        **{"out": folder / "run", "n-codes": 8, "n-tokens": 300, "decoder": "table"},
        **options,
    }
    parts: list[str] = ["fit"]
    for name, value in values.items():
        parts += [f"--{name}", str(value)]
    return parts


def _invoke(arguments: list[str]) -> Any:
    """Runs a command; raises what it raised, but for what typer itself says of usage."""
    result = CliRunner().invoke(cli.app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2), result.exit_code
    return result


CLI_VALUES = (
    *(
        "",
        "0",
        "1",
        "-1",
        "2",
        "3",
        "99",
        "1.5",
        "nan",
        "inf",
        "1e3",
        "True",
        "None",
        "x",
        "--help",
    ),
    *("transformer", "mlp", "table", "split", "cpu", "cuda", "meta", "漢", "\udce9", " 1 ", "²"),
    *("9" * 30, "blocks.1.hook_out", "blocks.2.hook_resid_post", "unembed", "x" * 5_000),
)
CLI_PATHS = (
    "",
    ".",
    "missing",
    "missing/x",
    "file",
    "folder",
    "foreign",
    "fifo",
    "/proc/x",
    "a\x00b",
)


def test_arguments_of_the_command_line(trial, hf_folder, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("of the user")
    Path("folder").mkdir()
    Path("foreign").mkdir()
    Path("foreign/config.json").write_text('{"model_type": "gpt2"}')
    __import__("os").mkfifo("fifo")
    shutil.copy(run.parent / "texts.txt", tmp_path / "texts.txt")
    options = (
        "source",
        "target",
        "n-codes",
        "decoder",
        "n-tokens",
        "kl-weight",
        "long-texts",
        "device",
        "seed",
    )
    cases = [(option, value) for option in options for value in CLI_VALUES]
    cases = [case for case in cases if case != ("n-tokens", "9" * 30)]
    paths = ("model", "data", "out", "held-out")
    cases += [(option, value) for option in paths for value in CLI_PATHS]
    for option, value in trial.some(cases, in_ci=6):

        def call(option: str = option, value: str = value) -> Any:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            return _invoke(_arguments(hf_folder, tmp_path, **{option: value}))

        trial.run(f"fit --{option} {shown(value)}", call, _check_users, documented=_DOCUMENTED)
    for option in ("data", "out", "model", "device"):
        for value in (*CLI_PATHS, "cpu", "x.html") if WHOLE else ("missing", "fifo"):
            trial.run(
                f"report --{option} {shown(value)}",
                lambda option=option, value=value: _invoke(
                    ["report", str(run), f"--{option}", value]
                ),
                _check_users,
                documented=_DOCUMENTED,
            )
    for folder in CLI_PATHS:
        trial.run(
            f"report {shown(folder)}",
            lambda folder=folder: _invoke(["report", folder]),
            _check_users,
            documented=_DOCUMENTED,
        )


def _check_users(_: Any) -> None:
    assert Path("file").read_text() == "of the user"
    assert Path("foreign/config.json").read_text() == '{"model_type": "gpt2"}'


def test_damaged_runs(trial, run, tmp_path):
    names = ("run.json", "history.csv", "config.json")
    cases: list[tuple[str, str, bytes]] = []
    for name in names:
        content = (run / name).read_bytes()
        cases += [(name, f"exchanged for: {case}", c) for case, c in WHOLE_FILES.items()]
        step = max(1, len(content) // 10)
        cases += [(name, f"cut to {n} bytes", content[:n]) for n in range(0, len(content), step)]
    values = json.loads((run / "run.json").read_text())
    for place in _places(values):
        for value in JSON_VALUES[:: 1 if WHOLE else 6]:
            edited = json.dumps(_edited(values, place, _set(value))).encode()
            cases.append(("run.json", f"with {place} set to {shown(value)}", edited))
    rows = (run / "history.csv").read_text().splitlines()
    for value in ("", "nan", "NaN", "inf", "x", "null", "[]", '"', "1e999", "\x00", "9" * 5_000):
        cells = rows[1].split(",")
        for column in range(len(cells)):
            row = ",".join([*cells[:column], value, *cells[column + 1 :]])
            changed = "\n".join([rows[0], row, *rows[2:]]).encode()
            cases.append(("history.csv", f"with {value[:9]!r} in column {column}", changed))
    for name, case, content in trial.some(cases, in_ci=8):
        copied = tmp_path / "run"
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(run, copied)
        (copied / name).write_bytes(content)
        trial.run(
            f"report of a run whose {name} is {case}",
            lambda copied=copied: _invoke(["report", str(copied)]),
            documented=_DOCUMENTED,
        )


def test_texts_of_the_command_line(trial, hf_folder, tmp_path):
    for case in trial.some(list(TEXT_FILES), in_ci=4):
        for option in ("data", "held-out"):
            path = tmp_path / "odd.txt"
            path.write_bytes(TEXT_FILES[case])
            (tmp_path / "texts.txt").write_text("\n".join(GOOD * 20))
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            trial.run(
                f"fit --{option} with a file: {case}",
                lambda option=option, path=path: _invoke(
                    _arguments(hf_folder, tmp_path, **{option: path, "long-texts": "split"})
                ),
                documented=_DOCUMENTED,
            )


def test_damaged_models(trial, hf_folder, tmp_path):
    from clvq_lens.host.loading import load_pretrained

    cases: list[tuple[str, str, bytes]] = []
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        if not (hf_folder / name).is_file():
            continue
        content = (hf_folder / name).read_bytes()
        cases += [(name, f"exchanged for: {case}", c) for case, c in WHOLE_FILES.items()]
        step = max(1, len(content) // 8)
        cases += [(name, f"cut to {n} bytes", content[:n]) for n in range(0, len(content), step)]
    for name, case, content in trial.some(cases, in_ci=6):
        copied = tmp_path / "hf"
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(hf_folder, copied)
        (copied / name).write_bytes(content)
        trial.run(
            f"load_pretrained of a folder whose {name} is {case}",
            lambda copied=copied: load_pretrained(str(copied)),
        )


@pytest.mark.slow
def test_the_program_ends_in_one_line(trial, run, tmp_path):
    """As a process: an error is a line and a status, never a traceback."""
    for arguments in (["report", "missing"], ["fit"], ["report", str(run), "--out", "/proc/x/y"]):

        def call(arguments: list[str] = arguments) -> Any:
            command = [sys.executable, "-c", "from clvq_lens.cli import main; main()", *arguments]
            return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

        def check(done: Any) -> None:
            assert done.returncode in (1, 2)
            assert "Traceback" not in done.stderr, done.stderr

        trial.run(f"clvq-lens {' '.join(arguments)[:60]}", call, check, limit_s=200.0)


def test_strings_in_a_page_end_nothing(trial, any_subject, tmp_path):
    for text in trial.some(TEXTS, in_ci=4):
        path = tmp_path / "page.html"

        def call(text: str = text, path: Path = path) -> str:
            any_subject.lens.report(
                [*GOOD, text], path, n_examples=1, long_texts="truncate", progress=False
            )
            return path.read_text(encoding="utf-8")

        trial.run(
            f"report of {shown(text)}",
            call,
            lambda page: _whole_page(page),
        )


def _whole_page(page: str) -> None:
    assert page.count("</script>") == 3
    data = page.split('id="data">')[1].split("</script>")[0]
    json.loads(data)
