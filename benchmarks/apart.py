"""Jobs in processes of their own: what they take, and what becomes of them if they are killed."""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from clvq_lens.training.memory import process_bytes

_POLL_S = 0.02

Job = Callable[..., dict[str, Any]]
"""A function of a module, which gives what JSON can say."""


@dataclass(frozen=True)
class Taken:
    """What a job took.

    Attributes:
        wall_s: Seconds, with the start of its process.
        memory_bytes: Memory of the process at its peak, files that are mapped into it not counted.
        result: What it returned.
    """

    wall_s: float
    memory_bytes: int
    result: dict[str, Any]


def taken(job: Job, *arguments: object) -> Taken:
    """What a job takes that runs to its end.

    Raises:
        RuntimeError: If it does not.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        started, most = time.monotonic(), 0
        process = begun(job, *arguments, answer=answer)
        while process.is_alive():
            most = max(most, process_bytes(process.pid or 0))
            process.join(_POLL_S)
        wall_s = time.monotonic() - started
        if process.exitcode != 0:
            raise RuntimeError(f"{job.__name__}{arguments} ended with code {process.exitcode}")
        return Taken(wall_s, most, json.loads(answer.read_text()))


def begun(job: Job, *arguments: object, answer: Path) -> BaseProcess:
    """The process of a job, which writes what the job returns into a file."""
    context = multiprocessing.get_context("spawn")  # a copy of this one would have its memory, too
    process = context.Process(target=_run, args=(job, arguments, answer))
    process.start()
    return process


def _run(job: Job, arguments: tuple[object, ...], answer: Path) -> None:
    answer.write_text(json.dumps(job(*arguments)))
