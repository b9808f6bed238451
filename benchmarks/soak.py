"""Kills long work again and again, and checks that nothing is lost: ``python -m benchmarks.soak``.

Jobs are started, killed with SIGKILL at random moments, and started again with the same command
until they end. Then their files are compared, bit by bit, with those of a job that nobody killed.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

import clvq_lens as cl
from benchmarks import markdown

RESULTS = Path(__file__).parent / "results" / "soak.md"
_FIT = "fit --model toy --source 1 --target 3 --n-codes 64 --seed 1"
_N_TOKENS = 150_000  # of a fit
_CHECKPOINTS = "--checkpoint-every 0.5 --overwrite"
_CACHE = "cache --model toy --point 1 --point 3"
_SEED = 7


@dataclass(frozen=True)
class Job:
    """Work that is killed.

    Attributes:
        name: What it is.
        command: Its command in a folder of its own, given the folder of what all jobs share.
        digest: Digest of what it leaves in its folder.
    """

    name: str
    command: Callable[[Path, Path], list[str]]
    digest: Callable[[Path], str]


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: Name of the job.
        n_killed: How often it was killed.
        wall_s: Seconds from its first start to its end.
        same: Whether it left the same bits as one that nobody killed.
        message: What it said if it failed.
    """

    job: str
    n_killed: int
    wall_s: float
    same: bool
    message: str = ""


# ---- jobs ----------------------------------------------------------------------------------------


def _module(words: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "clvq_lens", *words.split(), *map(str, arguments)]


def _fit(data: str, decoder: str, n_tokens: int) -> Callable[[Path, Path], list[str]]:
    """A fit that goes on if there is something to go on with."""

    def command(folder: Path, shared: Path) -> list[str]:
        checkpoints = folder / "checkpoints"
        resume = ["--resume"] if any(checkpoints.glob("checkpoint-*")) else []
        return [
            *_module(f"{_FIT} --n-tokens {n_tokens} --decoder {decoder} {_CHECKPOINTS}"),
            *("--data", str(shared / data), "--out", str(folder / "out")),
            *("--checkpoint", str(checkpoints), *resume),
        ]

    return command


def _fit_together(n_tokens: int) -> Callable[[Path, Path], list[str]]:
    """The same in two processes."""

    def command(folder: Path, shared: Path) -> list[str]:
        alone = _fit("store", "table", n_tokens)(folder, shared)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*torchrun, "--nproc-per-node", "2", *alone[1:]]

    return command


def _cache(folder: Path, shared: Path) -> list[str]:
    """Small shards, so that some are there when it is killed."""
    script = (
        "import sys; import clvq_lens as cl; cl.cache_activations(cl.toy.load(n_texts=1).model, "
        "sys.argv[1], sys.argv[2], points=[1, 3], shard_bytes=2**17)"
    )
    return [sys.executable, "-c", script, str(shared / "texts.txt"), str(folder / "out")]


def _report(folder: Path, shared: Path) -> list[str]:
    return _module("report", shared / "fitted", "--out", folder / "report.html", "--overwrite")


def _save(folder: Path, shared: Path) -> list[str]:
    """Two quantizers by turns in one place, the second one last."""
    script = (
        "import sys; import clvq_lens as cl; model = cl.toy.load(n_texts=1).model\n"
        "one = model.add_clvq(quantizer=cl.load(sys.argv[1]), name='one')\n"
        "two = model.add_clvq(quantizer=cl.load(sys.argv[1]), name='two')\n"
        "for _ in range(200): one.save(sys.argv[2]); two.save(sys.argv[2])"
    )
    return [sys.executable, "-c", script, str(shared / "fitted"), str(folder / "out")]


def _digest(*patterns: str) -> Callable[[Path], str]:
    """Digest of the files of a folder whose names match."""

    def digest(folder: Path) -> str:
        total = hashlib.blake2b(digest_size=8)
        paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
        if not paths:
            return "nothing"
        for path in paths:
            total.update(path.name.encode() + path.read_bytes())
        return total.hexdigest()

    return digest


_QUANTIZER = _digest("out/*.safetensors", "out/evaluation.csv")


def jobs(n_tokens: int = _N_TOKENS) -> tuple[Job, ...]:
    """All that is killed; a fit is trained on so many tokens."""
    return (
        Job("fit from texts, transformer", _fit("texts.txt", "transformer", n_tokens), _QUANTIZER),
        Job("fit from texts, table", _fit("texts.txt", "table", n_tokens), _QUANTIZER),
        Job("fit from a store", _fit("store", "transformer", n_tokens), _QUANTIZER),
        Job("fit in two processes", _fit_together(n_tokens), _QUANTIZER),
        Job("cache", _cache, _digest("out/shard-*")),
        Job("save", _save, _digest("out/*.safetensors", "out/config.json")),
        Job("report", _report, _digest("report.html")),
    )


# ---- killing -------------------------------------------------------------------------------------


def _start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """A job, whose output goes to a file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def _kill(pid: int) -> None:
    """Kills a process and all that it has started; torchrun gives its own a session of theirs."""
    started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    for child in map(int, started):
        with suppress(OSError):  # gone by itself
            _kill(child)


def _undisturbed(job: Job, folder: Path, shared: Path) -> tuple[str, float]:
    """What a job leaves that nobody kills, and how long it takes."""
    folder.mkdir()
    log = folder / "log.txt"
    started = time.monotonic()
    if _start(job.command(folder, shared), log).wait() != 0:
        raise RuntimeError(f"{job.name} fails undisturbed: {log.read_text()[-2000:]}")
    return job.digest(folder), time.monotonic() - started


def _killed(
    job: Job, folder: Path, shared: Path, expected: str, every_s: float, drawn: random.Random
) -> Outcome:
    """A job that is killed at random moments, ``every_s`` apart on average, until it ends."""
    folder.mkdir()
    log, started, n_killed = folder / "log.txt", time.monotonic(), 0
    while True:
        process = _start(job.command(folder, shared), log)
        try:
            # Later each time, so that every job ends one day.
            code = process.wait(timeout=drawn.uniform(0, 2 * every_s) + 0.5 * n_killed)
            break
        except subprocess.TimeoutExpired:
            _kill(process.pid)
            process.wait()
            n_killed += 1
    same = code == 0 and job.digest(folder) == expected
    message = "" if same else log.read_text()[-2000:]
    return Outcome(job.name, n_killed, time.monotonic() - started, same, message)


def make_shared(folder: Path) -> None:
    """Fills a new folder with what jobs begin with: texts, a fitted quantizer and a store."""
    folder.mkdir(parents=True)
    (folder / "texts.txt").write_text("\n".join(cl.toy.generate(1_500, seed=_SEED)))
    fit = f"{_FIT} --n-tokens {_N_TOKENS} --decoder table"
    for words, out in ((fit, "fitted"), (_CACHE, "store")):
        command = _module(words, "--data", folder / "texts.txt", "--out", folder / out)
        subprocess.run(command, check=True, capture_output=True)


def soak(
    minutes: float, every_s: float | None, folder: Path, shared: Path, jobs: tuple[Job, ...]
) -> list[Outcome]:
    """Kills one job after the other, for some minutes.

    Args:
        minutes: How long, about: a job that was begun is brought to its end.
        every_s: Seconds between two kills, on average; None: half of those that the job takes.
        folder: An empty folder.
        shared: What `make_shared` has filled.
        jobs: The jobs, in turn.
    """
    drawn = random.Random(_SEED)
    expected: dict[str, tuple[str, float]] = {}
    outcomes: list[Outcome] = []
    end = None
    while end is None or time.monotonic() < end:
        job = jobs[len(outcomes) % len(jobs)]
        if job.name not in expected:
            expected[job.name] = _undisturbed(job, folder / f"whole-{len(expected)}", shared)
        end = end or time.monotonic() + 60 * minutes
        place = folder / f"killed-{len(outcomes)}"
        digest, took_s = expected[job.name]
        outcomes.append(_killed(job, place, shared, digest, every_s or took_s / 2, drawn))
        print(json.dumps(asdict(outcomes[-1])), flush=True)
    return outcomes


def summary(outcomes: list[Outcome]) -> str:
    """A Markdown table with a row for each job."""
    rows: list[list[str]] = []
    for job in dict.fromkeys(outcome.job for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.job == job]
        n_killed = sum(outcome.n_killed for outcome in mine)
        n_same = sum(outcome.same for outcome in mine)
        wall_s = sum(outcome.wall_s for outcome in mine)
        rows.append([job, str(len(mine)), str(n_killed), str(n_same), f"{wall_s:.0f} s"])
    titles = ["job", "brought to its end", "killed", "same bits at the end", "time"]
    return markdown.table(titles, "lrrrr", rows)


def main(
    minutes: Annotated[float, typer.Option(help="How long.")] = 30.0,
    every_s: Annotated[float, typer.Option(help="Seconds between two kills, on average.")] = 6.0,
) -> None:
    """Kills long work again and again, and keeps a table of what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        shared, place = Path(folder) / "shared", Path(folder) / "soak"
        make_shared(shared)
        place.mkdir()
        outcomes = soak(minutes, every_s, place, shared, jobs())
    n_killed = sum(outcome.n_killed for outcome in outcomes)
    head = (
        f"# soak\n\n`python -m benchmarks.soak --minutes {minutes:g} --every-s {every_s:g}`: "
        f"{n_killed} kills with SIGKILL at random moments.\n\n"
    )
    RESULTS.write_text(head + summary(outcomes) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    typer.run(main)
